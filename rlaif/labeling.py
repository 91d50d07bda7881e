"""Pairs of responses → soft labels with receipts. The only door to the judge service.

    samples ─ pairs_from_samples ─► Comparison ─ label ─► Judgment | Unjudged ─► Preference

Every answer is on disk (`labels.journal.jsonl`, one line each) before the next one is looked at.
Answers are found again by what was asked: the texts, the constitution's digest, the judge's model,
its template and the options. So a killed run continues where it stopped, an edited constitution
is not taken for the old one, and going back to the old one costs nothing.

A label of a pair, with p = P(A is better): chosen = A where p ≥ ½, else B; prob_chosen =
max(p, 1 - p); a trait's probability is turned the same way, and may lie under ½. A pair without
a judgment is kept with its reason in `unjudged.jsonl` and is never a number.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, TypeAdapter

from constitution.errors import UserError
from constitution.schema import Constitution, Message
from judge_service.client import JudgeUnavailable
from judge_service.judgment import (
    Comparison,
    JudgeOptions,
    Judgment,
    ModelIdentity,
    Unjudged,
    UnjudgedReason,
)
from judge_service.server_info import ConstitutionSummary, ServerInfo, ServerState
from rlaif.evaluation import Compare, Outcome, Question
from rlaif.journal import Journal
from rlaif.progress import progress
from rlaif.records import (
    Preference,
    RecordError,
    Sample,
    atomic_open,
    write_json,
    write_preferences,
)

JOURNAL = "labels.journal.jsonl"
PREFERENCES = "preferences.parquet"
UNJUDGED = "unjudged.jsonl"
SUMMARY = "labels.summary.json"

# What another try may change: not taken from the journal, asked again.
TRANSIENT = frozenset({UnjudgedReason.ENGINE_FAILED, UnjudgedReason.CANCELLED})


class LabelingError(UserError):
    """Labelling stopped. The message says what is safe and how to continue."""


# ── which pairs ──────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Pairs:
    """Comparisons to ask for, and how many responses were left out as repeats of another."""

    comparisons: tuple[Comparison, ...]
    identical: int


def pairs_from_samples(
    samples: Iterable[Sample], *, pairs_per_prompt: int | None = 1, seed: int = 0
) -> Pairs:
    """The first pairs of distinct responses of every prompt; None: all pairs.

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
        pairs = itertools.combinations(distinct.values(), 2)
        comparisons += [
            _comparison(one, other, seed)
            for one, other in itertools.islice(pairs, pairs_per_prompt)
        ]
    return Pairs(tuple(comparisons), identical)


def _comparison(one: Sample, other: Sample, seed: int) -> Comparison:
    coin = _digest([seed, one.prompt.id, one.response, other.response])
    a, b = (one, other) if int(coin, 16) % 2 == 0 else (other, one)
    return Comparison(
        id=f"{one.prompt.id}/{one.index}-{other.index}",
        conversation=one.prompt.messages,
        response_a=a.response,
        response_b=b.response,
    )


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# ── asking ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class JudgeIdentity:
    """Who judges and by which law: an answer counts only for the identity it was asked of."""

    constitution: ConstitutionSummary
    model: ModelIdentity
    template_version: str


class JournalEntry(BaseModel):
    """One answer of the judge; `key` says what was asked."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    key: str
    id: str
    answer: Judgment | Unjudged


class LabelingClient(Protocol):
    """What labelling needs of `judge_service.client.JudgeClient`."""

    def server_info(self) -> ServerInfo: ...

    def stream(
        self, comparisons: Iterable[Comparison], constitution: str, options: JudgeOptions
    ) -> Iterator[tuple[str, Judgment | Unjudged]]: ...


@dataclass(frozen=True, slots=True)
class Answers:
    """Every pair with its answer, who gave them, and what this call took."""

    found: tuple[tuple[Comparison, Judgment | Unjudged], ...]
    judge: JudgeIdentity
    asked: int  # the others were in the journal
    seconds: float


_OPTIONS = TypeAdapter(JudgeOptions)


def answer_key(pair: Comparison, judge: JudgeIdentity, options: JudgeOptions) -> str:
    """What was asked, of whom, by which law: sha256. The pair's id and priority do not matter."""
    asked = _OPTIONS.dump_python(options, mode="json")
    del asked["interactive"]
    conversation = [[message.role, message.content] for message in pair.conversation]
    law = [judge.constitution.sha256, asdict(judge.model), judge.template_version]
    return _digest([conversation, pair.response_a, pair.response_b, law, asked])


def identify(info: ServerInfo, constitution: str = "") -> JudgeIdentity:
    """Who would answer now. `constitution` is a name the server knows, or a YAML file that must be
    one of the server's, to the word; "" is the server's default."""
    if info.model is None:
        raise LabelingError("the judge is still loading its model; wait until it serves")
    from_file = constitution.endswith((".yaml", ".yml"))
    wanted = Constitution.load(constitution).digest if from_file else constitution
    for offered in info.constitutions:
        if wanted in ("", offered.sha256 if from_file else offered.name):
            return JudgeIdentity(offered, info.model, info.template_version)
    names = ", ".join(offered.name for offered in info.constitutions)
    raise LabelingError(
        f"the judge does not serve the constitution {constitution!r} as it is now, only {names}; "
        "start it again with --constitution"
    )


def ask(
    pairs: Sequence[Comparison],
    client: LabelingClient,
    journal_file: Path,
    *,
    constitution: str = "",
    options: JudgeOptions | None = None,
) -> Answers:
    """The judge's answer to every pair, in order; what the journal has is not asked again.

    Equal questions are asked once. Raises LabelingError when the judge goes away, RecordError when
    the disk is full: every answer so far is safe, and the same call continues.
    """
    judge = identify(client.server_info(), constitution)
    options = replace(options or JudgeOptions(), interactive=False)
    keys = {pair.id: answer_key(pair, judge, options) for pair in pairs}
    if len(keys) != len(pairs):
        twice = next(id for id, n in Counter(pair.id for pair in pairs).items() if n > 1)
        raise LabelingError(f"pair id {twice!r} occurs more than once; give each pair its own id")
    started = time.monotonic()
    with Journal(journal_file, JournalEntry) as journal:
        answers = {entry.key: entry.answer for entry in journal.entries}
        waiting: dict[str, Comparison] = {}
        for pair in pairs:
            known = answers.get(keys[pair.id])
            if known is None or (isinstance(known, Unjudged) and known.reason in TRANSIENT):
                waiting.setdefault(keys[pair.id], pair)
        questions = set(keys.values())
        with progress("labels", len(questions), "pairs") as report:
            report(before := len(questions) - len(waiting))
            try:
                stream = client.stream(
                    waiting.values(), constitution=judge.constitution.name, options=options
                )
                for done, (id, answer) in enumerate(stream, start=1):
                    _still_fit(client, answer, judge)
                    journal.append(JournalEntry(key=keys[id], id=id, answer=answer))
                    answers[keys[id]] = answer
                    rate = done / (time.monotonic() - started)
                    report(before + done, f"{rate:.2f} pairs/s")
            except JudgeUnavailable as error:
                safe = sum(key in answers for key in questions)
                raise LabelingError(
                    f"{error}\n{safe} of {len(questions)} labels are safe in {journal_file}; when "
                    "the judge is up again, run the same command: it continues with the others"
                ) from error
    if lacking := len(questions - answers.keys()):
        raise LabelingError(
            f"the judge left {lacking} pairs without an answer; run again to ask them"
        )
    found = tuple((pair, answers[keys[pair.id]]) for pair in pairs)
    return Answers(found, judge, len(waiting), time.monotonic() - started)


def _still_fit(client: LabelingClient, answer: Judgment | Unjudged, judge: JudgeIdentity) -> None:
    """A server restarted with other weights or another law must not mix its labels into these, and
    one whose engine died must not leave every other pair unjudged."""
    if isinstance(answer, Unjudged):
        if (
            answer.reason is UnjudgedReason.ENGINE_FAILED
            and client.server_info().state is ServerState.FAILED
        ):
            raise JudgeUnavailable(f"the judge's engine died: {answer.detail}")
    else:
        origin = answer.provenance
        if (origin.model, origin.constitution_sha256) != (judge.model, judge.constitution.sha256):
            raise LabelingError(
                "the judge changed while labelling (another model or constitution answers now); "
                "run again to label with the new one, or start the old one again to continue"
            )


def comparer(
    client: LabelingClient,
    journal_file: Path,
    *,
    constitution: str = "",
    options: JudgeOptions | None = None,
) -> Compare:
    """What `evaluation.evaluate` asks of a judge; killed and called again, it asks for the rest."""

    def compare(questions: Sequence[Question]) -> dict[str, Outcome]:
        pairs = [Comparison(*question) for question in questions]
        answers = ask(pairs, client, journal_file, constitution=constitution, options=options)
        return {
            pair.id: Outcome(answer.prob_a)
            if isinstance(answer, Judgment)
            else Outcome(None, answer.reason.value)
            for pair, answer in answers.found
        }

    return compare


# ── labels ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class LabelingSummary:
    """The counts of a labelled set. Means are None where there is nothing to take a mean of."""

    pairs: int
    judged: int
    unjudged: int
    unjudged_by_reason: dict[str, int]
    identical: int  # responses left out before: repeats of another of the same prompt
    asked: int  # answers of the judge in this run; the others were in the journal
    mean_prob_chosen: float | None  # 0.5 = the judge cannot tell, 1 = always sure
    position_consistency: float | None  # share that names the same response in both orders
    mean_order_gap: float | None  # mean |P(A | order AB) - P(A | order BA)|
    mean_label_mass: float | None  # probability on the two labels, over all valid reads
    void_reads: int
    reads: int
    prompt_tokens: int
    cached_tokens: int
    seconds: float  # wall time of this run
    judge: JudgeIdentity


def label(
    pairs: Sequence[Comparison],
    client: LabelingClient,
    out: Path,
    *,
    constitution: str = "",
    options: JudgeOptions | None = None,
    identical: int = 0,
) -> LabelingSummary:
    """Label the pairs into the folder `out`; run again after a kill, it asks only for the rest.

    Writes labels.journal.jsonl as answers come, then preferences.parquet, unjudged.jsonl and
    labels.summary.json, each whole or not at all. `identical` is that of `Pairs`, to be reported.
    Raises as `ask`, and LabelingError when no pair at all could be judged.
    """
    answers = ask(pairs, client, out / JOURNAL, constitution=constitution, options=options)
    summary = _summarise(answers, identical)
    _write_unjudged(out / UNJUDGED, answers.found)
    write_json(out / SUMMARY, asdict(summary))
    if not summary.judged:
        raise LabelingError(
            f"none of {len(pairs)} pairs could be judged ({_reasons(summary.unjudged_by_reason)}); "
            f"{out / UNJUDGED} says why for each"
        )
    write_preferences(
        out / PREFERENCES,
        [
            preference(pair, answer)
            for pair, answer in answers.found
            if isinstance(answer, Judgment)
        ],
    )
    return summary


def _reasons(counts: dict[str, int]) -> str:
    return ", ".join(f"{reason} {n}" for reason, n in counts.items()) or "no pairs were given"


def preference(pair: Comparison, judgment: Judgment) -> Preference:
    """The judgment as an ordered pair with its receipt; an exact ½ calls A chosen."""
    a_chosen = judgment.prob_a >= 0.5
    chosen, rejected = (
        (pair.response_a, pair.response_b) if a_chosen else (pair.response_b, pair.response_a)
    )
    return Preference(
        id=pair.id,
        prompt=pair.conversation,
        chosen=(Message(role="assistant", content=chosen),),
        rejected=(Message(role="assistant", content=rejected),),
        prob_chosen=_toward(judgment.prob_a, a_chosen),
        traits={trait: _toward(p, a_chosen) for trait, p in judgment.trait_probs.items()},
        receipt=json.dumps(receipt(judgment), ensure_ascii=False),
    )


def _toward(prob_a: float, a_chosen: bool) -> float:
    return prob_a if a_chosen else 1.0 - prob_a


_JUDGMENT = TypeAdapter(Judgment)


def receipt(judgment: Judgment) -> dict[str, Any]:
    """Where a label came from: who judged, by which law, every read with what was asked."""
    found: dict[str, Any] = _JUDGMENT.dump_python(judgment, mode="json")
    return {
        "chosen": "A" if judgment.prob_a >= 0.5 else "B",
        **found["provenance"],
        **{name: found[name] for name in ("verdict", "prob_a", "order_gap", "position_consistent")},
        "votes": found["votes"],
    }


def _write_unjudged(path: Path, found: Sequence[tuple[Comparison, Judgment | Unjudged]]) -> None:
    with atomic_open(path) as out:
        for pair, answer in found:
            if isinstance(answer, Unjudged):
                line = {"id": pair.id, "reason": answer.reason.value, "detail": answer.detail}
                out.write(json.dumps(line, ensure_ascii=False) + "\n")


def _summarise(answers: Answers, identical: int) -> LabelingSummary:
    found = answers.found
    judgments = [answer for _, answer in found if isinstance(answer, Judgment)]
    reasons = Counter(answer.reason.value for _, answer in found if isinstance(answer, Unjudged))
    votes = [vote for judgment in judgments for vote in judgment.votes]
    usages = [answer.usage for _, answer in found]
    return LabelingSummary(
        pairs=len(found),
        judged=len(judgments),
        unjudged=len(found) - len(judgments),
        unjudged_by_reason=dict(reasons.most_common()),
        identical=identical,
        asked=answers.asked,
        mean_prob_chosen=_mean(max(j.prob_a, 1.0 - j.prob_a) for j in judgments),
        position_consistency=_mean(j.position_consistent for j in judgments),
        mean_order_gap=_mean(j.order_gap for j in judgments),
        mean_label_mass=_mean(read.label_mass for vote in votes for read in vote.reads),
        void_reads=sum(vote.void_reads for vote in votes),
        reads=sum(usage.reads for usage in usages),
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        cached_tokens=sum(usage.cached_tokens for usage in usages),
        seconds=answers.seconds,
        judge=answers.judge,
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
