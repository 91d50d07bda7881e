"""Calibration of a judge on gold pairs, with cross-validated metrics before and after.

    gold pairs ─ judge, uncalibrated ─► q = P(chosen is better) of each
               ─ k folds ─► every q calibrated by a curve fitted without its prompt
               ─ the kind of curve with the lowest NLL ─► fitted on all pairs: the calibration

All pairs of one prompt are in one fold, because responses to one prompt are alike: otherwise a
curve would be tested on pairs much like those it was fitted to. Isotonic curves are tried from 200
judged pairs on; no curve (T = 1) is always tried. The kind is selected on the folds that are also
reported, so the metrics after calibration are those of the best of two or three, and slightly
optimistic.

A pair without a judgment is counted, and is never a number.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

from pydantic import ConfigDict, Field, field_validator, model_validator

from constitution.schema import Message
from judge_service.judge.calibration import (
    Calibration,
    CalibrationError,
    Curve,
    Temperature,
    fit_isotonic,
    fit_temperature,
    model_sha256,
)
from judge_service.judge.calibration_metrics import (
    CalibrationMetrics,
    bin_of,
    chance_ece,
    confidence,
    measure,
    nll,
    right,
)
from judge_service.types import Comparison, JudgeOptions, Unjudged
from rlaif.data.records import RecordError, _Record, iter_jsonl
from rlaif.evaluation.clustered import folds_by_prompt
from rlaif.evaluation.intervals import Estimate
from rlaif.feedback.earlier_labels import JudgeIdentity
from rlaif.feedback.labeler import Answers, LabelingClient, judge_pairs
from rlaif.feedback.pairs import digest

FEWEST_PAIRS = 30  # with fewer, the interval of a share is wider than ±18 points
FEWEST_PAIRS_ISOTONIC = 200
DRAWS = 1000  # of the bootstrap
NONE, TEMPERATURE, ISOTONIC = "none", "temperature", "isotonic"


# ── gold pairs ───────────────────────────────────────────────────────────────────────────────


class GoldPair(_Record):
    """A pair whose better response is known. Other keys (source, category, …) are ignored.

    `prompt` may be a text (one user turn), and a response a list of one message, as in TRL's data
    sets. A pair without an id gets one derived from its content.
    """

    model_config = ConfigDict(extra="ignore")

    id: str = ""
    prompt: tuple[Message, ...] = Field(min_length=1)
    chosen: str = Field(min_length=1)
    rejected: str = Field(min_length=1)

    @field_validator("prompt", mode="before")
    @classmethod
    def _text_is_one_user_turn(cls, value: Any) -> Any:
        return [{"role": "user", "content": value}] if isinstance(value, str) else value

    @field_validator("chosen", "rejected", mode="before")
    @classmethod
    def _message_is_its_text(cls, value: Any) -> Any:
        match value:
            case [{"content": content}]:
                return content
        return value

    @model_validator(mode="after")
    def _responses_differ(self) -> GoldPair:
        if self.chosen.strip() == self.rejected.strip():
            raise ValueError("chosen and rejected are identical")
        return self

    @property
    def prompt_digest(self) -> str:
        """sha256 of the prompt's messages: pairs of one prompt are kept in one fold."""
        return digest([[message.role, message.content] for message in self.prompt])


def load_gold(path: Path, limit: int | None = None, seed: int = 0) -> list[GoldPair]:
    """The pairs of a JSONL file; with `limit`, a seeded sample of that size, in file order.

    A larger sample includes a smaller one with the same seed. Raises RecordError, naming line and
    field.
    """
    pairs = []
    for pair in iter_jsonl(path, GoldPair):
        content = digest([pair.prompt_digest, pair.chosen, pair.rejected])
        pairs.append(pair if pair.id else pair.model_copy(update={"id": content[:16]}))
    if not pairs:
        raise RecordError(f"{path}: contains no pairs; each line needs prompt, chosen, rejected")
    if limit is None or limit >= len(pairs):
        return pairs
    drawn = {pair.id for pair in sorted(pairs, key=lambda p: digest([seed, p.id]))[:limit]}
    return [pair for pair in pairs if pair.id in drawn]


def comparison(pair: GoldPair) -> Comparison:
    """The pair for the judge. A is the response with the smaller hash, so that the position does
    not depend on which is better."""
    a, b = sorted((pair.chosen, pair.rejected), key=lambda text: digest([pair.prompt_digest, text]))
    return Comparison(pair.id, pair.prompt, a, b)


def longer_is_right(pairs: Iterable[GoldPair]) -> float:
    """The accuracy of always picking the longer response, as a baseline; equal lengths count ½."""
    excess = (len(pair.chosen) - len(pair.rejected) for pair in pairs)
    return fmean(0.5 if more == 0 else float(more > 0) for more in excess)


# ── cross-validation ─────────────────────────────────────────────────────────────────────────


def held_back(
    probs: Sequence[float], fold_of: Sequence[int], fit: Callable[[Sequence[float]], Curve]
) -> list[float]:
    """Every q, calibrated by the curve fitted on the other folds."""
    curves = {
        fold: fit([q for q, other in zip(probs, fold_of, strict=True) if other != fold])
        for fold in set(fold_of)
    }
    return [curves[fold].apply(q) for q, fold in zip(probs, fold_of, strict=True)]


@dataclass(frozen=True, slots=True)
class Choice:
    """The selected curve, fitted on all pairs, and the metrics on held-back folds."""

    method: str  # none, temperature or isotonic
    curve: Curve
    held_back_nll: Mapping[str, float]  # of every method tried
    before: CalibrationMetrics
    after: CalibrationMetrics  # held-back
    chance_ece: float  # the expected `after.ece` of as many perfectly calibrated pairs
    ece_change: Estimate  # after - before; negative is better
    nll_change: Estimate


def choose(probs: Sequence[float], prompts: Sequence[str], folds: int, seed: int) -> Choice:
    """Select the method with the lowest held-back NLL; among equals, the simplest.

    `probs` holds the q of each pair, `prompts` its prompt. Raises CalibrationError when there are
    fewer prompts than folds.
    """
    if not 2 <= folds <= len(set(prompts)):
        raise CalibrationError(
            f"invalid number of folds: {folds}; set --folds to 2 up to the number of distinct "
            f"prompts, {len(set(prompts))}, or add gold pairs on other prompts"
        )
    fold_of = folds_by_prompt(prompts, folds, seed)
    after = {NONE: list(probs), TEMPERATURE: held_back(probs, fold_of, fit_temperature)}
    if len(probs) >= FEWEST_PAIRS_ISOTONIC:
        after[ISOTONIC] = held_back(probs, fold_of, fit_isotonic)
    # min() takes the first of equals, and `after` is in order of complexity.
    losses = {method: nll(calibrated) for method, calibrated in after.items()}
    method = min(losses, key=lambda name: losses[name])
    fits: dict[str, Callable[[Sequence[float]], Curve]] = {
        NONE: lambda _: Temperature(1.0),
        TEMPERATURE: fit_temperature,
        ISOTONIC: fit_isotonic,
    }
    ece_change, nll_change = changes(probs, after[method], prompts, seed)
    return Choice(
        method=method,
        curve=fits[method](probs),
        held_back_nll=losses,
        before=measure(probs),
        after=measure(after[method]),
        chance_ece=chance_ece(after[method], seed),
        ece_change=ece_change,
        nll_change=nll_change,
    )


_Row = tuple[int, float, int, float, float]  # (bin, right - confidence) before, after; Δ NLL


def changes(
    before: Sequence[float], after: Sequence[float], prompts: Sequence[str], seed: int
) -> tuple[Estimate, Estimate]:
    """The changes of (ECE, NLL) from before to after, each with a 95 % bootstrap interval.

    The percentile bootstrap (Efron 1979), resampling whole prompts.
    """
    by_prompt: dict[str, list[_Row]] = {}
    for prompt, old, new in zip(prompts, before, after, strict=True):
        row = (bin_of(old), right(old) - confidence(old), bin_of(new), right(new) - confidence(new))
        by_prompt.setdefault(prompt, []).append((*row, nll([new]) - nll([old])))
    groups = list(by_prompt.values())
    draw = random.Random(seed)
    drawn = [_change(draw.choices(groups, k=len(groups))) for _ in range(DRAWS)]
    ece_change, nll_change = (
        Estimate(value, *_middle_95(values), n=len(groups))
        for value, values in zip(_change(groups), zip(*drawn, strict=True), strict=True)
    )
    return ece_change, nll_change


def _change(groups: Sequence[Sequence[_Row]]) -> tuple[float, float]:
    old_gaps, new_gaps = defaultdict[int, float](float), defaultdict[int, float](float)
    loss, n = 0.0, 0
    for rows in groups:
        for old_bin, old_gap, new_bin, new_gap, change in rows:
            old_gaps[old_bin] += old_gap
            new_gaps[new_bin] += new_gap
            loss += change
            n += 1
    # The sum over a bin of (right - confidence) is n_b (accuracy_b - confidence_b).
    ece_change = sum(map(abs, new_gaps.values())) - sum(map(abs, old_gaps.values()))
    return ece_change / n, loss / n


def _middle_95(values: Sequence[float]) -> tuple[float, float]:
    cuts = quantiles(values, n=40, method="inclusive")
    return cuts[0], cuts[-1]


# ── judging and fitting ──────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """A fitted calibration and the counts and metrics behind it."""

    judge: JudgeIdentity
    pairs: int
    judged: int
    unjudged_by_reason: Mapping[str, int]
    prompts: int  # distinct ones among the judged pairs
    folds: int
    pick_longer: float  # accuracy of always picking the longer response, on the judged pairs
    choice: Choice
    calibration: Calibration


def calibrate(
    gold: Sequence[GoldPair],
    client: LabelingClient,
    journal_file: Path,
    *,
    constitution: str = "",
    folds: int = 5,
    seed: int = 0,
) -> CalibrationReport:
    """Judge every gold pair and fit a calibration; after a kill, only the rest is judged.

    Raises CalibrationError when fewer than 30 pairs could be judged, and as `judge_pairs`.
    """
    if len(gold) < FEWEST_PAIRS:
        raise CalibrationError(f"too few gold pairs: {len(gold)}; {_TOO_FEW}")
    answers = judge_pairs(
        [comparison(pair) for pair in gold],
        client,
        journal_file,
        constitution=constitution,
        options=JudgeOptions(calibrated=False),
    )
    judged, reasons, protocols = _split_answers(gold, answers)
    if len(judged) < FEWEST_PAIRS:
        counts = ", ".join(f"{reason} {n}" for reason, n in reasons.most_common())
        raise CalibrationError(
            f"only {len(judged)} of {len(gold)} gold pairs could be judged ({counts}); {_TOO_FEW}"
        )
    # The selection sees held-back folds only; the curve it returns is fitted on all pairs.
    prompts = [pair.prompt_digest for pair, _ in judged]
    choice = choose([q for _, q in judged], prompts, folds, seed)
    judge = answers.judge
    return CalibrationReport(
        judge=judge,
        pairs=len(gold),
        judged=len(judged),
        unjudged_by_reason=dict(reasons.most_common()),
        prompts=len(set(prompts)),
        folds=folds,
        pick_longer=longer_is_right(pair for pair, _ in judged),
        choice=choice,
        calibration=Calibration(
            constitution=judge.constitution.name,
            constitution_sha256=judge.constitution.sha256,
            model=judge.model.name,
            model_sha256=model_sha256(judge.model),
            template_version=judge.template_version,
            protocol=_only(protocols, journal_file),
            pairs=len(judged),
            curve=choice.curve,
        ),
    )


def _split_answers(
    gold: Sequence[GoldPair], answers: Answers
) -> tuple[list[tuple[GoldPair, float]], Counter[str], set[str]]:
    """(judged pairs with their q, reasons of the others, protocols of the judgments)."""
    judged: list[tuple[GoldPair, float]] = []
    reasons: Counter[str] = Counter()
    protocols: set[str] = set()
    for pair, (compared, answer) in zip(gold, answers.by_pair(), strict=True):
        if isinstance(answer, Unjudged):
            reasons[answer.reason.value] += 1
        else:
            prob_a = answer.prob_a if answer.raw_prob_a is None else answer.raw_prob_a
            q = prob_a if compared.response_a == pair.chosen else 1.0 - prob_a
            judged.append((pair, q))
            protocols.add(answer.provenance.protocol)
    return judged, reasons, protocols


_TOO_FEW = f"provide more: with fewer than {FEWEST_PAIRS} judged pairs, a calibration fits noise"


def _only(protocols: set[str], journal_file: Path) -> str:
    """The protocol of all answers: the server's default, which may have changed in between."""
    if len(protocols) > 1:
        raise CalibrationError(
            f"the answers have different protocols: {', '.join(sorted(protocols))}; delete "
            f"{journal_file} and run again"
        )
    return min(protocols)
