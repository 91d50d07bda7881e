"""The result on one file: the leaderboard's figures beside floors, and a verdict by rule.

difference   mean of (judge's credit - floor's credit), weighted as the overall figure, with a
             95 % interval clustered by prompt: both answer the same questions
verdict      the first of these that holds, where "above" is a difference whose interval lies
             above 0:
                 not above chance
                 not above the longer response: treat its labels as length
                 not above the floor NAME: its labels add nothing to what is on the surface
                 above every floor
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from rlaif.bench.obedience import Obedience
from rlaif.evaluation.clustered import clustered_mean, clustered_share
from rlaif.evaluation.intervals import Estimate
from rlaif.evaluation.judges.worth import JudgeWorth
from rlaif.gold_sets.answers import TIES, GoldAnswer
from rlaif.gold_sets.figures import BenchFigure, figures, question_weights, ties_score
from rlaif.gold_sets.floors import Floor, floors, random_ties
from rlaif.gold_sets.length import LengthBias, length_bias
from rlaif.gold_sets.questions import GoldQuestion, GoldSet


@dataclass(frozen=True, slots=True)
class BenchCost:
    """What the answers took. seconds: None where some are from an earlier run."""

    reads: int
    stored_reads: int
    prompt_tokens: int
    seconds: float | None


@dataclass(frozen=True, slots=True)
class FloorFigure:
    """A floor's overall figure; groups: by name of the group; difference: judge minus floor."""

    name: str
    value: float
    groups: Mapping[str, float]
    difference: Estimate


@dataclass(frozen=True, slots=True)
class BenchResult:
    """The result on one file. unanswered and left_out: counts by reason."""

    file: str
    format: str
    answered_by: str
    questions: int
    unanswered: Mapping[str, int]
    left_out: Mapping[str, int]
    figures: tuple[BenchFigure, ...]  # overall first
    floors: tuple[FloorFigure, ...]
    verdict: str
    length: LengthBias
    consistent: Estimate | None  # both orders prefer the same response
    cost: BenchCost
    obedience: tuple[Obedience, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def overall(self) -> Estimate:
        """The leaderboard's overall figure."""
        return self.figures[0].estimate


RESULTS = TypeAdapter(tuple[BenchResult, ...])


@dataclass(frozen=True, slots=True)
class Answered:
    """Answers to a file's questions; unanswered: counts by reason."""

    answers: Sequence[GoldAnswer]
    unanswered: Counter[str]
    cost: BenchCost
    obedience: Sequence[Obedience] = ()
    notes: Sequence[str] = ()


def result(
    gold: GoldSet,
    questions: Sequence[GoldQuestion],
    answered: Answered,
    answered_by: str,
    *,
    seed: int = 0,
    floor_train: Sequence[GoldQuestion] | None = None,
) -> BenchResult | None:
    """The result of answers to these questions of a file; None if none was answered."""
    answers = list(answered.answers)
    if not answers:
        return None
    # Floors are fitted on every question, and compared on those that were answered.
    place = {id(question): n for n, question in enumerate(questions)}
    kept = [place[id(answer.question)] for answer in answers]
    compared = tuple(
        _floor_figure(floor, kept, answers) for floor in floors(questions, seed, floor_train)
    )
    return BenchResult(
        file=str(gold.path),
        format=gold.format,
        answered_by=answered_by,
        questions=len(questions),
        unanswered=dict(answered.unanswered.most_common()),
        left_out=dict(gold.left_out.most_common()),
        figures=tuple(figures(answers)),
        floors=compared,
        verdict=verdict(compared),
        length=length_bias(_compared(answers)),
        consistent=_consistency(answers),
        cost=answered.cost,
        obedience=tuple(answered.obedience),
        notes=tuple(answered.notes),
    )


def _floor_figure(floor: Floor, kept: Sequence[int], answers: Sequence[GoldAnswer]) -> FloorFigure:
    credits = [floor.credits[n] for n in kept]
    weights = question_weights(answers)
    difference = clustered_mean(
        [answer.credit - credit for answer, credit in zip(answers, credits, strict=True)],
        [answer.question.prompt_id for answer in answers],
        weights,
    )
    if floor.answers is not None:
        own = figures([floor.answers[n] for n in kept])
        groups = {figure.name: figure.estimate.value for figure in own[1:]}
        return FloorFigure(floor.name, own[0].estimate.value, groups, difference)
    by_group: dict[str, list[float]] = {}
    for answer, credit in zip(answers, credits, strict=True):
        by_group.setdefault(answer.question.group, []).append(credit)
    groups = {name: sum(values) / len(values) for name, values in by_group.items()}
    # Sections are of reward_bench and rm_bench, whose questions a coin gets half right.
    sections = [figure.name for figure in figures(answers) if figure.level == "section"]
    groups |= dict.fromkeys(sections, 0.5)
    value = sum(w * c for w, c in zip(weights, credits, strict=True)) / sum(weights)
    if TIES in groups and answers[0].question.source == "reward_bench_2":
        groups[TIES] = random_ties([answer.question for answer in answers], ties_score)
        value = sum(groups.values()) / len(groups)
    return FloorFigure(floor.name, value, groups, difference)


def verdict(compared: Sequence[FloorFigure]) -> str:
    """The verdict of the module's rule."""
    by_name = {floor.name: floor for floor in compared}
    if not _above(by_name["random"]):
        return "not above chance"
    longer = by_name["longer"]
    if not _above(longer):
        return f"not above the longer response ({longer.value:.2f}): treat its labels as length"
    for floor in sorted(compared, key=lambda floor: -floor.value):
        if not _above(floor):
            return (
                f"not above the floor {floor.name} ({floor.value:.2f}): its labels add nothing to "
                "what is on the surface"
            )
    best = max(compared, key=lambda floor: floor.value)
    return f"above every floor (best: {best.name}, {best.value:.2f})"


def _above(floor: FloorFigure) -> bool:
    return floor.difference.low is not None and floor.difference.low > 0


def _compared(answers: Sequence[GoldAnswer]) -> Sequence[GoldAnswer]:
    """Without the subset Ties, which a judge answers by scores: they are in another unit."""
    return [answer for answer in answers if answer.question.group != TIES] or answers


def _consistency(answers: Sequence[GoldAnswer]) -> Estimate | None:
    known = [(a.consistent, a.question.prompt_id) for a in answers if a.consistent is not None]
    if not known:
        return None
    return clustered_share([value for value, _ in known], [prompt for _, prompt in known])


def as_json(results: Sequence[BenchResult], worth: Sequence[JudgeWorth] = ()) -> dict[str, Any]:
    """The results as one JSON object, which `rlaif evaluate --worth` reads for a judge's."""
    return {
        "worth": [each.model_dump(mode="json") for each in worth],
        "results": RESULTS.dump_python(tuple(results), mode="json"),
    }
