"""Samples become pairs to compare, and what names a pair: pure.

Which of two responses is called A is decided by a hash of what they are, so no place carries a
meaning, and the same samples give the same pairs whatever stands beside them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from judge_service.types import Comparison
from rlaif.data.records import RecordError, Sample


@dataclass(frozen=True, slots=True)
class Pairs:
    """Comparisons to ask for, and how many responses were left out as repeats of another."""

    comparisons: tuple[Comparison, ...]
    identical: int


def pairs_from_samples(
    samples: Iterable[Sample], *, pairs_per_prompt: int | None = 1, seed: int = 0
) -> Pairs:
    """The first pairs of distinct responses of every prompt, those first that share no response
    (0-1, 2-3, then 0-2, 1-3, ...); None: all pairs.

    Responses that differ in nothing but white space at the ends are one response. Which of the two
    is called A is decided by a hash of (seed, prompt, texts), so no place carries a meaning.
    Raises RecordError when one prompt id stands for two conversations.
    """
    by_prompt: dict[str, list[Sample]] = {}
    for sample in samples:
        group = by_prompt.setdefault(sample.prompt.id, [])
        if group and group[0].prompt.messages != sample.prompt.messages:
            raise RecordError(
                f"prompt id {sample.prompt.id!r} stands for two different conversations; "
                "give each prompt its own id"
            )
        group.append(sample)

    comparisons: list[Comparison] = []
    identical = 0
    for group in by_prompt.values():
        distinct: dict[str, Sample] = {}
        for sample in sorted(group, key=lambda s: s.index):
            distinct.setdefault(sample.response.strip(), sample)
        identical += len(group) - len(distinct)
        several = list(distinct.values())
        places = sorted(
            itertools.combinations(range(len(several)), 2),
            key=lambda pair: (pair[0] ^ pair[1], pair),
        )
        comparisons += [
            _comparison(several[i], several[j], seed) for i, j in places[:pairs_per_prompt]
        ]
    return Pairs(tuple(comparisons), identical)


def _comparison(one: Sample, other: Sample, seed: int) -> Comparison:
    coin = digest([seed, one.prompt.id, one.response, other.response])
    a, b = (one, other) if int(coin, 16) % 2 == 0 else (other, one)
    return Comparison(
        id=f"{one.prompt.id}/{one.index}-{other.index}",
        conversation=one.prompt.messages,
        response_a=a.response,
        response_b=b.response,
    )


def digest(value: Any) -> str:
    """sha256 (hex) of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
