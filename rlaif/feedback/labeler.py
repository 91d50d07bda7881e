"""Pairs of responses → soft labels with receipts. The only door to the judge service.

    samples ─ pairing ─► Comparison ─ ask ─► Judgment | Unjudged ─ receipts ─► Preference

Every answer is on disk (`labels.journal.jsonl`, one line each) before the next one is looked at.
Answers are found again by what was asked: the texts, the constitution's digest, the judge's model,
its template and the options. So a killed run continues where it stopped, an edited constitution
is not taken for the old one, and going back to the old one costs nothing. Answers stay on disk: of
each, memory holds its key and its place in the journal.

A label of a pair, with p = P(A is better): chosen = A where p ≥ ½, else B; prob_chosen =
max(p, 1 - p); a trait's probability is turned the same way, and may lie under ½. A pair without
a judgment is kept with its reason in `unjudged.jsonl` and is never a number.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, TypeAdapter

from constitution.errors import UserError
from constitution.schema import Constitution
from judge_service.client.sync import JudgeUnavailable
from judge_service.server_info import ConstitutionSummary, ServerInfo, ServerState
from judge_service.types import (
    Comparison,
    JudgeOptions,
    Judgment,
    ModelIdentity,
    Unjudged,
    UnjudgedReason,
    Usage,
)
from rlaif.data.journal import Journal
from rlaif.data.records import atomic_open, write_json, write_preferences
from rlaif.evaluation.policies import Compare, JudgedPair, Question
from rlaif.feedback import earlier_labels
from rlaif.feedback.counts import Tally
from rlaif.feedback.earlier_labels import Earlier, MadeBy
from rlaif.feedback.pairs import digest
from rlaif.feedback.receipts import preference
from rlaif.progress import progress

JOURNAL = "labels.journal.jsonl"
PREFERENCES = "preferences.parquet"
UNJUDGED = "unjudged.jsonl"
SUMMARY = "labels.summary.json"

# What another try may change: not taken from the journal, asked again.
TRANSIENT = frozenset({UnjudgedReason.ENGINE_FAILED, UnjudgedReason.CANCELLED})


class LabelingError(UserError):
    """Labeling stopped. The message says what is safe and how to continue."""


# ── asking ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class JudgeIdentity:
    """Who judges and by which law: an answer counts only for the identity it was asked of."""

    constitution: ConstitutionSummary
    model: ModelIdentity
    template_version: str
    calibrations: tuple[str, ...] = ()  # digests of those the judge applies under this law


class JournalEntry(BaseModel):
    """One answer of the judge; `key` says what was asked."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    key: str
    id: str
    answer: Judgment | Unjudged


class LabelingClient(Protocol):
    """What labeling needs of `judge_service.client.sync.JudgeClient`."""

    def server_info(self) -> ServerInfo: ...

    def stream(
        self,
        comparisons: Iterable[Comparison],
        constitution: str | Constitution,
        options: JudgeOptions,
    ) -> Iterator[tuple[str, Judgment | Unjudged]]: ...


@dataclass(frozen=True, slots=True)
class Answers:
    """Every pair with the place of its answer, who gave them, and what this call took."""

    pairs: Sequence[Comparison]
    places: Sequence[int]  # of each pair's answer in the journal
    journal: Journal[JournalEntry]  # closed; its entries can be read
    judge: JudgeIdentity
    asked: int  # the others were in the journal
    usage: Usage  # of those asked
    seconds: float

    def found(self) -> Iterator[tuple[Comparison, Judgment | Unjudged]]:
        """Every pair with its answer, in the order given, read from the disk one by one."""
        for pair, entry in zip(self.pairs, self.journal.read(self.places), strict=True):
            yield pair, entry.answer


_OPTIONS = TypeAdapter(JudgeOptions)


def answer_key(pair: Comparison, judge: JudgeIdentity, options: JudgeOptions) -> str:
    """What was asked, of whom, by which law: sha256. The pair's id, the priority and whether the
    server looked into its store do not matter."""
    asked = _OPTIONS.dump_python(options, mode="json", exclude={"interactive", "use_store"})
    conversation = [[message.role, message.content] for message in pair.conversation]
    law = [judge.constitution.sha256, asdict(judge.model), judge.template_version]
    if options.calibrated:
        law += judge.calibrations
    return digest([conversation, pair.response_a, pair.response_b, law, asked])


def identify(info: ServerInfo, constitution: str | Constitution = "") -> JudgeIdentity:
    """Who would answer now. `constitution` is a name the server knows, "" for its default, or a
    YAML file or a Constitution: one of the server's to the word, or sent along where it allows."""
    if info.model is None:
        raise LabelingError("the judge is still loading its model; wait until it serves")
    law = _law(constitution)
    for offered in info.constitutions:
        by_name = isinstance(law, str) and law in ("", offered.name)
        if by_name or (isinstance(law, Constitution) and law.digest == offered.sha256):
            fitted = [c for c in info.calibrations if c.constitution_sha256 == offered.sha256]
            digests = tuple(sorted(c.sha256 for c in fitted))
            return JudgeIdentity(offered, info.model, info.template_version, digests)
    if isinstance(law, Constitution) and info.inline_constitutions:
        brought = ConstitutionSummary(law.name, law.version, law.digest)
        return JudgeIdentity(brought, info.model, info.template_version)
    names = ", ".join(offered.name for offered in info.constitutions)
    shown = constitution if isinstance(constitution, str) else constitution.name
    raise LabelingError(
        f"the judge does not serve the constitution {shown!r} as it is now, only {names}; "
        "start it again with --constitution, or with --allow-inline to send any"
    )


def _law(constitution: str | Constitution) -> str | Constitution:
    if isinstance(constitution, str) and constitution.endswith((".yaml", ".yml")):
        return Constitution.load(constitution)
    return constitution


def ask(
    pairs: Sequence[Comparison],
    client: LabelingClient,
    journal_file: Path,
    *,
    constitution: str | Constitution = "",
    options: JudgeOptions | None = None,
) -> Answers:
    """The judge's answer to every pair, in order; what the journal has is not asked again.

    Equal questions are asked once. Raises LabelingError when the judge goes away, RecordError when
    the disk is full: every answer so far is safe, and the same call continues.
    """
    info, law = client.server_info(), _law(constitution)
    judge = identify(info, law)
    options = replace(options or JudgeOptions(), interactive=False)
    keys = {pair.id: answer_key(pair, judge, options) for pair in pairs}
    if len(keys) != len(pairs):
        twice = next(id for id, n in Counter(pair.id for pair in pairs).items() if n > 1)
        raise LabelingError(f"pair id {twice!r} occurs more than once; give each pair its own id")
    started, usage = time.monotonic(), Usage()
    with Journal(journal_file, JournalEntry) as journal:
        questions = set(keys.values())
        places = _index(journal, questions)
        waiting: dict[str, Comparison] = {}
        for pair in pairs:
            if keys[pair.id] not in places:
                waiting.setdefault(keys[pair.id], pair)
        with progress("labels", len(questions), "pairs") as report:
            report(before := len(questions) - len(waiting))
            known = judge.constitution in info.constitutions
            law = judge.constitution.name if known else law
            try:
                stream = client.stream(waiting.values(), constitution=law, options=options)
                for done, (id, answer) in enumerate(stream, start=1):
                    _still_fit(client, answer, judge)
                    entry = JournalEntry(key=keys[id], id=id, answer=answer)
                    places[keys[id]] = journal.append(entry)
                    usage += answer.usage
                    rate = done / (time.monotonic() - started)
                    report(before + done, f"{rate:.2f} pairs/s")
            except JudgeUnavailable as error:
                raise LabelingError(
                    f"{error}\n{len(places)} of {len(questions)} labels are safe in "
                    f"{journal_file}; when the judge is up again, run the same command: it "
                    "continues with the others"
                ) from error
    if lacking := len(questions - places.keys()):
        raise LabelingError(
            f"the judge left {lacking} pairs without an answer; run again to ask them"
        )
    found = [places[keys[pair.id]] for pair in pairs]
    seconds = time.monotonic() - started
    return Answers(pairs, found, journal, judge, len(waiting), usage, seconds)


def _index(journal: Journal[JournalEntry], questions: set[str]) -> dict[str, int]:
    """Where the journal holds the answers to these questions, those aside that another try may
    change."""
    places: dict[str, int] = {}
    for place, entry in journal.scan():
        lasting = not isinstance(entry.answer, Unjudged) or entry.answer.reason not in TRANSIENT
        if entry.key in questions and lasting:
            places[entry.key] = place
    return places


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
                "the judge changed while labeling (another model or constitution answers now); "
                "run again to label with the new one, or start the old one again to continue"
            )


def comparer(
    client: LabelingClient,
    journal_file: Path,
    *,
    constitution: str | Constitution = "",
    options: JudgeOptions | None = None,
) -> Compare:
    """What `evaluation.evaluate` asks of a judge; killed and called again, it asks for the rest."""

    def compare(questions: Sequence[Question]) -> dict[str, JudgedPair]:
        pairs = [Comparison(*question) for question in questions]
        answers = ask(pairs, client, journal_file, constitution=constitution, options=options)
        return {
            pair.id: JudgedPair(answer.prob_a, traits=answer.trait_probs)
            if isinstance(answer, Judgment)
            else JudgedPair(None, answer.reason.value)
            for pair, answer in answers.found()
        }

    return compare


# ── labels ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class LabelingSummary:
    """The counts of a labeled set. Means are None where there is nothing to take a mean of."""

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
    reads: int  # computed for these labels
    stored_reads: int  # found in the store, or taken from receipts
    prompt_tokens: int
    cached_tokens: int
    asked_reads: int  # of `reads`, those of this run
    asked_stored_reads: int
    seconds: float  # wall time of this run
    judge: JudgeIdentity
    options: dict[str, Any]  # of the judge, those that labels depend on
    kept: str | None = None  # name of the file with the labels that were there, if made otherwise


def label(
    pairs: Sequence[Comparison],
    client: LabelingClient,
    out: Path,
    *,
    constitution: str | Constitution = "",
    options: JudgeOptions | None = None,
    identical: int = 0,
    earlier: Earlier = Earlier.REFUSE,
) -> LabelingSummary:
    """Label the pairs into the folder `out`; run again after a kill, it asks only for the rest.

    Writes labels.journal.jsonl as answers come, then preferences.parquet, unjudged.jsonl and
    labels.summary.json, each whole or not at all. `identical` is that of `Pairs`, to be reported.
    `earlier` says what becomes of labels in the folder by another constitution, judge or options.
    Raises as `ask`, LabelingError when no pair at all could be judged, and EarlierLabelsError
    before anything is asked where the folder holds such labels and `earlier` is REFUSE.
    """
    options = options or JudgeOptions()
    labels = out / PREFERENCES
    if earlier is Earlier.REFUSE:
        now = MadeBy.now(identify(client.server_info(), constitution), options)
        earlier_labels.require_same(labels, out / SUMMARY, now)
    answers = ask(pairs, client, out / JOURNAL, constitution=constitution, options=options)
    tally = Tally()
    with atomic_open(out / UNJUDGED) as unjudged:
        for pair, answer in answers.found():
            tally.add(answer)
            if isinstance(answer, Unjudged):
                line = {"id": pair.id, "reason": answer.reason.value, "detail": answer.detail}
                unjudged.write(json.dumps(line, ensure_ascii=False) + "\n")
    kept = None
    if earlier is Earlier.KEEP and tally.judged:  # all answers are here: nothing can fail halfway
        kept = earlier_labels.keep(labels, out / SUMMARY, MadeBy.now(answers.judge, options))
    summary = _summarize(answers, tally, identical, options, kept)
    write_json(out / SUMMARY, asdict(summary))
    if not summary.judged:
        raise LabelingError(
            f"none of {len(pairs)} pairs could be judged ({_reasons(summary.unjudged_by_reason)}); "
            f"{out / UNJUDGED} says why for each"
        )
    found = (
        preference(pair, answer) for pair, answer in answers.found() if isinstance(answer, Judgment)
    )
    write_preferences(labels, found, tally.traits)
    return summary


def _reasons(counts: dict[str, int]) -> str:
    return ", ".join(f"{reason} {n}" for reason, n in counts.items()) or "no pairs were given"


def _summarize(
    answers: Answers, tally: Tally, identical: int, options: JudgeOptions, kept: Path | None
) -> LabelingSummary:
    return LabelingSummary(
        pairs=len(answers.pairs),
        judged=tally.judged,
        unjudged=len(answers.pairs) - tally.judged,
        unjudged_by_reason=dict(tally.reasons.most_common()),
        identical=identical,
        asked=answers.asked,
        mean_prob_chosen=tally.prob_chosen.value,
        position_consistency=tally.consistent.value,
        mean_order_gap=tally.order_gap.value,
        mean_label_mass=tally.label_mass.value,
        void_reads=tally.void_reads,
        reads=tally.usage.reads,
        stored_reads=tally.usage.stored_reads,
        prompt_tokens=tally.usage.prompt_tokens,
        cached_tokens=tally.usage.cached_tokens,
        asked_reads=answers.usage.reads,
        asked_stored_reads=answers.usage.stored_reads,
        seconds=answers.seconds,
        judge=answers.judge,
        options=earlier_labels.recorded_options(options),
        kept=kept.name if kept else None,
    )
