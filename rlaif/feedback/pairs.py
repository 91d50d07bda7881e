"""Pairs to compare, made from samples, and the digests that identify them; pure functions.

A hash of the two responses decides which one is called A. So positions carry no meaning, and a
prompt's samples give the same pairs whatever other prompts there are.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from constitution.errors import UserError
from constitution.schema import Message, Principle
from judge_service.types import Comparison
from rlaif.data.records import RecordError, Sample


@dataclass(frozen=True, slots=True)
class Pairs:
    """Comparisons to judge, and what was left out of them."""

    comparisons: tuple[Comparison, ...]
    identical: int  # responses dropped as duplicates of another
    unequal: int = 0  # pairs of distinct responses whose lengths differ by more than allowed


def pairs_from_samples(
    samples: Iterable[Sample],
    *,
    pairs_per_prompt: int | None = 1,
    seed: int = 0,
    max_length_ratio: float | None = None,
) -> Pairs:
    """Up to `pairs_per_prompt` pairs of distinct responses for every prompt; None: all pairs.

    Pairs that share no response come first: 0-1, 2-3, then 0-2, 1-3, ... Responses that differ only
    in leading or trailing white space count as one. A hash of (seed, prompt, texts) decides which
    of the two is called A. max_length_ratio: of the longer to the shorter response, in characters;
    pairs above it are not drawn, so that a judge that prefers the longer response decides little;
    None: any. Raises RecordError when one prompt id has two conversations, and UserError for a
    ratio below 1.
    """
    if max_length_ratio is not None and not max_length_ratio >= 1:
        raise UserError(
            f"invalid max_length_ratio: {max_length_ratio:g}; give 1 (equal lengths) or more"
        )
    groups, identical = _distinct(samples)
    comparisons: list[Comparison] = []
    unequal = 0
    for responses in groups:
        # i xor j is 1 for 0-1, 2-3, …, then 2 for 0-2, 1-3, …: early pairs share no response.
        index_pairs = sorted(
            itertools.combinations(range(len(responses)), 2),
            key=lambda pair: (pair[0] ^ pair[1], pair),
        )
        if max_length_ratio is not None:
            possible = len(index_pairs)
            index_pairs = [
                (i, j)
                for i, j in index_pairs
                if _length_ratio(responses[i], responses[j]) <= max_length_ratio
            ]
            unequal += possible - len(index_pairs)
        comparisons += [
            _comparison(responses[i], responses[j], seed) for i, j in index_pairs[:pairs_per_prompt]
        ]
    return Pairs(tuple(comparisons), identical, unequal)


def circle_pairs(samples: Iterable[Sample], *, seed: int = 0) -> Pairs:
    """Each distinct response to a prompt with the next one, and the last with the first: n pairs of
    n responses, one of two. Raises RecordError as `pairs_from_samples`."""
    groups, identical = _distinct(samples)
    return Pairs(
        tuple(
            _comparison(responses[i], responses[j], seed)
            for responses in groups
            for i, j in _circle(len(responses))
        ),
        identical,
    )


def extreme_pairs(
    samples: Iterable[Sample], probs: Mapping[str, float | None], *, seed: int = 0
) -> tuple[Comparison, ...]:
    """For every prompt the best response with the worst, by what a judge says of `circle_pairs`.

    probs: pair id → P(A is better), None where it gave no label. A response's points are the mean
    of its probabilities against its two neighbors; the first of equal ones counts. A prompt without
    two responses that have points has no pair.
    """
    found = []
    for responses in _distinct(samples)[0]:
        points: dict[int, list[float]] = {}
        for i, j in _circle(len(responses)):
            pair = _comparison(responses[i], responses[j], seed)
            prob = probs.get(pair.id)
            if prob is not None:
                first = prob if pair.response_a == responses[i].response else 1.0 - prob
                points.setdefault(i, []).append(first)
                points.setdefault(j, []).append(1.0 - first)
        if len(points) > 1:
            mean = {place: fmean(points[place]) for place in sorted(points)}
            best = max(mean, key=mean.__getitem__)
            worst = min((place for place in mean if place != best), key=mean.__getitem__)
            i, j = sorted((best, worst))
            found.append(_comparison(responses[i], responses[j], seed))
    return tuple(found)


def _circle(responses: int) -> list[tuple[int, int]]:
    """Places of neighbors around a circle, the lower one first, each pair once."""
    around = ((place, (place + 1) % responses) for place in range(responses))
    return list(dict.fromkeys((min(each), max(each)) for each in around if each[0] != each[1]))


def _distinct(samples: Iterable[Sample]) -> tuple[list[list[Sample]], int]:
    """(the distinct responses to each prompt by their index, how many were equal to another)."""
    by_prompt: dict[str, list[Sample]] = {}
    for sample in samples:
        group = by_prompt.setdefault(sample.prompt.id, [])
        if group and group[0].prompt.messages != sample.prompt.messages:
            raise RecordError(
                f"duplicate prompt id {sample.prompt.id!r}, with two different conversations; "
                "give each prompt its own id"
            )
        group.append(sample)

    groups = []
    for group in by_prompt.values():
        distinct: dict[str, Sample] = {}
        for sample in sorted(group, key=lambda s: s.index):
            distinct.setdefault(sample.response.strip(), sample)
        groups.append(list(distinct.values()))
    return groups, sum(map(len, by_prompt.values())) - sum(map(len, groups))


def within_reads(
    pairs: Sequence[Comparison],
    principles: Sequence[Principle],
    budget: int,
    sample_principles: int | None = None,
) -> tuple[Comparison, ...]:
    """The pairs, in their order, that a budget of reads lets a judge compare.

    A pair takes `reads_of` reads. Pairs are taken in the order of a digest of their ids, which is
    random to their content, until the next one would go over the budget. Raises UserError where
    that is the first.
    """
    kept: set[str] = set()
    left = budget
    for pair in sorted(pairs, key=lambda pair: digest(pair.id)):
        reads = reads_of(pair.conversation, principles, sample_principles)
        if reads > left:
            break
        kept.add(pair.id)
        left -= reads
    if pairs and not kept:
        raise UserError(
            f"budget_reads={budget} is less than the {reads} reads of one pair; raise it, or lower "
            "sample_principles"
        )
    return tuple(pair for pair in pairs if pair.id in kept)


def reads_of(
    conversation: Sequence[Message],
    principles: Sequence[Principle],
    sample_principles: int | None = None,
) -> int:
    """Reads that comparing two responses takes: every principle that applies, or those sampled, in
    both orders."""
    applying = sum(principle.applies_to(conversation) for principle in principles)
    return 2 * min(applying, sample_principles or applying)


def _length_ratio(one: Sample, other: Sample) -> float:
    """Characters of the longer response to those of the shorter, which counts as at least 1."""
    shorter, longer = sorted(len(sample.response.strip()) for sample in (one, other))
    return longer / max(1, shorter)


def _comparison(one: Sample, other: Sample, seed: int) -> Comparison:
    coin = digest([seed, one.prompt.id, one.response, other.response])
    a, b = (one, other) if int(coin, 16) % 2 == 0 else (other, one)
    return Comparison(
        id=f"{one.prompt.id}/{one.index}-{other.index}",
        conversation=one.prompt.messages,
        response_a=a.response,
        response_b=b.response,
        complete_a=a.complete,
        complete_b=b.complete,
        end_token_a=a.end_token,
        end_token_b=b.end_token,
    )


def same_question(one: Comparison, other: Comparison) -> bool:
    """Whether a judge reads the same: how the responses ended is not shown to it."""
    texts = (one.id, one.conversation, one.response_a, one.response_b)
    return texts == (other.id, other.conversation, other.response_a, other.response_b)


def digest(value: Any) -> str:
    """sha256 (hex) of a JSON value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
