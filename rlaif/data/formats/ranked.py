"""Data sets of several scored or ranked responses to a prompt: every pair of them is a preference.

nectar         https://huggingface.co/datasets/berkeley-nest/Nectar: a transcript as prompt, and
               answers with a rank; rank 1 is the best.
ultrafeedback  https://github.com/OpenBMB/UltraFeedback: instruction, and completions with ratings
               of four aspects. Their mean (`fine-grained_score`) is the score: `overall_score` was
               wrong for 10s in early copies (the repository's fix_overall_score_issue.py corrects
               it by that mean).

Equal scores say nothing, and scores of a response alone document no probability: pairs are hard
labels, and equal ones are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlaif.data.formats.base import (
    Converted,
    Fields,
    Format,
    LeftOut,
    by_row,
    has,
    needed_number,
    number,
    objects,
    ranked_pairs,
    text,
    user,
)
from rlaif.data.formats.comparisons import pair
from rlaif.data.formats.pairs import transcript


def _is_nectar(fields: Fields) -> bool:
    answers = fields.get("answers")
    if not isinstance(answers, list) or not answers or not isinstance(answers[0], Mapping):
        return False
    return "prompt" in fields and {"answer", "rank"} <= answers[0].keys()


def _nectar(fields: Fields, where: str) -> Iterator[Converted]:
    prompt = transcript(text(fields, "prompt", where), "prompt", where)
    answers: list[tuple[float | None, str]] = [
        (-needed_number(answer, "rank", where), text(answer, "answer", where))
        for answer in objects(fields.get("answers"), "answers", where)
    ]
    yield from _pairs(prompt, answers, where)


def _ultrafeedback(fields: Fields, where: str) -> Iterator[Converted]:
    completions = objects(fields.get("completions"), "completions", where)
    answers = [(_mean_rating(each), text(each, "response", where)) for each in completions]
    yield from _pairs([user(text(fields, "instruction", where))], answers, where)


def _mean_rating(completion: Fields) -> float | None:
    """The mean of the ratings of a completion, else its stored mean; None without any ("N/A")."""
    annotations = completion.get("annotations")
    aspects = annotations.values() if isinstance(annotations, Mapping) else ()
    found = (number(each.get("Rating")) for each in aspects if isinstance(each, Mapping))
    ratings = [rating for rating in found if rating is not None]
    return sum(ratings) / len(ratings) if ratings else number(completion.get("fine-grained_score"))


def _pairs(prompt: Any, answers: list[tuple[float | None, str]], where: str) -> Iterator[Converted]:
    if len(answers) < 2:
        yield LeftOut("a single response")
    for found in ranked_pairs(answers):
        yield found if isinstance(found, LeftOut) else pair(prompt, *found, where)


NECTAR = Format(
    recognize=_is_nectar,
    convert=by_row(_nectar),
    columns=frozenset({"prompt", "answers"}),
    url="https://huggingface.co/datasets/berkeley-nest/Nectar",
)
ULTRAFEEDBACK = Format(
    recognize=has("instruction", "completions"),
    convert=by_row(_ultrafeedback),
    columns=frozenset({"instruction", "completions"}),
    url="https://github.com/OpenBMB/UltraFeedback",
)
