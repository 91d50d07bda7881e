"""NVIDIA's HelpSteer data sets.

helpsteer2            https://huggingface.co/datasets/nvidia/HelpSteer2: prompt, response and scores
                      from 0 to 4; the responses to a prompt follow each other. Every pair of them
                      with unlike `helpfulness` is a preference. HelpSteer (1) is the same with four
                      responses.
helpsteer2_preference the same card, folder preference: response_1, response_2, and
                      `preference_strength` from -3 (1 is much better) to 3 (2 is).
helpsteer3            https://huggingface.co/datasets/nvidia/HelpSteer3: context (messages),
                      response1, response2, `overall_preference` as above, and
                      `individual_preference`, the scores of up to three annotators.

A prompt of HelpSteer2 is the user's first turn; where it has more, the next ones are in the same
text, each after a line "<extra_id_1>Assistant" or "<extra_id_1>User" (of Nemotron's chat template).

A soft label where single votes are kept (helpsteer3): prob_chosen is the share of annotators on the
side of the overall preference, where a score of 0 counts half. The strength of an overall score is
a distance, not a probability (HelpSteer2-Preference weighs the loss by it: arXiv:2410.01257,
section 4), so the others are hard labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from rlaif.data.formats.base import (
    Converted,
    Fields,
    Format,
    LeftOut,
    Turn,
    assistant,
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

_NEXT_TURN = re.compile(r"\s*<extra_id_1>(User|Assistant)\n")


def turns_of(prompt: str) -> list[Turn]:
    """The turns of a prompt of HelpSteer2.

    >>> turns_of("Hi\\n<extra_id_1>Assistant\\nHello")[1:]
    [{'role': 'assistant', 'content': 'Hello'}]
    """
    first, *others = _NEXT_TURN.split(prompt)
    turns = [user(first)] if first.strip() or not others else []
    for speaker, said in zip(others[::2], others[1::2], strict=True):
        turns.append(user(said) if speaker == "User" else assistant(said))
    return turns


def _helpsteer2(rows: Iterable[tuple[str, Fields]]) -> Iterator[Converted]:
    read = (
        (where, text(f, "prompt", where), needed_number(f, "helpfulness", where),
         text(f, "response", where))
        for where, f in rows
    )  # fmt: skip
    for prompt, group in groupby(read, key=lambda row: row[1]):
        same = list(group)
        answers: list[tuple[float | None, str]] = [(score, reply) for *_, score, reply in same]
        if len(answers) < 2:
            yield LeftOut("a single response")
        for found in ranked_pairs(answers):
            where = same[0][0]
            yield found if isinstance(found, LeftOut) else pair(turns_of(prompt), *found, where)


def _helpsteer2_preference(fields: Fields, where: str) -> Iterator[Converted]:
    first, second = (text(fields, f"response_{place}", where) for place in (1, 2))
    strength = needed_number(fields, "preference_strength", where)
    prompt = turns_of(text(fields, "prompt", where))
    yield _second_is_better(prompt, first, second, strength, where)


def _helpsteer3(fields: Fields, where: str) -> Iterator[Converted]:
    first, second = (text(fields, f"response{place}", where) for place in (1, 2))
    strength = needed_number(fields, "overall_preference", where)
    context = fields.get("context")
    if not isinstance(context, str):
        context = [dict(turn) for turn in objects(context, "context", where)]
    votes = fields.get("individual_preference") or []
    scores = [number(v.get("score")) for v in objects(votes, "individual_preference", where)]
    share = _share_of_second([score for score in scores if score is not None])
    yield _second_is_better(context, first, second, strength, where, share)


def _share_of_second(scores: list[float]) -> float | None:
    """The share of annotators who prefer the second response; None without annotators."""
    if not scores:
        return None
    return sum(0.5 if score == 0 else float(score > 0) for score in scores) / len(scores)


def _second_is_better(
    prompt: Any,
    first: str,
    second: str,
    strength: float,
    where: str,
    share_of_second: float | None = None,
) -> Converted:
    """A pair by a signed strength, over 0 where the second is better; the share is its label."""
    if strength == 0:
        return LeftOut("equal scores")
    if strength < 0:
        share = None if share_of_second is None else 1 - share_of_second
        chosen, rejected = first, second
    else:
        share, chosen, rejected = share_of_second, second, first
    if share is not None and share <= 0.5:
        return LeftOut("annotators divided")
    return pair(prompt, chosen, rejected, where, 1.0 if share is None else share)


HELPSTEER2 = Format(
    recognize=has("prompt", "response", "helpfulness"),
    convert=_helpsteer2,
    columns=frozenset({"prompt", "response", "helpfulness"}),
    url="https://huggingface.co/datasets/nvidia/HelpSteer2",
    prompt=turns_of,
)
HELPSTEER2_PREFERENCE = Format(
    recognize=has("prompt", "response_1", "response_2", "preference_strength"),
    convert=by_row(_helpsteer2_preference),
    columns=frozenset({"prompt", "response_1", "response_2", "preference_strength"}),
    url="https://huggingface.co/datasets/nvidia/HelpSteer2",
    prompt=turns_of,
)
HELPSTEER3 = Format(
    recognize=has("context", "response1", "response2", "overall_preference"),
    convert=by_row(_helpsteer3),
    columns=frozenset(
        {"context", "response1", "response2", "overall_preference", "individual_preference"}
    ),
    url="https://huggingface.co/datasets/nvidia/HelpSteer3",
)
