"""Try candidates for a judge on gold pairs, and adopt one where gain.py allows it.

    gold ─ split by prompt ─► rows to fit on ─ judge ─► fitted readers and curves
                              test rows ─ judge and candidates ─► trials ─► adopted, or nobody

The judge as it is includes the calibration that its server applies. Where no candidate is fitted
here, all rows are test rows. Answers are kept in a journal, as when labels are made, so that a
killed run resumes. What is tested is what is adopted: nothing is fitted again on the test rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from judge_service.judge.aggregation import trait_probs
from judge_service.judge.calibration import (
    Calibration,
    CalibrationError,
    Curve,
    model_sha256,
    read_calibrations,
)
from judge_service.judge.reader import FittedReader, Lengths, features
from judge_service.types import Comparison, JudgeOptions, Judgment
from rlaif.data.records import RecordError
from rlaif.feedback.earlier_labels import JudgeIdentity
from rlaif.feedback.labeler import LabelingClient, judge_pairs
from rlaif.feedback.pairs import digest
from rlaif.gold_sets.questions import read_gold
from rlaif.labels.calibrate import GoldPair, choose, comparison
from rlaif.labels.promotion.candidates import Candidate, Kind
from rlaif.labels.promotion.fit_reader import GoldReads, fit_reader
from rlaif.labels.promotion.gain import (
    FEWEST_PROMPTS,
    Judged,
    Metric,
    Trial,
    adopted,
    held_back_prompts,
    trial,
)

FOLDS = 5

Connect = Callable[[str, str, Sequence[str]], AbstractContextManager[LabelingClient]]
"""(model, address, constitutions) -> a client of a ready judge: a model's, or the one running at
the address where the model is ""."""


@dataclass(frozen=True, slots=True)
class JudgeAsItIs:
    """The judge that candidates are compared with: a model or an address, and its constitution."""

    model: str
    server: str
    constitution: str


@dataclass(frozen=True, slots=True)
class PromotionReport:
    """Every trial, and the adopted one; `calibration` is what an adopted reader or curve is."""

    trials: tuple[Trial, ...]
    adopted: Trial | None
    calibration: Calibration | None
    fitted_on: int  # judged gold pairs
    tested_on: int  # gold pairs
    judge: JudgeIdentity


def gold_pairs(path: Path, format: str | None = None) -> list[GoldPair]:
    """The pairs of a file of gold questions: every right response against every wrong one.

    Raises RecordError for a file that cannot be read or holds no pair.
    """
    pairs: dict[str, GoldPair] = {}
    for question in read_gold(path, format):
        for right, wrong in question.pairs:
            texts = question.responses[right], question.responses[wrong]
            if texts[0].strip() != texts[1].strip() and all(map(str.strip, texts)):
                id = digest([question.prompt_id, *texts])[:16]
                pairs[id] = GoldPair(
                    id=id, prompt=question.messages, chosen=texts[0], rejected=texts[1]
                )
    if not pairs:
        raise RecordError(f"{path}: no two different responses; give pairs that differ")
    return list(pairs.values())


def sample_prompts(gold: Sequence[GoldPair], limit: int | None, seed: int) -> list[GoldPair]:
    """The pairs of a seeded sample of `limit` prompts; None: all."""
    prompts = sorted(
        {pair.prompt_digest for pair in gold}, key=lambda p: digest([seed, "limit", p])
    )
    kept = set(prompts[:limit])
    return [pair for pair in gold if pair.prompt_digest in kept]


def require_enough_prompts(gold: Sequence[GoldPair], candidates: Sequence[Candidate]) -> None:
    """Raise CalibrationError where no candidate could be adopted, however good it is: fewer than 20
    prompts to test on, or to fit on."""
    prompts = len({pair.prompt_digest for pair in gold})
    fitted = any(candidate.is_fitted for candidate in candidates)
    needed = 2 * FEWEST_PROMPTS if fitted else FEWEST_PROMPTS
    if prompts < needed:
        why = "half to fit on, half to test on" if fitted else "to test on"
        raise CalibrationError(
            f"too few gold prompts to adopt anything: {prompts}; give {needed} or more, {why}"
        )


@dataclass(frozen=True, slots=True)
class _JudgedGold:
    """A gold pair with its judgment."""

    pair: GoldPair
    compared: Comparison
    judgment: Judgment

    @property
    def a_is_right(self) -> bool:
        return self.compared.response_a == self.pair.chosen

    @property
    def lengths(self) -> Lengths:
        return Lengths.of(self.compared.response_a, self.compared.response_b)

    @property
    def raw_prob_a(self) -> float:
        raw = self.judgment.raw_prob_a
        return self.judgment.prob_a if raw is None else raw

    def judged(self, prob_a: float) -> Judged:
        q = prob_a if self.a_is_right else 1.0 - prob_a
        return Judged(self.pair.id, self.pair.prompt_digest, q)

    def under(self, calibration: Calibration) -> Judged:
        """As the judge with this calibration would have answered: no reads."""
        votes = self.judgment.votes
        prob_a, _ = calibration.apply(self.raw_prob_a, trait_probs(votes), votes, self.lengths)
        return self.judged(prob_a)


def promote(
    gold: Sequence[GoldPair],
    judge: JudgeAsItIs,
    candidates: Sequence[Candidate],
    connect: Connect,
    journal_file: Path,
    *,
    metric: Metric | None = None,
    seed: int = 0,
    command: str = "",
) -> PromotionReport:
    """Try the candidates beside the judge; nothing is written but the journal.

    metric: None: accuracy, and log loss for curves, which change no verdict. command: recorded in a
    fitted reader. Raises CalibrationError where a candidate cannot be fitted or is for another
    setup, and as `judge_pairs`.
    """
    share = 0.5 if any(candidate.is_fitted for candidate in candidates) else 1.0
    tested_prompts = held_back_prompts((pair.prompt_digest for pair in gold), seed, share)
    test = [pair for pair in gold if pair.prompt_digest in tested_prompts]
    fit = [pair for pair in gold if pair.prompt_digest not in tested_prompts]
    rows, identity, answers = _judge_all(fit, test, judge, candidates, connect, journal_file)
    if not rows:
        raise CalibrationError(
            f"none of {len(fit) + len(test)} gold pairs could be judged; `rlaif judge bench` on the "
            "same file says why"
        )

    # Readers and curves: from the reads of the judge as it is.
    fit_rows = [row for row in rows if row.pair.prompt_digest not in tested_prompts]
    test_rows = [row for row in rows if row.pair.prompt_digest in tested_prompts]
    calibrations: dict[Candidate, Calibration] = {}
    for candidate in (c for c in candidates if not c.needs_reads):
        if candidate.value:
            calibrations[candidate] = _from_file(Path(candidate.value), rows[0])
        else:
            curve = _fit(candidate, fit_rows, seed, command)
            calibrations[candidate] = _calibration(curve, identity, fit_rows)
        answers[candidate] = [row.under(calibrations[candidate]) for row in test_rows]

    now = [row.judged(row.judgment.prob_a) for row in test_rows]
    trials = [
        trial(
            str(candidate),
            now,
            answers[candidate],
            metric or _metric(calibrations.get(candidate)),
            tested=len(test),
            candidates=len(candidates),
        )
        for candidate in candidates
    ]
    best = adopted(trials)
    return PromotionReport(
        trials=tuple(trials),
        adopted=best,
        calibration=calibrations.get(candidates[trials.index(best)]) if best else None,
        fitted_on=len(fit_rows),
        tested_on=len(test),
        judge=identity,
    )


def _judge_all(
    fit: Sequence[GoldPair],
    test: Sequence[GoldPair],
    judge: JudgeAsItIs,
    candidates: Sequence[Candidate],
    connect: Connect,
    journal_file: Path,
) -> tuple[list[_JudgedGold], JudgeIdentity, dict[Candidate, list[Judged]]]:
    """(judged rows of the judge as it is, who it is, the answers of candidates with own reads)."""
    answers: dict[Candidate, list[Judged]] = {}
    wordings = [c.value for c in candidates if c.kind is Kind.CONSTITUTION]
    with connect(judge.model, judge.server, [judge.constitution, *wordings]) as client:
        rows, identity = _judge([*fit, *test], client, journal_file, judge.constitution)
        for candidate in candidates:
            if candidate.kind is Kind.CONSTITUTION:
                own, _ = _judge(test, client, journal_file, candidate.value)
            elif candidate.kind is Kind.PROTOCOL:
                own, _ = _judge(
                    test, client, journal_file, judge.constitution, protocol=candidate.value
                )
            else:
                continue
            answers[candidate] = [row.judged(row.judgment.prob_a) for row in own]
    # Other judges one after the other: two models need not fit in memory.
    for candidate in candidates:
        if candidate.kind not in (Kind.JUDGE, Kind.SERVER):
            continue
        model = candidate.value if candidate.kind is Kind.JUDGE else ""
        address = candidate.value if candidate.kind is Kind.SERVER else ""
        with connect(model, address, [judge.constitution]) as client:
            own, _ = _judge(test, client, journal_file, judge.constitution)
        answers[candidate] = [row.judged(row.judgment.prob_a) for row in own]
    return rows, identity, answers


def _metric(calibration: Calibration | None) -> Metric:
    """Accuracy where a verdict can change, else log loss."""
    curve = calibration is not None and not isinstance(calibration.curve, FittedReader)
    return Metric.LOG_LOSS if curve else Metric.ACCURACY


def _judge(
    gold: Sequence[GoldPair],
    client: LabelingClient,
    journal_file: Path,
    constitution: str,
    protocol: str = "",
) -> tuple[list[_JudgedGold], JudgeIdentity]:
    """The gold pairs with a judgment, and who judged."""
    answers = judge_pairs(
        [comparison(pair) for pair in gold],
        client,
        journal_file,
        constitution=constitution,
        options=JudgeOptions(protocol=protocol),
    )
    rows = [
        _JudgedGold(pair, compared, answer)
        for pair, (compared, answer) in zip(gold, answers.by_pair(), strict=True)
        if isinstance(answer, Judgment)
    ]
    return rows, answers.judge


def _fit(
    candidate: Candidate, rows: Sequence[_JudgedGold], seed: int, command: str
) -> Curve | FittedReader:
    if candidate.kind is Kind.READER:
        reads = [
            GoldReads(
                row.pair.prompt_digest,
                features(row.judgment.votes, row.lengths),
                float(row.a_is_right),
            )
            for row in rows
        ]
        return fit_reader(reads, seed=seed, command=command)
    probs = [row.judged(row.raw_prob_a).q for row in rows]
    return choose(probs, [row.pair.prompt_digest for row in rows], FOLDS, seed).curve


def _calibration(
    curve: Curve | FittedReader, judge: JudgeIdentity, rows: Sequence[_JudgedGold]
) -> Calibration:
    return Calibration(
        constitution=judge.constitution.name,
        constitution_sha256=judge.constitution.sha256,
        model=judge.model.name,
        model_sha256=model_sha256(judge.model),
        template_version=judge.template_version,
        protocol=rows[0].judgment.provenance.protocol,
        pairs=len(rows),
        curve=curve,
    )


def _from_file(path: Path, row: _JudgedGold) -> Calibration:
    """The calibration of a file that was fitted for the judge as it is."""
    calibrations = read_calibrations(path)
    differences = [each.unfit_for(row.judgment.provenance) for each in calibrations]
    if "" in differences:
        return calibrations[differences.index("")]
    raise CalibrationError(
        f"{path}: no calibration for this judge ({'; '.join(differences) or 'it holds none'}); "
        "give one that was fitted for it"
    )


def record(path: Path, report: PromotionReport, gold: Path, command: str) -> None:
    """Append what was tried and adopted to a file, one JSON line per run."""
    line = {
        "command": command,
        "gold": str(gold),
        "judge": asdict(report.judge),
        "fitted_on": report.fitted_on,
        "tested_on": report.tested_on,
        "trials": [asdict(each) for each in report.trials],
        "adopted": report.adopted.name if report.adopted else None,
        "calibration": report.calibration.sha256 if report.calibration else None,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as out:
        out.write(json.dumps(line, ensure_ascii=False) + "\n")
