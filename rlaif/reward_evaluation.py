"""What a reward model is worth: held against the judge's labels on pairs it was not trained on.

    Δ = score of chosen - score of rejected,  p = prob_chosen (soft label),  q = sigmoid(Δ)

accuracy       share of pairs with Δ > 0; ½ where Δ = 0; pairs with p = ½ have no right answer
NLL            -mean[p·log q + (1-p)·log(1-q)]; never under the labels' own entropy, its floor
ECE            Σ_bins n_b/n · |mean confidence - mean agreement| (Guo et al., arXiv:1706.04599);
               confidence = max(q, 1-q), agreement = p seen from the side the model is on
length floor   accuracy of "the longer response is better": a model that does not beat it has
               learnt length, and nothing of the constitution
length corr.   Spearman's rank correlation between score and length, over all responses
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import StatisticsError, correlation, fmean

from pydantic import TypeAdapter

from constitution.errors import UserError
from rlaif.intervals import Estimate, by_prompt, share_estimate
from rlaif.records import Preference, write_json


@dataclass(frozen=True, slots=True)
class Bin:
    """Pairs of about equal confidence: what the model said, and how far the judge agreed."""

    confidence: float
    agreement: float
    pairs: int


@dataclass(frozen=True, slots=True)
class RewardEvaluation:
    """None where no pair can tell (every label is ½, or all scores are equal)."""

    pairs: int
    accuracy: Estimate | None
    nll: float  # nats
    label_entropy: float  # nats: the least NLL that any model could have on these labels
    ece: float
    bins: tuple[Bin, ...]
    length_floor: Estimate | None  # lengths in characters
    length_correlation: float | None

    def save(self, path: Path) -> None:
        write_json(path, _EVALUATION.dump_python(self, mode="json"))

    @classmethod
    def load(cls, path: Path) -> RewardEvaluation:
        return _EVALUATION.validate_json(path.read_bytes())


_EVALUATION = TypeAdapter(RewardEvaluation)


def evaluate_reward(
    preferences: Sequence[Preference], chosen: Sequence[float], rejected: Sequence[float]
) -> RewardEvaluation:
    """Scores of the chosen and the rejected responses, one each per preference.

    Raises UserError when there are no preferences, or a score is not a finite number.
    """
    if not preferences:
        raise UserError("no held-out labels to evaluate the reward model on; label some more pairs")
    for preference, *scores in zip(preferences, chosen, rejected, strict=True):
        if not all(map(math.isfinite, scores)):
            raise UserError(
                f"the reward model's scores of pair {preference.id!r} are {scores}: "
                "its training diverged; lower the learning rate and train again"
            )
    gaps = [c - r for c, r in zip(chosen, rejected, strict=True)]
    labels = [preference.prob_chosen for preference in preferences]
    longer = [float(len(p.chosen_text) - len(p.rejected_text)) for p in preferences]
    lengths = [len(p.chosen_text) for p in preferences] + [
        len(p.rejected_text) for p in preferences
    ]
    bins = reliability(gaps, labels)
    return RewardEvaluation(
        pairs=len(preferences),
        accuracy=pair_accuracy(preferences, gaps),
        nll=soft_nll(gaps, labels),
        label_entropy=fmean(map(entropy, labels)),
        ece=expected_calibration_error(bins),
        bins=bins,
        length_floor=pair_accuracy(preferences, longer),
        length_correlation=spearman([*chosen, *rejected], lengths),
    )


def pair_accuracy(preferences: Sequence[Preference], gaps: Sequence[float]) -> Estimate | None:
    """How often the sign of the gap is the judge's, with Wilson's interval over prompts."""
    points = [
        (preference.prompt, _point(gap if preference.prob_chosen > 0.5 else -gap))
        for preference, gap in zip(preferences, gaps, strict=True)
        if preference.prob_chosen != 0.5
    ]
    return share_estimate(by_prompt(points)) if points else None


def _point(gap: float) -> float:
    return 0.5 if gap == 0 else float(gap > 0)


def soft_nll(gaps: Sequence[float], labels: Sequence[float]) -> float:
    """Mean cross-entropy of sigmoid(gap) against soft labels, nats; log 2 where all gaps are 0."""
    return fmean(
        p * _softplus(-gap) + (1 - p) * _softplus(gap) for gap, p in zip(gaps, labels, strict=True)
    )


def _softplus(x: float) -> float:
    """log(1 + e^x) = -log sigmoid(-x), without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def entropy(p: float) -> float:
    """-p·log p - (1-p)·log(1-p), nats."""
    return -sum(x * math.log(x) for x in (p, 1 - p) if x > 0)


def reliability(gaps: Sequence[float], labels: Sequence[float], bins: int = 10) -> tuple[Bin, ...]:
    """Pairs in equal steps of confidence from ½ to 1; empty bins are left out."""
    filled: dict[int, list[tuple[float, float]]] = {}
    for gap, p in zip(gaps, labels, strict=True):
        confidence = math.exp(-_softplus(-abs(gap)))  # sigmoid(|gap|)
        place = min(int((confidence - 0.5) * 2 * bins), bins - 1)
        filled.setdefault(place, []).append((confidence, p if gap >= 0 else 1 - p))
    return tuple(
        Bin(fmean(c for c, _ in pairs), fmean(a for _, a in pairs), len(pairs))
        for _, pairs in sorted(filled.items())
    )


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """0 = its probabilities can be taken at their word."""
    total = sum(b.pairs for b in bins)
    return sum(b.pairs / total * abs(b.confidence - b.agreement) for b in bins)


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Rank correlation, ties by mean rank; None when one side is constant or under two values."""
    try:
        return correlation(_ranks(one), _ranks(other))
    except StatisticsError:
        return None


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(values)
    first = {value: place for place, value in reversed(list(enumerate(order)))}
    last = {value: place for place, value in enumerate(order)}
    return [(first[value] + last[value]) / 2 for value in values]
