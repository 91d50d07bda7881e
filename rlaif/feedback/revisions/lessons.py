"""Lessons from critique and revision, with all that was refused and why.

    samples ─ rounds.py ─► y_k ─ lint.py ─► ─ gate.py ─► lesson (x, y_k), pair y_k > y_0
                            └──────┴──────────┴────────► unrevised, with its reason

SFT imitates the lessons, mixed with helpful answers (arXiv:2212.08073, section 3.2); the pairs are
soft preferences for a reward model and DPO. The first `pilot` samples go all the way before the
others are begun: a gate that lets nothing through, or a judge that cannot write, stops the run
then.

    lessons.jsonl             Demonstrations
    unrevised.jsonl           id, kind, reason, prompt, response, revision, prob_better
    pairs.parquet             Preferences with receipts; none without a gate
    revisions.summary.json    counts (summary.py)
    *.journal.jsonl           rounds, and answers of the gate: a killed run does only the rest
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from constitution.schema import Constitution
from judge_service.types import Comparison, JudgeOptions, Judgment, Unjudged, WritingOptions
from rlaif.data.records import (
    Demonstration,
    Preference,
    Sample,
    atomic_open,
    write_jsonl,
    write_preferences,
)
from rlaif.evaluation.rules.refusals import refuses
from rlaif.feedback.labeler import LabelingClient, judge_pairs
from rlaif.feedback.receipts import preference
from rlaif.feedback.revisions import gate as gates
from rlaif.feedback.revisions import lint
from rlaif.feedback.revisions.rounds import (
    RevisionError,
    Round,
    WritingClient,
    WrittenRounds,
    write_rounds,
)
from rlaif.feedback.revisions.summary import (
    BORDERLINE,
    KindCounts,
    Refusals,
    RevisionSummary,
    one_kind_only,
)

ROUNDS_JOURNAL = "revisions.journal.jsonl"
GATE_JOURNAL = "gate.journal.jsonl"
LESSONS, UNREVISED, PAIRS = "lessons.jsonl", "unrevised.jsonl", "pairs.parquet"
SUMMARY = "revisions.summary.json"
DEFAULT_PILOT = 32


class RevisingClient(WritingClient, LabelingClient, Protocol):
    """The part of `JudgeClient` that revising uses: it writes and compares."""


@dataclass(frozen=True, slots=True)
class RevisionMethod:
    """How revisions are made and chosen.

    constitution: a name that the server knows, a YAML file, or a Constitution. gate: least
    P(revision is better); None: no comparison and no pairs. pilot: None: all at once.
    sample_principles: for each comparison; None: all that apply. concurrency: rounds at a time.
    """

    constitution: str | Constitution = ""
    rounds: int = 1
    gate: float | None = gates.DEFAULT_GATE
    pilot: int | None = DEFAULT_PILOT
    max_tokens: int = 256
    temperature: float = 1.0
    seed: int = 0
    sample_principles: int | None = None
    concurrency: int = 16

    def __post_init__(self) -> None:
        least = {"rounds": self.rounds, "concurrency": self.concurrency, "pilot": self.pilot or 1}
        for name, value in least.items():
            if type(value) is not int or value < 1:
                raise RevisionError(f"invalid {name}: {value!r}; give an integer, 1 or more")
        if self.gate is None:
            return
        if type(self.gate) not in (int, float) or not 0.5 <= self.gate < 1:
            raise RevisionError(f"invalid gate: {self.gate!r}; give a probability from 0.5 to 1")


@dataclass(frozen=True, slots=True)
class Revised:
    """What became of one sample. reason: why it is no lesson, "" if it is one."""

    sample: Sample
    text: str
    reason: str
    detail: str = ""
    prob_better: float | None = None
    pair: Preference | None = None

    def line(self) -> dict[str, Any]:
        """A line of unrevised.jsonl."""
        return {
            "id": gates.sample_id(self.sample),
            "kind": self.sample.prompt.kind,
            "reason": self.reason,
            "detail": self.detail,
            "prompt": [message.model_dump() for message in self.sample.prompt.messages],
            "response": self.sample.response,
            "revision": self.text,
            "prob_better": self.prob_better,
        }


def revise(
    samples: Sequence[Sample],
    client: RevisingClient,
    out: Path,
    method: RevisionMethod,
    *,
    traits: Collection[str] = (),
    may_be_empty: bool = False,
) -> RevisionSummary:
    """Revise every sample into the folder `out`; run again, it does only the rest.

    traits: columns of the pairs besides those of the traits that were judged. may_be_empty: files
    without lessons are written where there is none. Raises RevisionError when there is no lesson at
    all, or none among the pilot's samples, and what the client raises when the judge becomes
    unavailable: all answers so far are saved.
    """
    if not samples:
        raise RevisionError("no samples to revise; give at least one")
    if warning := one_kind_only([sample.prompt for sample in samples]):
        print(warning, file=sys.stderr)
    out.mkdir(parents=True, exist_ok=True)
    pilot = min(method.pilot or len(samples), len(samples))
    revised: list[Revised] = []
    written: list[WrittenRounds] = []
    for part in filter(None, (samples[:pilot], samples[pilot:])):
        found, rounds = _revised(part, client, out, method)
        revised += found
        written.append(rounds)
        if not may_be_empty and not any(not each.reason for each in revised):
            _write(revised, out, method, traits)
            raise RevisionError(_no_lesson(revised, len(samples), method, out))
    summary = _summary(revised, written, method)
    _write(revised, out, method, traits)
    summary.save(out / SUMMARY)
    return summary


def _revised(
    samples: Sequence[Sample], client: RevisingClient, out: Path, method: RevisionMethod
) -> tuple[list[Revised], WrittenRounds]:
    """Rounds, lint and gate of these samples, in order; and the rounds."""
    rounds = write_rounds(
        samples,
        client,
        out / ROUNDS_JOURNAL,
        constitution=method.constitution,
        rounds=method.rounds,
        options=WritingOptions(
            max_tokens=method.max_tokens, temperature=method.temperature, seed=method.seed
        ),
        concurrency=method.concurrency,
    )
    found = [_linted(*each) for each in zip(samples, rounds.last, strict=True)]
    # Only what passed the rules is worth the judge's reads.
    if method.gate is not None:
        answers = _compared([each for each in found if not each.reason], client, out, method)
        found = [_gated(each, answers, method.gate) for each in found]
    return found, rounds


def _linted(sample: Sample, last: Round) -> Revised:
    if last.text is None:
        parts = last.why_not.split(": ", 2)
        return Revised(sample, "", ": ".join(parts[:2]), "".join(parts[2:]))
    return Revised(sample, last.text, lint.problem(sample.response, last.text))


def _compared(
    candidates: Sequence[Revised], client: RevisingClient, out: Path, method: RevisionMethod
) -> dict[str, tuple[Comparison, Judgment | Unjudged]]:
    """Sample id → the comparison of its revision with its original, and the judge's answer."""
    pairs = [gates.question(each.sample, each.text) for each in candidates]
    if not pairs:
        return {}
    options = JudgeOptions(sample_principles=method.sample_principles, seed=method.seed)
    answers = judge_pairs(
        pairs, client, out / GATE_JOURNAL, constitution=method.constitution, options=options
    )
    return {pair.id: (pair, answer) for pair, answer in answers.by_pair()}


def _gated(
    each: Revised, answers: dict[str, tuple[Comparison, Judgment | Unjudged]], gate: float
) -> Revised:
    if each.reason:
        return each
    pair, answer = answers[gates.sample_id(each.sample)]
    reason = gates.refusal(answer, gate)
    if isinstance(answer, Unjudged):
        return Revised(each.sample, each.text, reason, answer.detail)
    detail = f"P(better) {answer.prob_a:.3f} is under {gate:g}" if reason else ""
    label = None if reason else preference(pair, answer)
    return Revised(each.sample, each.text, reason, detail, answer.prob_a, label)


# ── what is written ──────────────────────────────────────────────────────────────────────────


def _write(
    revised: Sequence[Revised], out: Path, method: RevisionMethod, traits: Collection[str]
) -> None:
    write_jsonl(
        out / LESSONS,
        (
            Demonstration(
                id=gates.sample_id(each.sample),
                prompt=each.sample.prompt.messages,
                response=each.text,
            )
            for each in revised
            if not each.reason
        ),
    )
    with atomic_open(out / UNREVISED) as file:
        for each in revised:
            if each.reason:
                file.write(json.dumps(each.line(), ensure_ascii=False) + "\n")
    if method.gate is None:
        (out / PAIRS).unlink(missing_ok=True)  # of an earlier run with a gate
    else:
        pairs = [each.pair for each in revised if each.pair is not None]
        judged = {trait for pair in pairs for trait in pair.traits}
        write_preferences(out / PAIRS, pairs, judged | set(traits))


def _summary(
    revised: Sequence[Revised], written: Sequence[WrittenRounds], method: RevisionMethod
) -> RevisionSummary:
    principles = sum((rounds.principles for rounds in written), Counter[str]())
    judge = written[0].judge
    lessons = [each for each in revised if not each.reason]
    judged = [each.prob_better for each in revised if each.prob_better is not None]
    by_kind = {
        kind: KindCounts(
            samples=sum(each.sample.prompt.kind == kind for each in revised),
            lessons=sum(each.sample.prompt.kind == kind for each in lessons),
        )
        for kind in dict.fromkeys(each.sample.prompt.kind for each in revised)
    }
    return RevisionSummary(
        samples=len(revised),
        lessons=len(lessons),
        refused_by_reason=dict(Counter(e.reason for e in revised if e.reason).most_common()),
        by_kind=by_kind,
        gate=method.gate,
        mean_prob_better=sum(judged) / len(judged) if judged else None,
        borderline=_refusals([e for e in lessons if e.sample.prompt.kind == BORDERLINE]),
        asked=sum(rounds.asked for rounds in written),
        principles=dict(principles.most_common()),
        judge=judge.model.name,
        constitution=f"{judge.constitution.name} {judge.constitution.version}",
    )


def _refusals(lessons: Sequence[Revised]) -> Refusals | None:
    if not lessons:
        return None
    return Refusals(
        lessons=len(lessons),
        refusing=sum(refuses(each.text) for each in lessons),
        originals_refusing=sum(refuses(each.sample.response) for each in lessons),
    )


def _no_lesson(revised: Sequence[Revised], total: int, method: RevisionMethod, out: Path) -> str:
    reasons = Counter(each.reason for each in revised)
    counts = ", ".join(f"{reason} {n}" for reason, n in reasons.most_common())
    remedy = f"{out / UNREVISED} has the reason for each"
    judged = [each.prob_better for each in revised if each.prob_better is not None]
    if judged:
        remedy = (
            f"the surest revision is better with {max(judged):.2f}, under gate={method.gate:g}: "
            f"lower it, or change the judge or the constitution; {remedy}"
        )
    if len(revised) < total:
        return (
            f"no lesson among the first {len(revised)} of {total} responses ({counts}), so the "
            f"others were not begun; {remedy}; pilot=null goes on regardless"
        )
    return f"none of {total} responses could be revised ({counts}); {remedy}"
