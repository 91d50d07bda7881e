"""Pairs to compare, made from samples, and the digests that identify them; pure functions.

A hash of the two responses decides which one is called A. So positions carry no meaning, and a
prompt's samples give the same pairs whatever other prompts there are.
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
    """Comparisons to judge, and how many responses were dropped as duplicates of another."""

    comparisons: tuple[Comparison, ...]
    identical: int


def pairs_from_samples(
    samples: Iterable[Sample], *, pairs_per_prompt: int | None = 1, seed: int = 0
) -> Pairs:
    """Up to `pairs_per_prompt` pairs of distinct responses for every prompt; None: all pairs.

    Pairs that share no response come first: 0-1, 2-3, then 0-2, 1-3, ... Responses that differ only
    in leading or trailing white space count as one. A hash of (seed, prompt, texts) decides which
    of the two is called A. Raises RecordError when one prompt id has two conversations.
    """
    by_prompt: dict[str, list[Sample]] = {}
    for sample in samples:
        group = by_prompt.setdefault(sample.prompt.id, [])
        if group and group[0].prompt.messages != sample.prompt.messages:
            raise RecordError(
                f"duplicate prompt id {sample.prompt.id!r}, with two different conversations; "
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
        # i xor j is 1 for 0-1, 2-3, …, then 2 for 0-2, 1-3, …: early pairs share no response.
        responses = list(distinct.values())
        index_pairs = sorted(
            itertools.combinations(range(len(responses)), 2),
            key=lambda pair: (pair[0] ^ pair[1], pair),
        )
        comparisons += [
            _comparison(responses[i], responses[j], seed) for i, j in index_pairs[:pairs_per_prompt]
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
