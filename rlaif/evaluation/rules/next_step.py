"""Whether a reply of customer support names a concrete next step, by regular expressions.

A reply does if one of its sentences has both

    an action   "I have refunded ...", "our depot will call ...", "it ships ...", "please reply ..."
    a detail    when (by noon, Thursday, within three days), where (by email, in your account
                settings, the link below) or which (an order number, an amount, any other number)

so that the customer knows what happens next, or what to do. Thanks, apologies and promises without
a detail ("someone will look into it shortly") are none.

Limits. English only. The rule sees words, not truth: an invented telephone number is a detail. It
misses details of other kinds ("plug the cable into the grey box"), and is fooled by a number that
has nothing to do with the action. tests/rlaif/evaluation/rules/test_next_step.py has its accuracy
on replies that were labeled by hand, and lists those that it gets wrong.
"""

from __future__ import annotations

import re

from rlaif.evaluation.rules.sentences import sentences

SUPPORT = "support"
"""The `kind` of prompts whose replies should name a next step."""

# ── the action ───────────────────────────────────────────────────────────────────────────────

_DOES = (
    r"(?:call|e-?mail|send|refund|replace|order|ship|book|cancel|credit|reset|transfer|escalate|"
    r"open|raise|arrange|schedule|reply|write|contact|phone|text|post|mail|return|extend|waive|"
    r"remove|add|fix|forward|assign|pass|switch|move|pay|re-?issue|re-?send|update|file|check|"
    r"block|unlock|change|correct|reverse|issue|deliver|collect|pick|come|get back|look|process|"
    r"upgrade|repair|restart|restore|report|ask|speak|put|set)"
)
_DONE = (
    r"(?:called|e-?mailed|sent|refunded|replaced|ordered|shipped|booked|cancell?ed|credited|reset|"
    r"transferred|escalated|opened|raised|arranged|scheduled|written|contacted|phoned|texted|"
    r"posted|mailed|returned|extended|waived|removed|added|fixed|forwarded|assigned|passed|"
    r"switched|moved|paid|re-?issued|re-?sent|updated|filed|checked|blocked|unlocked|changed|"
    r"corrected|reversed|issued|delivered|collected|picked|processed|upgraded|repaired|restarted|"
    r"restored|reported|asked|put|set)"
)
_DOING = r"(?:\w+ing)"
_BETWEEN = r"(?: (?:now|just|already|also|personally|then|both|be|gladly|immediately))*"
_WHO = (
    r"(?:i|we|someone|(?:our|the|a|my|an) (?:[\w-]+ ){0,3}?(?:team|agent|engineer|technician|"
    r"colleague|department|courier|driver|manager|specialist|depot|warehouse|store))"
)
_WHAT = r"(?:it|this|that|they|(?:your|the|a|an|our) (?:[\w-]+ ){0,4}?[\w-]+|[\w-]+)"
_ACTION = re.compile(
    "|".join(
        (
            # somebody does it, or has done it
            rf"\b{_WHO}(?:'ll| will| can|'d be happy to| would be happy to){_BETWEEN} {_DOES}\b",
            rf"\b{_WHO}(?:'m| am|'re| are| is)(?: going to){_BETWEEN} {_DOES}\b",
            rf"\b{_WHO}(?:'ve| have| has){_BETWEEN} {_DONE}\b",
            rf"\b(?:i'm|i am|we're|we are){_BETWEEN} {_DOING}\b",
            # it happens
            rf"\b{_WHAT} (?:will|should|can) (?:be {_DONE}|arrive|reach|ship|leave|be with you|be "
            r"on|be back|start|stop|end)\b",
            rf"\b{_WHAT} (?:has|have) been {_DONE}\b",
            rf"\b{_WHAT} (?:ships|arrives|leaves|reaches you|goes out|is on its way|ends|is yours)",
            r"\byou(?:'ll| will| should){1}(?: \w+)? (?:receive|get|see|have|hear)\b",
            # the customer does it
            r"(?:^|[,;:] |\b(?:then|and|please|just|kindly|simply|first|next|or|you can|you could|"
            r"you need to|you should|could you|can you|would you|to) )(?:please )?"
            r"(?:send|reply|call|e-?mail|click|open|go to|sign (?:in|out)|log (?:in|out|on)|enter|"
            r"visit|reset|restart|unplug|plug|hold|press|tap|select|choose|download|fill|return|"
            r"drop|bring|print|attach|upload|check|text|write|contact|reach|turn|switch|re-?install"
            r"|update|remove|clear|cancel|change|track|forward|give|tell|let (?:me|us) know|wait|"
            r"provide|follow|submit|use|request|copy|install|keep|show)\b",
        )
    )
)

# ── the detail ───────────────────────────────────────────────────────────────────────────────

_NUMBER = (
    r"(?:\d+|an?|one|two|three|four|five|six|seven|eight|nine|ten|twelve|twenty|few|couple of)"
)
_UNIT = r"(?:second|minute|hour|day|week|month)s?\b"
_DETAIL = re.compile(
    "|".join(
        (
            # when
            r"\b(?:today|tonight|tomorrow|noon|midnight|(?:mon|tues|wednes|thurs|fri|satur|sun)day)",
            r"\b(?:this|next) (?:morning|afternoon|evening|week|month)\b",
            r"\bend of (?:the |this )?(?:day|week|month)\b",
            rf"\b{_NUMBER}(?: to \w+| or \w+)? (?:(?:working|business|more) )?{_UNIT}",
            # where
            r"\b(?:by|via|over|through|an?|your|the|this|our) (?:\w+ )?(?:e-?mail|phone|chat|sms|"
            r"app|website|web page|page|portal|link|form|settings|inbox|button|menu|tab|"
            r"helpline|hotline|branch|post office|message|label|receipt)\b",
            r"\b(?:in|under|into|to) (?:your|the) (?:account|profile|settings|dashboard)\b",
            r"\bsettings\b|\bhere\b|@|\bwww\.|https?:",
            # which
            r"\b(?:order|tracking|reference|ticket|case|invoice|booking|serial|phone|customer|"
            r"confirmation|policy|account|model) (?:number|id|code)\b",
            r"\d",
        )
    )
)


def names_next_step(response: str) -> bool:
    """Whether a sentence of the reply has an action and a detail; False for an empty reply.

    >>> names_next_step("Sorry. I have refunded it; it is on your card by Friday.")
    True
    >>> names_next_step("We are sorry for the inconvenience. Someone will look into it.")
    False
    """
    text = response.replace("\u2019", "'").casefold()
    return any(_ACTION.search(each) and _DETAIL.search(each) for each in sentences(text))
