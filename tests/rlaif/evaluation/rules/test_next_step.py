"""Replies of customer support, labeled by hand: does the reply name a concrete next step?

The lines were written and labeled before the rule was run on them, but by the rule's author. It
agrees with 52 of 56 labels (93 %, 95 % interval 83 to 97); WRONG lists the others, and is kept
exact so that the figure stays true.
"""

import pytest

from constitution import Constitution
from rlaif.evaluation.rules.next_step import names_next_step

NAMED = [
    "I'm sorry that your lamp arrived broken. I have ordered a replacement, which ships tomorrow.",
    "Sorry about that. I've refunded the second charge; it will be on your card within three days.",
    "I am sorry. I will call the depot now and write to you by noon.",
    "Please reply with your order number, and I will look up where the parcel is.",
    "You can reset it under Settings > Security.",
    "Open the app, tap Profile, and choose Cancel subscription.",
    "Our technician will come on Monday between 8 and 10.",
    "I have cancelled the booking. You will receive the refund in 5 to 7 business days.",
    "Please send a photo of the damage to support@example.com.",
    "The 42 goes out today with a label to send the 38 back for free.",
    "Restart the router, wait two minutes, and try again.",
    "Could you give us the tracking number on your receipt?",
    "Call 0800 123 456 and ask for the billing team.",
    "We'll credit $12 to your account.",
    "Your parcel left Hamburg this morning and should arrive on Thursday.",
    "I've passed this to our billing team, who will email you by the end of the day.",
    "To return it, print the label from your account page and drop it at any post office.",
    "I'm transferring you to a colleague who can unlock it; it takes about 5 minutes.",
    "The first appointment tomorrow, at eight, is yours if you want it.",
    "I've raised ticket 4711 with the engineers.",
    "Click the link in the e-mail that we just sent you.",
    "Hold the power button for ten seconds.",
    "Your subscription ends on 3 March, and nothing will be charged after that.",
    "If it is not there by Friday, reply to this message and we will send a new one.",
    "Please contact our customer service team through the chat on our website.",
    "Check your spam folder for a message from billing.",
    "Plug the cable into the grey box.",
    "Take it to the shop where you bought it.",
]  # fmt: skip
NOT_NAMED = [
    "",
    "We're sorry for the inconvenience. Someone will look into it.",
    "Thank you so much for reaching out to us about this. We take billing matters seriously.",
    "Rest assured that your case is important to us and will be handled in due course.",
    "I understand how frustrating this must be.",
    "I'm sorry to hear that your order hasn't arrived yet. We will do our best to help you.",
    "We apologize for the delay and appreciate your patience.",
    "Traffic has been difficult this week and technicians are often delayed.",
    "I'm here to help! What can I do for you?",
    "It sounds like you're having trouble with your subscription.",
    "We will get back to you as soon as possible.",
    "Your feedback helps us to improve.",
    "Our warehouse system is automatic and very rarely makes errors.",
    "Many customers choose the wrong size by accident.",
    "I am sorry that you waited nine days. That is far too long.",
    "We have been in business for 20 years and value every customer.",
    "Thank you for your email.",
    "I'd be happy to assist you with that.",
    "I hope this resolves your issue soon.",
    "As an AI, I don't have access to your account.",
    "There are many reasons why an internet connection may be slow.",
    "Please accept our sincere apologies for any trouble this has caused.",
    "You should contact the company.",
    "Please be patient while we work on it.",
    "I will make sure that this doesn't happen again.",
    "The delivery was delayed by 3 days because of the weather.",
    "I am writing to say how sorry we are about your two lost bags.",
    "We are reviewing our process, as 5 customers have told us the same.",
]
WRONG = {
    "Plug the cable into the grey box.",
    "Take it to the shop where you bought it.",
    "The first appointment tomorrow, at eight, is yours if you want it.",
    "We are reviewing our process, as 5 customers have told us the same.",
}


@pytest.mark.parametrize("reply", [line for line in NAMED if line not in WRONG])
def test_a_concrete_next_step_is_found(reply):
    assert names_next_step(reply)


@pytest.mark.parametrize("reply", [line for line in NOT_NAMED if line not in WRONG])
def test_thanks_apologies_and_vague_promises_are_no_step(reply):
    assert not names_next_step(reply)


def test_the_rule_is_wrong_on_the_listed_replies_and_on_no_other():
    wrong = {line for line in NAMED if not names_next_step(line)}
    wrong |= {line for line in NOT_NAMED if names_next_step(line)}
    assert wrong == WRONG


def test_it_agrees_with_the_examples_of_the_shipped_constitution():
    support = Constitution.load("customer_support")
    (principle,) = [p for p in support.principles if p.id == "concrete-next-step"]
    for example in principle.examples:
        better, worse = example.response_a, example.response_b
        if example.preferred == "B":
            better, worse = worse, better
        assert (names_next_step(better), names_next_step(worse)) == (True, False)
