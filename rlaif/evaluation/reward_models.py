"""What a reward model is worth: held against the judge's labels on pairs it was not trained on.

    Δ = score of chosen - score of rejected,  p = prob_chosen (soft label),  q = sigmoid(Δ)

accuracy       share of pairs with Δ > 0; ½ where Δ = 0; pairs with p = ½ have no right answer
NLL            -mean[p·log q + (1-p)·log(1-q)]; never under the labels' own entropy, its floor
ECE            Σ_bins n_b/n · |mean confidence - mean agreement| (Guo et al., arXiv:1706.04599);
               confidence = max(q, 1-q), agreement = p seen from the side the model is on
length floor   accuracy of "the longer response is better": a model that does not beat it has
               learned length, and nothing of the constitution
length corr.   Spearman's rank correlation between score and length, over all responses

All of them for the whole, and for each trait on the pairs that are labeled for it, p being the
trait's label. Labels are soft here whatever the model was trained on, so `compare_nll` can hold
one trained on soft labels against one trained on hard ones.
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
    """Pairs of about equal confidence: what the model said, and how far the judge agreed."""

    confidence: float
    agreement: float
    pairs: int


@dataclass(frozen=True, slots=True)
class PairFigures:
    """None where no pair can tell (every label is ½, or all scores are equal)."""

    pairs: int
    accuracy: Estimate | None
    nll: float  # nats
    label_entropy: float  # nats: the least NLL that any model could have on these labels
    ece: float
    bins: tuple[ConfidenceBin, ...]
    length_floor: Estimate | None  # lengths in characters
    length_correlation: float | None


@dataclass(frozen=True, slots=True)
class RewardEvaluation(PairFigures):
    """The figures of the overall score, and those of each trait that has held-out labels."""

    traits: dict[str, PairFigures] = field(default_factory=dict)
    nll_of_prompts: dict[str, float] = field(default_factory=dict)  # sha256 of the prompt → nats

    def save(self, path: Path) -> None:
        write_json(path, _EVALUATION.dump_python(self, mode="json"))

    @classmethod
    def load(cls, path: Path) -> RewardEvaluation:
        """Raises UserError for a file that is no evaluation."""
        try:
            return _EVALUATION.validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise UserError(
                f"{path}: not an evaluation of a reward model ({str(error).splitlines()[0]}); "
                "`rlaif train reward` writes one when it is given held-out labels"
            ) from error


_EVALUATION = TypeAdapter(RewardEvaluation)


@dataclass(frozen=True, slots=True)
class PairScores:
    """Scores of the chosen and of the rejected responses, one each per preference."""

    chosen: Sequence[float]
    rejected: Sequence[float]

    @property
    def gaps(self) -> list[float]:
        return [c - r for c, r in zip(self.chosen, self.rejected, strict=True)]


def evaluate_reward(
    preferences: Sequence[Preference],
    chosen: Sequence[float],
    rejected: Sequence[float],
    traits: Mapping[str, PairScores] | None = None,
) -> RewardEvaluation:
    """The overall scores of the chosen and rejected responses, and those of each trait's head.

    Scores are log-odds: a difference of two is what the model says of P(chosen is better).
    Raises UserError when there are no preferences, or a score is not a finite number.
    """
    if not preferences:
        raise UserError("no held-out labels to evaluate the reward model on; label some more pairs")
    overall, of_traits = PairScores(chosen, rejected), traits or {}
    for scores in (overall, *of_traits.values()):
        _require_finite(preferences, scores)
    labels = [preference.prob_chosen for preference in preferences]
    figures = pair_figures(preferences, overall, labels)
    return RewardEvaluation(
        **{name: getattr(figures, name) for name in PairFigures.__slots__},
        traits={
            name: found
            for name, scores in of_traits.items()
            if (found := _trait_figures(preferences, scores, name))
        },
        nll_of_prompts=_nll_of_prompts(preferences, overall.gaps, labels),
    )


def _require_finite(preferences: Sequence[Preference], scores: PairScores) -> None:
    for preference, *both in zip(preferences, scores.chosen, scores.rejected, strict=True):
        if not all(map(math.isfinite, both)):
            raise UserError(
                f"the reward model's scores of pair {preference.id!r} are {both}: "
                "its training diverged; lower the learning rate and train again"
            )


def _trait_figures(
    preferences: Sequence[Preference], scores: PairScores, trait: str
) -> PairFigures | None:
    """None where no pair has a label for the trait."""
    rows = zip(preferences, scores.chosen, scores.rejected, strict=True)
    told = [(p, c, r, x) for p, c, r in rows if (x := p.traits.get(trait)) is not None]
    if not told:
        return None
    labeled, chosen, rejected, labels = zip(*told, strict=True)
    return pair_figures(labeled, PairScores(chosen, rejected), labels)


def pair_figures(
    preferences: Sequence[Preference], scores: PairScores, labels: Sequence[float]
) -> PairFigures:
    """labels: P(chosen is better), of the whole or of a trait, one per preference."""
    gaps = scores.gaps
    longer = [float(len(p.chosen_text) - len(p.rejected_text)) for p in preferences]
    lengths = [len(p.chosen_text) for p in preferences] + [
        len(p.rejected_text) for p in preferences
    ]
    bins = reliability(gaps, labels)
    return PairFigures(
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
    """How often the sign of the gap is the label's, with Wilson's interval over prompts."""
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
        said = "".join(message.model_dump_json() for message in preference.prompt)
        key = hashlib.sha256(said.encode()).hexdigest()[:16]
        values.setdefault(key, []).append(soft_nll([gap], [label]))
    return {key: fmean(found) for key, found in values.items()}


@dataclass(frozen=True, slots=True)
class NllComparison:
    """Two reward models on the same held-out labels; nats."""

    nll: float
    other_nll: float
    label_entropy: float  # neither can be under it
    difference: Estimate  # nll - other_nll, mean over prompts: below 0 the first is better
    traits: dict[str, tuple[float, float]]  # (nll, other_nll) of each trait that both know


def compare_nll(one: RewardEvaluation, other: RewardEvaluation) -> NllComparison:
    """One reward model against another, for instance soft labels against hard ones.

    The difference is taken prompt by prompt, so its interval is that of the models and not that
    of the prompts. Raises UserError where the two were not made on the same held-out labels.
    """
    same_prompts = one.nll_of_prompts.keys() == other.nll_of_prompts.keys()
    same_labels = one.pairs == other.pairs and math.isclose(one.label_entropy, other.label_entropy)
    if not (same_prompts and same_labels and one.nll_of_prompts):
        raise UserError(
            f"the evaluations are of {one.pairs} and {other.pairs} pairs that are not the same "
            "labels; train both reward models with the same held-out labels"
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
    """Pairs in equal steps of confidence from ½ to 1; empty bins are left out."""
    filled: dict[int, list[tuple[float, float]]] = {}
    for gap, p in zip(gaps, labels, strict=True):
        confidence = math.exp(-_softplus(-abs(gap)))  # sigmoid(|gap|)
        place = min(int((confidence - 0.5) * 2 * bins), bins - 1)
        filled.setdefault(place, []).append((confidence, p if gap >= 0 else 1 - p))
    return tuple(
        ConfidenceBin(fmean(c for c, _ in pairs), fmean(a for _, a in pairs), len(pairs))
        for _, pairs in sorted(filled.items())
    )


def expected_calibration_error(bins: Sequence[ConfidenceBin]) -> float:
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
