"""Evaluation of a reward model against the judge's labels on held-out pairs.

    Δ = score of chosen - score of rejected,  p = prob_chosen (soft label),  q = sigmoid(Δ)

accuracy       share of pairs with Δ > 0; ½ where Δ = 0; pairs with p = ½ have no right answer
NLL            -mean[p·log q + (1-p)·log(1-q)]; its lower bound is the entropy of the labels
ECE            Σ_bins n_b/n · |mean confidence - mean agreement| (Guo et al., arXiv:1706.04599);
               confidence = max(q, 1-q), agreement = p for the side that the model prefers
length floor   accuracy of "the longer response is better": a model that does not beat it has
               learned length, and nothing of the constitution
length corr.   Spearman's rank correlation between score and length, over all responses

All metrics are computed for the overall label, and for each trait on the pairs that have a label
for it, with p the trait's label. Labels are soft here whatever the model was trained on, so
`compare_nll` can compare a model trained on soft labels with one trained on hard labels.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import StatisticsError, correlation, fmean

from pydantic import TypeAdapter, ValidationError

from constitution.errors import UserError
from rlaif.data.records import Preference, write_json
from rlaif.evaluation.intervals import Estimate, by_prompt, mean_estimate, share_estimate


@dataclass(frozen=True, slots=True)
class ConfidenceBin:
    """Pairs of similar confidence: mean confidence of the model, mean agreement of the judge."""

    confidence: float
    agreement: float
    pairs: int


@dataclass(frozen=True, slots=True)
class PairMetrics:
    """Metrics over labeled pairs; None if undefined (every label is ½, or all scores are equal)."""

    pairs: int
    accuracy: Estimate | None
    nll: float  # nats
    label_entropy: float  # nats: the lowest NLL that any model can reach on these labels
    ece: float
    bins: tuple[ConfidenceBin, ...]
    length_floor: Estimate | None  # lengths in characters
    length_correlation: float | None


@dataclass(frozen=True, slots=True)
class RewardEvaluation(PairMetrics):
    """Metrics of the overall score, and of each trait that has held-out labels."""

    traits: dict[str, PairMetrics] = field(default_factory=dict)
    nll_of_prompts: dict[str, float] = field(default_factory=dict)  # sha256 of the prompt → nats

    def save(self, path: Path) -> None:
        """Write the evaluation as JSON."""
        write_json(path, _EVALUATION.dump_python(self, mode="json"))

    @classmethod
    def load(cls, path: Path) -> RewardEvaluation:
        """Read a saved evaluation. Raises UserError for a missing or invalid file."""
        try:
            return _EVALUATION.validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise UserError(
                f"{path}: not an evaluation of a reward model ({str(error).splitlines()[0]}); "
                "`rlaif train reward --eval` writes one"
            ) from error


_EVALUATION = TypeAdapter(RewardEvaluation)


@dataclass(frozen=True, slots=True)
class PairScores:
    """Scores of the chosen and of the rejected responses, one of each per preference."""

    chosen: Sequence[float]
    rejected: Sequence[float]

    @property
    def gaps(self) -> list[float]:
        """Δ of each pair: score of the chosen minus score of the rejected response."""
        return [c - r for c, r in zip(self.chosen, self.rejected, strict=True)]


def evaluate_reward(
    preferences: Sequence[Preference],
    chosen: Sequence[float],
    rejected: Sequence[float],
    traits: Mapping[str, PairScores] | None = None,
) -> RewardEvaluation:
    """Evaluate a reward model from its scores of held-out pairs.

    chosen, rejected: overall scores, one per preference; traits: the scores of each trait's head.
    Scores are log-odds: the difference of two is the log-odds of P(chosen is better). Raises
    UserError if there are no preferences, or a score is not finite.
    """
    if not preferences:
        raise UserError("no held-out labels to evaluate the reward model on; label more pairs")
    overall, trait_scores = PairScores(chosen, rejected), traits or {}
    for scores in (overall, *trait_scores.values()):
        _require_finite(preferences, scores)
    labels = [preference.prob_chosen for preference in preferences]
    metrics = pair_metrics(preferences, overall, labels)
    return RewardEvaluation(
        **{name: getattr(metrics, name) for name in PairMetrics.__slots__},
        traits={
            name: of_trait
            for name, scores in trait_scores.items()
            if (of_trait := _trait_metrics(preferences, scores, name))
        },
        nll_of_prompts=_nll_of_prompts(preferences, overall.gaps, labels),
    )


def _require_finite(preferences: Sequence[Preference], scores: PairScores) -> None:
    for preference, *both in zip(preferences, scores.chosen, scores.rejected, strict=True):
        if not all(map(math.isfinite, both)):
            raise UserError(
                f"the reward model's scores of pair {preference.id!r} are not finite: {both}; "
                "its training diverged: lower the learning rate and train again"
            )


def _trait_metrics(
    preferences: Sequence[Preference], scores: PairScores, trait: str
) -> PairMetrics | None:
    """None where no pair has a label for the trait."""
    rows = zip(preferences, scores.chosen, scores.rejected, strict=True)
    labeled_rows = [(p, c, r, x) for p, c, r in rows if (x := p.traits.get(trait)) is not None]
    if not labeled_rows:
        return None
    labeled, chosen, rejected, labels = zip(*labeled_rows, strict=True)
    return pair_metrics(labeled, PairScores(chosen, rejected), labels)


def pair_metrics(
    preferences: Sequence[Preference], scores: PairScores, labels: Sequence[float]
) -> PairMetrics:
    """All metrics of one score. labels: P(chosen is better), one per pair, overall or by trait."""
    gaps = scores.gaps
    longer = [float(len(p.chosen_text) - len(p.rejected_text)) for p in preferences]
    lengths = [len(p.chosen_text) for p in preferences] + [
        len(p.rejected_text) for p in preferences
    ]
    bins = reliability(gaps, labels)
    return PairMetrics(
        pairs=len(preferences),
        accuracy=pair_accuracy(preferences, gaps, labels),
        nll=soft_nll(gaps, labels),
        label_entropy=fmean(map(entropy, labels)),
        ece=expected_calibration_error(bins),
        bins=bins,
        length_floor=pair_accuracy(preferences, longer, labels),
        length_correlation=spearman([*scores.chosen, *scores.rejected], lengths),
    )


def pair_accuracy(
    preferences: Sequence[Preference], gaps: Sequence[float], labels: Sequence[float]
) -> Estimate | None:
    """How often the gap's sign matches the label, with Wilson's interval over prompts.

    None if every label is ½.
    """
    points = [
        (preference.prompt, _point(gap if label > 0.5 else -gap))
        for preference, gap, label in zip(preferences, gaps, labels, strict=True)
        if label != 0.5
    ]
    return share_estimate(by_prompt(points)) if points else None


def _point(gap: float) -> float:
    return 0.5 if gap == 0 else float(gap > 0)


def soft_nll(gaps: Sequence[float], labels: Sequence[float]) -> float:
    """Mean cross-entropy of sigmoid(gap) against soft labels, nats; log 2 where all gaps are 0."""
    return fmean(
        p * _softplus(-gap) + (1 - p) * _softplus(gap) for gap, p in zip(gaps, labels, strict=True)
    )


def _nll_of_prompts(
    preferences: Sequence[Preference], gaps: Sequence[float], labels: Sequence[float]
) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for preference, gap, label in zip(preferences, gaps, labels, strict=True):
        text = "".join(message.model_dump_json() for message in preference.prompt)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        values.setdefault(key, []).append(soft_nll([gap], [label]))
    return {key: fmean(nlls) for key, nlls in values.items()}


@dataclass(frozen=True, slots=True)
class NllComparison:
    """Two reward models on the same held-out labels; nats."""

    nll: float
    other_nll: float
    label_entropy: float  # lower bound of both
    difference: Estimate  # nll - other_nll, mean over prompts: below 0, the first model is better
    traits: dict[str, tuple[float, float]]  # (nll, other_nll) of each trait in both


def compare_nll(one: RewardEvaluation, other: RewardEvaluation) -> NllComparison:
    """Compare two reward models, for instance one trained on soft and one on hard labels.

    The difference is taken prompt by prompt, so its interval does not include how the prompts
    vary. Raises UserError if the evaluations are not of the same held-out labels.
    """
    same_prompts = one.nll_of_prompts.keys() == other.nll_of_prompts.keys()
    same_labels = one.pairs == other.pairs and math.isclose(one.label_entropy, other.label_entropy)
    if not (same_prompts and same_labels and one.nll_of_prompts):
        raise UserError(
            f"the evaluations, of {one.pairs} and {other.pairs} pairs, are not of the same labels; "
            "train both reward models with the same held-out labels"
        )
    return NllComparison(
        one.nll,
        other.nll,
        one.label_entropy,
        mean_estimate([nll - other.nll_of_prompts[p] for p, nll in one.nll_of_prompts.items()]),
        {t: (one.traits[t].nll, other.traits[t].nll) for t in one.traits if t in other.traits},
    )


def _softplus(x: float) -> float:
    """log(1 + e^x) = -log sigmoid(-x), without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def entropy(p: float) -> float:
    """-p·log p - (1-p)·log(1-p), nats."""
    return -sum(x * math.log(x) for x in (p, 1 - p) if x > 0)


def reliability(
    gaps: Sequence[float], labels: Sequence[float], bins: int = 10
) -> tuple[ConfidenceBin, ...]:
    """Pairs binned by confidence, in equal steps from ½ to 1; empty bins are dropped."""
    filled: dict[int, list[tuple[float, float]]] = {}
    for gap, p in zip(gaps, labels, strict=True):
        confidence = math.exp(-_softplus(-abs(gap)))  # sigmoid(|gap|)
        index = min(int((confidence - 0.5) * 2 * bins), bins - 1)
        filled.setdefault(index, []).append((confidence, p if gap >= 0 else 1 - p))
    return tuple(
        ConfidenceBin(fmean(c for c, _ in pairs), fmean(a for _, a in pairs), len(pairs))
        for _, pairs in sorted(filled.items())
    )


def expected_calibration_error(bins: Sequence[ConfidenceBin]) -> float:
    """ECE over the bins, in [0, 1]; 0: confidence equals agreement in every bin."""
    total = sum(b.pairs for b in bins)
    return sum(b.pairs / total * abs(b.confidence - b.agreement) for b in bins)


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Rank correlation, ties by mean rank; None for constant values or fewer than two."""
    try:
        return correlation(_ranks(one), _ranks(other))
    except StatisticsError:
        return None


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(values)
    first = {value: rank for rank, value in reversed(list(enumerate(order)))}
    last = {value: rank for rank, value in enumerate(order)}
    return [(first[value] + last[value]) / 2 for value in values]
