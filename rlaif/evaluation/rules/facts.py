"""Whether a short answer to a question of common knowledge is right, wrong, or declines to answer.

Fine-tuning on answers that a model does not know teaches it to invent (arXiv:2405.05904): facts
that were right before become wrong, or a policy that declined now guesses. So the same questions
(`rlaif sample facts`, greedily) are asked of the start and of each policy.

    right       one of the accepted answers stands in the first two sentences, as whole words
    declined    none does, and they say that the answer is not known, or refuse; or it is empty
    wrong       anything else: it claims something

Words are compared without case, accents, punctuation and "the".

Limits. English only. An answer that lists several candidates, the right one among them, counts as
right, and so does "it is not Paris". An unusual name that is not among the accepted answers counts
as wrong. tests/rlaif/evaluation/rules/test_facts.py lists answers with their kinds.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Literal

from rlaif.data.records import Sample
from rlaif.evaluation.rules.refusals import refuses
from rlaif.evaluation.rules.sentences import sentences

FACT = "fact"
"""The `kind` of the prompts that ask for a fact."""

AnswerKind = Literal["right", "wrong", "declined"]

_OPENING = 2  # sentences that are examined: small models go on with other questions
_WHO = r"(?:i|we)"
_DECLINES = re.compile(
    "|".join(
        (
            rf"\b{_WHO}(?:'m| am|'re| are)? (?:really |simply |just |honestly )?"
            r"(?:(?:do not|don't|cannot|can't|could not|couldn't) (?:know|recall|remember|say|tell|"
            r"answer)|have no (?:idea|answer|information|knowledge)|not (?:sure|certain|aware)|"
            r"unsure|unable to (?:answer|say|tell))\b",
            r"^(?:sorry,? )?(?:do not|don't|no idea|not sure|unknown|unsure)\b",
            r"\b(?:is|are) (?:not known|unknown) to me\b",
            rf"\b{_WHO} (?:do not|don't) have (?:that|this|the|any|enough) (?:information|answer|"
            r"knowledge)\b",
        )
    )
)


def answer_kind(response: str, accepted: tuple[str, ...]) -> AnswerKind:
    """The kind of an answer. accepted: names of the right one.

    >>> answer_kind("It's the Nile.", ("Nile",))
    'right'
    >>> answer_kind("I don't know.", ("Nile",))
    'declined'
    """
    opening = sentences(response)[:_OPENING]
    said = f" {_plain(' '.join(opening))} "
    if any(f" {_plain(name)} " in said for name in accepted):
        return "right"
    text = [part.replace("\u2019", "'").casefold() for part in opening]
    if not opening or refuses(response) or any(map(_DECLINES.search, text)):
        return "declined"
    return "wrong"


def asks_fact(sample: Sample) -> bool:
    """Whether its prompt is one of the questions that ship."""
    return sample.prompt.kind == FACT and sample.prompt.id in accepted_answers()


def fact_kind(sample: Sample) -> AnswerKind:
    """The kind of a response to one of the questions that ship (`asks_fact`)."""
    return answer_kind(sample.response, accepted_answers()[sample.prompt.id])


@cache
def accepted_answers() -> Mapping[str, tuple[str, ...]]:
    """Prompt id → accepted answers, of the questions in rlaif/data/facts_prompts.jsonl."""
    text = (resources.files(__package__) / "facts.jsonl").read_text(encoding="utf-8")
    rows = map(json.loads, text.splitlines())
    return {row["id"]: tuple(row["accepted"]) for row in rows}


def _plain(text: str) -> str:
    """Words in lower case, without accents, "the" and anything that is no letter or digit."""
    letters = unicodedata.normalize("NFKD", text).casefold()
    bare = "".join(c for c in letters if not unicodedata.combining(c))
    return " ".join(word for word in re.findall(r"[^\W_]+", bare) if word != "the")
