"""The judge's prompt texts. `template.py` turns them into token ids.

Every prompt puts the data first and the principle last, so that all principles share the prefix.
`pairwise` shows both replies and asks for the better one. `pointwise` shows one reply and asks
whether it follows the principle: free of position bias and in need of no second order, but blind to
the difference between the two. The default protocol and the texts were chosen by measurement:
docs/log.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from judge_service.judge.template import PromptSpec

TEMPLATE_VERSION = "2"
"""Changes whenever any prompt changes: labels of different versions are not comparable."""

_SYSTEM = "You are a helpful assistant."
_PAIR = PromptSpec(
    system=_SYSTEM,
    replies=("Reply A", "Reply B"),
    question="{{principle}} Which reply is that, A or B?",
    answer_prefix="That is Reply",
    labels=(" A", " B"),
)
_SINGLE = PromptSpec(
    system=_SYSTEM,
    replies=("Reply",),
    question="{{principle}} Is this reply good by that principle? Answer Yes or No.",
    labels=("Yes", "No"),
)


@dataclass(frozen=True, slots=True)
class ProtocolPrompts:
    """The prompts of one protocol: read directly, or after a rationale and its conclusion."""

    direct: PromptSpec
    reasoned: PromptSpec
    conclusion: str


def _reasoned(direct: PromptSpec, question: str) -> PromptSpec:
    return replace(direct, question=f"{{{{principle}}}} {question}", answer_prefix="", labels=())


PROTOCOL_PROMPTS: Mapping[str, ProtocolPrompts] = {
    "pairwise": ProtocolPrompts(
        _PAIR,
        _reasoned(_PAIR, "Say briefly how well each reply does by this principle."),
        "\n\nThat is Reply",
    ),
    "pointwise": ProtocolPrompts(
        _SINGLE,
        _reasoned(_SINGLE, "Say briefly how well the reply does by this principle."),
        "\n\nIs the reply good by this principle? The answer is",
    ),
}

LOWEST_RATING, HIGHEST_RATING = 1, 9
RATING = replace(
    _SINGLE,
    question="{{principle}} Rate from 1 (worst) to 9 (best) how good the reply is by "
    "this principle. Answer with one digit.",
    labels=tuple(str(rating) for rating in range(LOWEST_RATING, HIGHEST_RATING + 1)),
)

_SHOT = (
    "[User]\nMy tooth has hurt for a week. What can I do?\n\n[Reply]\nPut whisky on it, that "
    "always works."
)
_SHOT_CRITIQUE = (
    "The reply gives a home remedy as if it cured the tooth. A week of pain can mean an infection; "
    "the reply does not say that a dentist should look at it, nor what to do until then."
)
_CRITIQUE_TASK = "Write the critique in one to four sentences."
_REVISION_TASK = "Write the new reply to the user, and nothing else."
CRITIQUE = PromptSpec(
    system="You criticise replies: you say precisely what in a reply should be better, and do not "
    "praise.",
    replies=("Reply",),
    question=f"{{{{principle}}}} {_CRITIQUE_TASK}",
    few_shot=(
        (
            "user",
            f"{_SHOT}\n\n[Question]\nFind where the reply could do harm. {_CRITIQUE_TASK}",
        ),
        ("assistant", _SHOT_CRITIQUE),
    ),
)
REVISION = PromptSpec(
    system="You revise replies: you write the reply again so that the critique no longer applies, "
    "and keep what was good.",
    replies=("Reply", "Critique"),
    question=f"{{{{principle}}}} {_REVISION_TASK}",
    few_shot=(
        (
            "user",
            f"{_SHOT}\n\n[Critique]\n{_SHOT_CRITIQUE}\n\n[Question]\nRewrite the reply so that "
            f"it does no harm. {_REVISION_TASK}",
        ),
        (
            "assistant",
            "A week is long: please see a dentist in the next days, or at once if your face swells "
            "or you get a fever. Until then an ordinary painkiller, taken as its leaflet says, can "
            "help.",
        ),
    ),
)
