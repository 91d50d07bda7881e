"""Checks whether a compare text names a criterion: something that a judge can look for in a reply.

    circular-compare   the preference defines itself    "Prefer the reply that people like more."
    vague-compare      praise alone                     "Prefer the better answer."
    bare-quality       a quality and no sign of it      "Prefer the friendly answer."
    not-a-comparison   a statement, not a choice        "The reply is polite."

The first three match only if *every* word of the text is in their lists, so that a single further
word, such as a noun to look for, silences them. What two readers agree on without a sign is not
called a bare quality: "formal", "concise", "correct". Nor is the whole of "helpful, honest and
harmless" (arXiv:2112.00861): the shipped `overall` asks for it, and docs/log.md has how it did.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from constitution.lint.finding import Remark, Severity
from constitution.schema import Principle
from constitution.strict_yaml import Path, shorten


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PRAISE = _words(
    "a acceptable adequate always an and answer answers any appropriate are as bad be best better"
    " between both choose comment comments decent desirable either excellent favor favour fine"
    " generally give good great high higher i ideal if in is it its just more most must never nice"
    " of ok okay one only optimal or other overall pick poor possible prefer preferable preferred"
    " proper quality rather really reasonable replies reply response responses right satisfactory"
    " select should simply strong stronger strongest suitable superior text than that the these"
    " this to two very well which whichever who winner wins with worse worst"
)
_PEOPLE = _words(
    "anybody anyone assistant author customer customers everybody everyone evaluator expert experts"
    " human humans judge judges most people person persons rater raters reader readers somebody"
    " someone they user users we you your"
)
_WISHES = _words(
    "appreciate appreciates chooses enjoy enjoys favors favours find finds finding like likes love"
    " loves picks prefers rank ranks rate rates selects value values want wants would highly"
)
_CHOICES = _words("choose favor favour pick prefer select")
_RULES = _words(
    "constitution constitutions criteria criterion expectations guideline guidelines principle"
    " principles requirement requirements rule rules standard standards"
)
_FOLLOWS = _words(
    "above according adheres agrees all closely complies conforms expected follows following"
    " fulfills fulfils given matches meets my obeys our respects satisfies stated these those"
)
_MANNER = _words(  # what may stand beside a quality without saying what shows it
    "amount answered at being but by clearly completion completions conveys degree"
    " demonstrates displays each especially every explanation explanations expresses extremely"
    " feels for from has have having highly in instead language least less level looks"
    " maintains manner me message messages much output outputs over phrased quite reads"
    " remains responds review reviews seems show shows so sounding sounds speaks stays style"
    " summaries summary their them then tone too toward towards translation translations truly"
    " use uses using version versions voice way worded wording written yet"
)
_SIGNS = {  # what shows a quality in a reply -> words for the quality
    "answers the question and names a next step": (
        "beneficial constructive cooperative helpful helpfully helpfulness supportive unhelpful"
        " useful usefulness useless valuable"
    ),
    "greets the person, or thanks them for what they did": (
        "amiable approachable cheerful cordial friendlier friendliest friendliness friendly kind"
        " kinder kindest kindly kindness likable likeable nicer nicest pleasant unfriendly unkind"
        " warm warmer warmest warmly warmth welcoming"
    ),
    "makes its point without mockery, blame or orders": (
        "civil considerate courteous courtesy disrespectful gracious impolite polite politely"
        " politeness politer politest respect respectful respectfully rude ruder tactful"
    ),
    "names what the person feels before it gives advice": (
        "attentive caring compassion compassionate empathetic empathic empathy patient sensitive"
        " sympathetic thoughtful understanding"
    ),
    "explains each technical word that it uses": (
        "clarity clear clearer clearest coherent comprehensible confusing legible lucid readable"
        " unclear understandable"
    ),
    "says what it does not know": (
        "authentic credible dishonest genuine honest honestly honesty reliable sincere transparent"
        " trustworthy truthful"
    ),
    "warns of the danger before it explains the task": (
        "dangerous ethical ethically harmful harmless harmlessness moral responsible safe safer"
        " safest safety unethical unsafe"
    ),
    "uses full sentences and no slang": (
        "competent elegant mature polished professional professionalism professionally"
        " sophisticated unprofessional"
    ),
    "adds an example that the other reply lacks": (
        "boring creative creatively creativity engaging entertaining exciting fun imaginative"
        " inspiring interesting lively original vivid"
    ),
    "gives the reasons of both sides": "balanced biased fair fairer impartial neutral unbiased",
    "gives a reason for each claim": (
        "clever compelling convincing informative insightful intelligent knowledgeable persuasive"
        " smart smarter wise wiser"
    ),
    "keeps to the subject of the question": "focused irrelevant relevance relevant",
    "reads as a person would say it aloud": "fluent humanlike natural naturally unnatural",
}
_SIGN_OF = {word: sign for sign, words in _SIGNS.items() for word in words.split()}

_QUALITIES = frozenset(_SIGN_OF)

_VAGUE = _PRAISE | _PEOPLE | _words("for")
_QUALIFIED = _PRAISE | _PEOPLE | _MANNER | _QUALITIES
_CIRCULAR_BY_WISH = _PRAISE | _PEOPLE | _WISHES
_CIRCULAR_BY_RULE = _PRAISE | _RULES | _FOLLOWS
_HELPFUL_HONEST_HARMLESS = _words("helpful honest harmless")

_ENGLISH = re.compile(r"\b(?:the|is|are|be|of|to|and|that|must|should|reply)\b", re.IGNORECASE)
_COMPARES = re.compile(
    r"\b(?:prefer\w*|cho(?:ose|ice)\w*|pick\w*|select\w*|favou?r\w*|which|whichever|rather|rank\w*"
    r"|compar\w*|more|less|fewer|least|most|better|best|worse|worst|over|wins?|loses?|beats?"
    r"|reward\w*|penali[sz]e\w*|higher|lower|value\w*|than)\b",
    re.IGNORECASE,
)


def remarks(principle: Principle, text: str, path: Path) -> Iterator[Remark]:
    """At most one remark on the substance of a compare text; in `text`, quotes are blanked out."""
    in_order = re.findall(r"\w+", text.casefold())
    words = frozenset(in_order)
    subject, shown = f"the compare text of '{principle.id}'", f"'{shorten(principle.compare, 60)}'"
    # From the emptiest text to the fullest: praise alone is no quality, nor is a wish.
    if why := _why_circular(in_order, words):
        yield Remark(
            Severity.WARNING,
            "circular-compare",
            path,
            f"{subject} goes in a circle: {shown} ({why})",
            "name what is in the preferred reply: 'Prefer the reply that names a next step.'",
        )
    elif words <= _VAGUE:
        yield Remark(
            Severity.WARNING,
            "vague-compare",
            path,
            f"{subject} names nothing that a judge can look for: {shown}",
            "say what the preferred reply does, such as 'names a concrete next step'",
        )
    elif _ENGLISH.search(text) and not _COMPARES.search(text):
        yield Remark(
            Severity.WARNING,
            "not-a-comparison",
            path,
            f"{subject} does not compare two replies: {shown}",
            "write it as 'Prefer the reply that …'",
        )
    elif quality := _bare_quality(in_order, words):
        yield Remark(
            Severity.ADVICE,
            "bare-quality",
            path,
            f"'{principle.id}' names the quality '{quality}' and nothing that shows it, so that "
            "two readers may decide differently",
            f"say what shows it, for example: 'Prefer the reply that {_SIGN_OF[quality]}.'",
            quality,
        )


def _why_circular(in_order: list[str], words: frozenset[str]) -> str:
    """How the text refers back to the preference it should define; "" if it does not."""
    choices = sum(map(in_order.count, words & _CHOICES))
    wished = words & _WISHES or choices > 1
    if words <= _CIRCULAR_BY_WISH and words & _PEOPLE and wished:
        return "which reply is preferred is what the judge is asked"
    if words <= _CIRCULAR_BY_RULE and words & _RULES:
        return "the judge reads this text and no other rules"
    return ""


def _bare_quality(in_order: list[str], words: frozenset[str]) -> str:
    """The first quality of a text that names nothing but qualities; "" for other texts."""
    qualities = words & _QUALITIES
    if not qualities or not words <= _QUALIFIED or qualities >= _HELPFUL_HONEST_HARMLESS:
        return ""
    return next(word for word in in_order if word in qualities)
