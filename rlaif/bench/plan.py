"""What a judge is asked about gold questions, and how many reads that takes. Imports no numpy."""

from __future__ import annotations

import random
from collections.abc import Sequence

from constitution.schema import Constitution
from judge_service.types import Comparison
from rlaif.data.formats.base import content_id
from rlaif.gold_sets.answers import TIES
from rlaif.gold_sets.record import GoldQuestion


def needs_scores(question: GoldQuestion) -> bool:
    """Whether the figure is defined on scores of single responses: RewardBench 2's subset Ties."""
    return question.source == "reward_bench_2" and question.group == TIES


def comparisons(question: GoldQuestion, prefix: str) -> list[Comparison]:
    """A comparison for every (right, wrong) pair; A is the response with the smaller hash, so that
    its name does not depend on which is right."""
    found = []
    for right, wrong in question.pairs:
        texts = (question.responses[right], question.responses[wrong])
        a, b = sorted(texts, key=lambda text: content_id([question.prompt_id, text]))
        found.append(Comparison(f"{prefix}/{right}-{wrong}", question.messages, a, b))
    return found


def count_reads(
    questions: Sequence[GoldQuestion], constitution: Constitution, by_scores: bool
) -> int:
    """How many reads the questions take, if none is known yet."""
    reads = 0
    for question in questions:
        principles = sum(p.applies_to(question.messages) for p in constitution.principles)
        alone = by_scores or needs_scores(question)
        reads += principles * (len(question.responses) if alone else 2 * len(question.pairs))
    return reads


def drawn_places(count: int, wanted: int, seed: int) -> list[int]:
    """A seeded draw of `wanted` of `count` places, in order; all if there are not more."""
    if wanted >= count:
        return list(range(count))
    return sorted(random.Random(seed).sample(range(count), wanted))
