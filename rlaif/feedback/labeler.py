"""Labeling: pairs of responses → soft labels with receipts, resumable after a kill.

    samples ─ pairs ─► Comparison ─ judge_pairs ─► Judgment | Unjudged ─ receipts ─► Preference

Every answer is appended to `labels.journal.jsonl`, one line each, before the next is processed, and
counts as saved once it is synced to disk. Its key is a digest of the texts, the constitution, the
judge's model, its template and the options. So a killed run continues where it stopped, an edited
constitution is judged anew, and going back to the old one costs nothing. Memory holds only the key
and the journal offset of each answer.

The label of a pair, with p = P(A is better): chosen = A if p ≥ ½, else B; prob_chosen =
max(p, 1 - p); a trait's probability is converted the same way, and may be below ½. A pair without
a judgment is recorded with its reason in `unjudged.jsonl`, and is never a number.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, TypeAdapter

from constitution.errors import UserError
from constitution.schema import Constitution
from constitution.writer import to_yaml
from judge_service.client.sync import JudgeUnavailable
from judge_service.server_info import ConstitutionSummary, ServerInfo, ServerState
from judge_service.types import (
    Comparison,
    JudgeOptions,
    Judgment,
    Unjudged,
    UnjudgedReason,
    Usage,
)
from rlaif.data.journal import Journal
from rlaif.data.records import atomic_open, write_json, write_preferences
from rlaif.evaluation.comparison import Compare, JudgedPair, Question
from rlaif.feedback import earlier_labels
from rlaif.feedback.counts import ALL_ASKED, LabelingSummary, NotAsked, Tally
from rlaif.feedback.earlier_labels import Earlier, JudgeIdentity, MadeBy
from rlaif.feedback.pairs import digest
from rlaif.feedback.receipts import preference
from rlaif.progress import progress

JOURNAL = "labels.journal.jsonl"
PREFERENCES = "preferences.parquet"
UNJUDGED = "unjudged.jsonl"
CONSTITUTION = "constitution.yaml"  # of labels by one that was given as a file
SUMMARY = "labels.summary.json"

# Reasons that another try may resolve: such answers in the journal are not reused.
TRANSIENT = frozenset({UnjudgedReason.ENGINE_FAILED, UnjudgedReason.CANCELLED})


class LabelingError(UserError):
    """Labeling stopped; the message says what has been saved and how to continue."""


# ── judging ──────────────────────────────────────────────────────────────────────────────────


class JournalEntry(BaseModel):
    """One answer of the judge; `key` identifies the request (`answer_key`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    key: str
    id: str
    answer: Judgment | Unjudged


class LabelingClient(Protocol):
    """The part of `judge_service.client.sync.JudgeClient` that labeling uses."""

    def server_info(self) -> ServerInfo:
        """The server's model and constitutions. Raises JudgeUnavailable if it does not answer."""

    def stream(
        self,
        comparisons: Iterable[Comparison],
        constitution: str | Constitution,
        options: JudgeOptions,
    ) -> Iterator[tuple[str, Judgment | Unjudged]]:
        """Judge pairs concurrently; yields (pair id, answer) as answers come, in any order."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The pairs with their answers in the journal, the judge, and the cost of this call."""

    pairs: Sequence[Comparison]
    places: Sequence[int]  # journal offset of each pair's answer
    journal: Journal[JournalEntry]  # closed; its entries can be read
    judge: JudgeIdentity
    judged_now: int  # distinct pairs judged by this call; the others were in the journal
    usage: Usage  # of this call
    seconds: float  # of this call

    def by_pair(self) -> Iterator[tuple[Comparison, Judgment | Unjudged]]:
        """Every pair with its answer, in the given order, read from disk one at a time."""
        for pair, entry in zip(self.pairs, self.journal.read(self.places), strict=True):
            yield pair, entry.answer


_OPTIONS = TypeAdapter(JudgeOptions)


def answer_key(pair: Comparison, judge: JudgeIdentity, options: JudgeOptions) -> str:
    """sha256 of all that an answer depends on: the texts, the judge's identity and the options.

    The pair's id, the priority, and whether the server's store was used do not matter.
    """
    relevant = _OPTIONS.dump_python(options, mode="json", exclude={"interactive", "use_store"})
    conversation = [[message.role, message.content] for message in pair.conversation]
    identity = [judge.constitution.sha256, asdict(judge.model), judge.template_version]
    if options.calibrated:
        # "and traits": answers that were kept when only the label was calibrated are other answers.
        identity += [f"{calibration} and traits" for calibration in judge.calibrations]
    return digest([conversation, pair.response_a, pair.response_b, identity, relevant])


def identify(info: ServerInfo, constitution: str | Constitution = "") -> JudgeIdentity:
    """The identity of the judge for requests made now, from the state of its server.

    constitution: a name that the server knows ("" for its default), or a YAML file or Constitution.
    The latter two must be among the server's, by digest, unless it accepts inline constitutions.
    Raises LabelingError.
    """
    if info.model is None:
        raise LabelingError("the judge is still loading its model; wait until it serves")
    wanted = _load_if_file(constitution)
    # One the server has, by name or by content, comes with the calibrations fitted to it.
    for served in info.constitutions:
        by_name = isinstance(wanted, str) and wanted in ("", served.name)
        if by_name or (isinstance(wanted, Constitution) and wanted.digest == served.sha256):
            fitted = [c for c in info.calibrations if c.constitution_sha256 == served.sha256]
            digests = tuple(sorted(c.sha256 for c in fitted))
            return JudgeIdentity(served, info.model, info.template_version, digests)
    if isinstance(wanted, Constitution) and info.inline_constitutions:
        inline = ConstitutionSummary(wanted.name, wanted.version, wanted.digest)
        return JudgeIdentity(inline, info.model, info.template_version)
    names = ", ".join(served.name for served in info.constitutions)
    shown = constitution if isinstance(constitution, str) else constitution.name
    raise LabelingError(
        f"the judge does not serve the constitution {shown!r} in its current form, only {names}; "
        "restart it with --constitution, or with --allow-inline to accept any"
    )


def _load_if_file(constitution: str | Constitution) -> str | Constitution:
    if isinstance(constitution, str) and constitution.endswith((".yaml", ".yml")):
        return Constitution.load(constitution)
    return constitution


def judge_pairs(
    pairs: Sequence[Comparison],
    client: LabelingClient,
    journal_file: Path,
    *,
    constitution: str | Constitution = "",
    options: JudgeOptions | None = None,
) -> Answers:
    """The judge's answer to every pair, in order; answers in the journal are reused.

    Equal pairs are judged once. Raises LabelingError when the judge becomes unavailable, and
    RecordError when the disk is full: all answers so far are saved, and the same call continues.
    """
    info, loaded = client.server_info(), _load_if_file(constitution)
    judge = identify(info, loaded)
    options = replace(options or JudgeOptions(), interactive=False)
    keys = {pair.id: answer_key(pair, judge, options) for pair in pairs}
    if len(keys) != len(pairs):
        repeated = next(id for id, n in Counter(pair.id for pair in pairs).items() if n > 1)
        raise LabelingError(f"duplicate pair id: {repeated!r}; give each pair its own id")
    started, usage, rate = time.monotonic(), Usage(), ""
    with Journal(journal_file, JournalEntry) as journal:
        # One request per key that the journal lacks; pairs with equal content share an answer.
        wanted = set(keys.values())
        places = _index(journal, wanted)
        waiting: dict[str, Comparison] = {}
        for pair in pairs:
            if keys[pair.id] not in places:
                waiting.setdefault(keys[pair.id], pair)
        with progress("labels", len(wanted), "pairs") as report:
            report(before := len(wanted) - len(waiting))
            served = judge.constitution in info.constitutions
            by = judge.constitution.name if served else loaded
            try:
                # An answer is journaled on arrival: a kill loses only those still on their way.
                # Only what a power failure cannot take back is reported.
                # A judge that has nothing to do is not asked: it may not have been started.
                stream = (
                    client.stream(waiting.values(), constitution=by, options=options)
                    if waiting
                    else iter(())
                )
                for done, (id, answer) in enumerate(stream, start=1):
                    _require_same_judge(client, answer, judge)
                    entry = JournalEntry(key=keys[id], id=id, answer=answer)
                    places[keys[id]] = journal.append(entry)
                    usage += answer.usage
                    rate = _rate(done, time.monotonic() - started)
                    report(before + done - journal.unsynced, rate)
            except JudgeUnavailable as error:
                journal.sync()
                raise LabelingError(
                    f"{error}\n{len(places)} of {len(wanted)} labels are saved in "
                    f"{journal_file}; when the judge is up again, run the same command to "
                    "continue with the rest"
                ) from error
            journal.sync()
            report(len(places), rate)
    if missing := len(wanted - places.keys()):
        raise LabelingError(
            f"the judge gave no answer for {missing} pairs; run again to judge them"
        )
    in_order = [places[keys[pair.id]] for pair in pairs]
    seconds = time.monotonic() - started
    return Answers(pairs, in_order, journal, judge, len(waiting), usage, seconds)


def _rate(pairs: int, seconds: float) -> str:
    """How fast pairs are judged: per second, or the seconds that each takes."""
    if pairs >= seconds:
        return f"{pairs / max(seconds, 1e-9):.1f} pairs/s"
    return f"{seconds / pairs:.1f} s/pair"


def _index(journal: Journal[JournalEntry], keys: set[str]) -> dict[str, int]:
    """Key → journal offset of the answers for these keys, without transient failures."""
    places: dict[str, int] = {}
    for place, entry in journal.scan():
        final = not isinstance(entry.answer, Unjudged) or entry.answer.reason not in TRANSIENT
        if entry.key in keys and final:
            places[entry.key] = place
    return places


def _require_same_judge(
    client: LabelingClient, answer: Judgment | Unjudged, judge: JudgeIdentity
) -> None:
    """Stop when the server was restarted with another model or constitution, whose labels must not
    be mixed with these, or when its engine died, which would leave all other pairs unjudged."""
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
                "the judge changed while labeling: it now has another model or constitution; "
                "run again to label with the new one, or restart the old one to continue"
            )


def comparer(
    client: LabelingClient,
    journal_file: Path,
    *,
    constitution: str | Constitution = "",
    options: JudgeOptions | None = None,
) -> Compare:
    """A `Compare` function for `rlaif.evaluation`, backed by a judge and a journal."""

    def compare(questions: Sequence[Question]) -> dict[str, JudgedPair]:
        pairs = [Comparison(*question) for question in questions]
        answers = judge_pairs(
            pairs, client, journal_file, constitution=constitution, options=options
        )
        evaluator = answers.judge.evaluator
        return {
            pair.id: JudgedPair(answer.prob_a, traits=answer.trait_probs, evaluator=evaluator)
            if isinstance(answer, Judgment)
            else JudgedPair(None, answer.reason.value, evaluator=evaluator)
            for pair, answer in answers.by_pair()
        }

    return compare


# ── labels ───────────────────────────────────────────────────────────────────────────────────


def label(
    pairs: Sequence[Comparison],
    client: LabelingClient,
    out: Path,
    *,
    constitution: str | Constitution = "",
    options: JudgeOptions | None = None,
    not_asked: NotAsked = ALL_ASKED,
    earlier: Earlier = Earlier.REFUSE,
    traits: Collection[str] = (),
    may_be_empty: bool = False,
) -> LabelingSummary:
    """Label the pairs into the folder `out`; after a kill, the same call judges only the rest.

    Appends to labels.journal.jsonl as answers come, then writes preferences.parquet, unjudged.jsonl
    and labels.summary.json atomically, and constitution.yaml where one was given as a file.
    not_asked: for the summary. earlier: what to do with labels in the folder by another
    constitution, judge or options. traits: columns besides those of the traits that were judged.
    may_be_empty: a file without labels is written where no pair could be judged.

    Raises as `judge_pairs`; LabelingError when no pair could be judged; and, before any judging,
    EarlierLabelsError when the folder has such labels and `earlier` is REFUSE.
    """
    options = options or JudgeOptions()
    labels = out / PREFERENCES
    if earlier is Earlier.REFUSE:
        refuse_other_labels(client, out, constitution, options)
    answers = judge_pairs(pairs, client, out / JOURNAL, constitution=constitution, options=options)
    # Two passes over the answers on disk: the Parquet schema needs all traits before the first row.
    tally = Tally()
    with atomic_open(out / UNJUDGED) as unjudged:
        for pair, answer in answers.by_pair():
            tally.add(answer)
            if isinstance(answer, Unjudged):
                line = {"id": pair.id, "reason": answer.reason.value, "detail": answer.detail}
                unjudged.write(json.dumps(line, ensure_ascii=False) + "\n")
    kept = None
    if earlier is Earlier.KEEP and tally.judged:  # only now: judging can no longer fail
        kept = earlier_labels.keep(labels, out / SUMMARY, MadeBy.now(answers.judge, options))
    summary = _summarize(answers, tally, not_asked, options, kept)
    write_json(out / SUMMARY, asdict(summary))
    if not may_be_empty:
        _require_some(summary, out)
    preferences = (
        preference(pair, answer)
        for pair, answer in answers.by_pair()
        if isinstance(answer, Judgment)
    )
    write_preferences(labels, preferences, tally.traits | set(traits))
    rules = _load_if_file(constitution)
    if isinstance(rules, Constitution):  # so that training finds the weights of its traits
        with atomic_open(out / CONSTITUTION) as file:
            file.write(to_yaml(rules))
    return summary


def refuse_other_labels(
    client: LabelingClient, out: Path, constitution: str | Constitution, options: JudgeOptions
) -> None:
    """EarlierLabelsError where `out` has labels by another constitution, judge or options."""
    now = MadeBy.now(identify(client.server_info(), constitution), options)
    earlier_labels.require_same(out / PREFERENCES, out / SUMMARY, now)


def _require_some(summary: LabelingSummary, out: Path) -> None:
    if summary.judged:
        return
    dropped = sum(summary.filtered.values())
    hint = f"; the filter dropped {dropped} responses: raise its margin" if dropped else ""
    raise LabelingError(
        f"none of {summary.pairs} pairs could be judged ({_reasons(summary.unjudged_by_reason)}); "
        f"{out / UNJUDGED} has the reason for each{hint}"
    )


def _reasons(counts: dict[str, int]) -> str:
    return ", ".join(f"{reason} {n}" for reason, n in counts.items()) or "no pairs were given"


def _summarize(
    answers: Answers, tally: Tally, not_asked: NotAsked, options: JudgeOptions, kept: Path | None
) -> LabelingSummary:
    return LabelingSummary(
        pairs=len(answers.pairs),
        judged=tally.judged,
        unjudged=len(answers.pairs) - tally.judged,
        unjudged_by_reason=dict(tally.reasons.most_common()),
        cut_off=sum(not (pair.complete_a and pair.complete_b) for pair in answers.pairs),
        asked=answers.judged_now,
        mean_prob_chosen=tally.prob_chosen.value,
        mean_entropy=tally.decisiveness.mean_entropy,
        undecided=tally.decisiveness.undecided,
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
        **asdict(not_asked),
    )
