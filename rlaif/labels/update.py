"""Labels after an edit of the constitution: what was read before is not read again.

    previous labels ─ receipts ─► known votes ┐
    sub-constitutions ─ ask ────► fresh votes ┴ rejudge ─► journal ─ label ─► preferences

`reuse` takes from each earlier label the votes of principles whose text did not change, asks the
judge for the others alone, and puts the new judgments into the labeling journal, where `label`
finds them. Pairs with the same principles lacking are asked together, by a constitution cut down to
these. What it cannot take over, `label` asks in full: a pair that is new or edited, or was judged
by another model, template or way of reading.

`update` keeps the labels as they were beside the new ones and says what changed. Left out:
calibration and abstention. A calibration belongs to one constitution to the word, so labels from
receipts are not calibrated.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from constitution.schema import Constitution, Principle
from judge_service.judge.aggregation import choose_principles
from judge_service.judge.label_probs import DEFAULT_PROTOCOL
from judge_service.types import (
    Comparison,
    JudgeOptions,
    Judgment,
    PrincipleVote,
    Unjudged,
    UnjudgedReason,
    Usage,
)
from rlaif.data.datasets import iter_preferences
from rlaif.data.journal import Journal
from rlaif.data.records import Preference, RecordError
from rlaif.feedback.earlier_labels import Earlier
from rlaif.feedback.labeler import (
    JOURNAL,
    PREFERENCES,
    JournalEntry,
    JudgeIdentity,
    LabelingClient,
    LabelingError,
    LabelingSummary,
    answer_key,
    ask,
    identify,
    label,
)
from rlaif.feedback.pairs import digest
from rlaif.feedback.receipts import Receipt, comparison, parse_receipt
from rlaif.labels import reaggregate as rejudging

PREVIOUS = "preferences.previous.parquet"


@dataclass(frozen=True, slots=True)
class LabelChange:
    """What an update did to the labels that were there before and are there now."""

    compared: int  # labels of the same id and texts on both sides
    changed: int  # of these: another response is chosen
    mean_change: float | None  # mean |difference of P(the response chosen before)|
    added: int  # labels that were not there before
    dropped: int  # labels that are there no more


@dataclass(frozen=True, slots=True)
class Reuse:
    """What `reuse` took over."""

    changed: tuple[str, ...]  # principles whose text is new
    labels: int  # made from receipts, with or without further reads
    usage: Usage  # of the judge for them; stored_reads counts those of the receipts too


@dataclass(frozen=True, slots=True)
class Update:
    """What `update` did. A read is computed, or comes from the server's store or a receipt."""

    summary: LabelingSummary
    change: LabelChange
    reuse: Reuse | None
    reads: int  # computed by this run
    stored_reads: int  # not computed: from the store or from receipts

    @property
    def saved(self) -> float | None:
        """Share of the reads that were not computed; None when the journal had every answer."""
        asked = self.reads + self.stored_reads
        return self.stored_reads / asked if asked else None


def update(
    pairs: Sequence[Comparison],
    client: LabelingClient,
    out: Path,
    *,
    constitution: str,
    options: JudgeOptions | None = None,
    old: Constitution | None = None,
    identical: int = 0,
) -> Update:
    """Label the pairs again into `out`, by an edited constitution or with other judge settings.

    The labels of before become preferences.previous.parquet where the new ones differ. With `old`,
    the constitution those were made by, their receipts are used; without, every pair is asked, and
    what the server has in its store costs nothing. Killed and called again, it goes on.
    Raises LabelingError when there are no labels yet; else as `reuse` and `labeling.label`.
    """
    options = options or JudgeOptions()
    before, taken = out / f"{PREVIOUS}.unfinished", None
    copied = _set_aside(out / PREFERENCES, before)
    try:
        if old is not None:
            new = Constitution.load(constitution)
            taken = reuse(pairs, client, out, before, old, new, options)
        summary = label(
            pairs,
            client,
            out,
            constitution=constitution,
            options=options,
            identical=identical,
            earlier=Earlier.OVERWRITE,  # they are in `before`
        )
    except Exception:
        if copied:  # the labels are still those of before
            before.unlink()
        raise
    change = compare(iter_preferences(before), iter_preferences(out / PREFERENCES))
    if change.changed or change.mean_change or change.added or change.dropped:
        before.replace(out / PREVIOUS)
    else:
        before.unlink()
    usage = taken.usage if taken else Usage()
    return Update(
        summary,
        change,
        taken,
        usage.reads + summary.asked_reads,
        usage.stored_reads + summary.asked_stored_reads,
    )


def _set_aside(current: Path, before: Path) -> bool:
    """Copy the labels as they are to `before`, whole or not at all. False: a killed update has left
    one there, which is the older and stays."""
    if before.is_file():
        return False
    if not current.is_file():
        raise LabelingError(f"{current}: no labels to update; run this without --update first")
    partial = before.with_name(before.name + ".partial")
    try:
        shutil.copyfile(current, partial)
        partial.replace(before)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise RecordError(f"{before}: cannot be written ({error.strerror})") from error
    return True


def compare(before: Iterable[Preference], after: Iterable[Preference]) -> LabelChange:
    """Labels before and after, matched by id and texts."""
    known = {_texts(label): (label.chosen_text, label.prob_chosen) for label in before}
    compared = changed = added = 0
    moved = 0.0
    for found in after:
        chosen, prob = known.get(_texts(found), (None, 0.0))
        if chosen is None:
            added += 1
            continue
        same = found.chosen_text == chosen
        compared += 1
        changed += not same
        moved += abs((found.prob_chosen if same else 1.0 - found.prob_chosen) - prob)
    mean = moved / compared if compared else None
    return LabelChange(compared, changed, mean, added, len(known) - compared)


def _texts(label: Preference) -> tuple[str, str]:
    responses = sorted((label.chosen_text, label.rejected_text))
    conversation = [[message.role, message.content] for message in label.prompt]
    return label.id, digest([conversation, responses])


def reuse(
    pairs: Sequence[Comparison],
    client: LabelingClient,
    out: Path,
    previous: Path,
    old: Constitution,
    new: Constitution,
    options: JudgeOptions,
) -> Reuse:
    """Put judgments by `new` into the journal for pairs that have a label by `old` in `previous`.

    The judge must take constitutions that a request brings (identify raises where it does not).
    Raises LabelingError when no earlier label was made by `old`, and as `labeling.ask`.
    """
    options = replace(options, interactive=False)
    judge = identify(client.server_info(), new)
    if judge.calibrations and options.calibrated:
        raise LabelingError(
            f"the judge calibrates labels by {new.name} {new.version}, which receipts cannot: "
            "leave --from out, and what the judge's store holds costs nothing either"
        )
    waiting = _unanswered(pairs, judge, options, out / JOURNAL)
    known = _Known(waiting, judge, old, new, options)
    groups: dict[tuple[str, ...], list[Comparison]] = {}
    for pair, _, lacking in known.labels(previous):
        groups.setdefault(tuple(p.id for p in lacking), []).append(pair)
    if not groups and len(waiting) == len(pairs):
        raise LabelingError(
            f"{previous}: no label of these pairs was made by {old.name} {old.version} "
            f"({old.digest[:12]}) with this judge, so nothing can be taken over; "
            "give the constitution they were made by, or leave --from out"
        )
    fresh: dict[str, int] = {}
    usage = Usage()
    for ids, group in groups.items():
        if ids:
            part = rejudging.restrict_to(new, [new.principle(id) for id in ids])
            whole = replace(options, sample_principles=None)
            found = ask(group, client, out / JOURNAL, constitution=part, options=whole)
            fresh.update(zip((pair.id for pair in group), found.places, strict=True))
            usage += found.usage
    made, stored = _write(known, previous, out / JOURNAL, fresh)
    return Reuse(known.changed, made, usage + Usage(stored_reads=stored))


def _unanswered(
    pairs: Sequence[Comparison], judge: JudgeIdentity, options: JudgeOptions, journal_file: Path
) -> list[Comparison]:
    """The pairs that the journal has no judgment of yet."""
    with Journal(journal_file, JournalEntry) as journal:
        done = {e.key for _, e in journal.scan() if isinstance(e.answer, Judgment)}
    return [pair for pair in pairs if answer_key(pair, judge, options) not in done]


class _Known:
    """Which earlier labels can be taken over, and what each lacks."""

    def __init__(
        self,
        pairs: Sequence[Comparison],
        judge: JudgeIdentity,
        old: Constitution,
        new: Constitution,
        options: JudgeOptions,
    ) -> None:
        self.changed = rejudging.changed_principles(old, new)
        self.judge = judge
        self.new = new
        self.options = options
        self._old = old
        self._pairs = {pair.id: pair for pair in pairs}

    def labels(self, previous: Path) -> Iterator[tuple[Comparison, Receipt, tuple[Principle, ...]]]:
        """(pair, receipt, principles it lacks) of each label that can be taken over."""
        for earlier in iter_preferences(previous):
            pair = self._pairs.get(earlier.id)
            if pair is None:
                continue
            found = parse_receipt(earlier)
            if comparison(earlier, found) == pair and self._is_comparable(found):
                answered = set(found.provenance.principle_ids).difference(self.changed)
                lacking = rejudging.unanswered_principles(self.new, pair.conversation, answered)
                wanted = {p.id for p in self.wanted(pair)}
                yield pair, found, tuple(p for p in lacking if p.id in wanted)

    def wanted(self, pair: Comparison) -> tuple[Principle, ...]:
        """The principles that a full judgment by the new constitution would ask."""
        responses, options = (pair.response_a, pair.response_b), self.options
        return choose_principles(
            self.new.principles,
            pair.conversation,
            responses,
            options.sample_principles,
            options.seed,
        )

    def _is_comparable(self, found: Receipt) -> bool:
        origin, options = found.provenance, self.options
        return (
            origin.constitution_sha256 == self._old.digest
            and origin.model == self.judge.model
            and origin.template_version == self.judge.template_version
            and origin.protocol == (options.protocol or DEFAULT_PROTOCOL)
            and set(origin.orders) == set(options.orders)
            and options.max_rationale_tokens == 0
            and options.max_straddle is None
            and not any(read.rationale for vote in found.votes for read in vote.reads)
        )


def _write(
    known: _Known, previous: Path, journal_file: Path, fresh: dict[str, int]
) -> tuple[int, int]:
    """(judgments written, reads taken from receipts). `fresh`: places of the answers, by pair."""
    made = stored = 0
    with Journal(journal_file, JournalEntry) as journal:
        for pair, found, lacking in known.labels(previous):
            answer = next(journal.read([fresh[pair.id]])).answer if lacking else None
            judgment = _combine(known, pair, found, answer)
            if judgment is not None:
                key = answer_key(pair, known.judge, known.options)
                journal.append(JournalEntry(key=key, id=pair.id, answer=judgment))
                from_store = answer.usage.stored_reads if answer else 0
                stored += judgment.usage.stored_reads - from_store
                made += 1
    return made, stored


def _combine(
    known: _Known, pair: Comparison, found: Receipt, answer: Judgment | Unjudged | None
) -> Judgment | None:
    """The judgment by the new constitution; None when it has to be asked in full.

    Fresh principles whose labels got too little probability give no vote, as in a full judgment.
    """
    fresh: tuple[PrincipleVote, ...] = ()
    usage, seconds = Usage(), 0.0
    if isinstance(answer, Judgment):
        fresh, usage, seconds = answer.votes, answer.usage, answer.seconds
    elif isinstance(answer, Unjudged):
        if answer.reason is not UnjudgedReason.LOW_LABEL_MASS:
            return None
        usage = answer.usage
    wanted = {principle.id for principle in known.wanted(pair)}
    kept = tuple(
        replace(vote, reads=tuple(replace(read, stored=True) for read in vote.reads))
        for vote in rejudging.keep_unchanged(found.votes, known.changed)
        if vote.principle_id in wanted
    )
    new, options = known.new, known.options
    summed = rejudging.rejudge(kept, fresh, new, pair.conversation, tie_margin=options.tie_margin)
    if summed is None:
        return None
    return Judgment(
        verdict=summed.verdict,
        prob_a=summed.prob_a,
        trait_probs=summed.trait_probs,
        votes=summed.votes,
        position_consistent=summed.position_consistent,
        order_gap=summed.order_gap,
        provenance=replace(
            found.provenance,
            constitution_name=new.name,
            constitution_version=new.version,
            constitution_sha256=new.digest,
            principle_ids=tuple(p.id for p in known.wanted(pair)),
            orders=options.orders,
            seed=options.seed,
            calibration="",
        ),
        usage=usage + Usage(stored_reads=sum(len(vote.reads) for vote in kept)),
        seconds=seconds,
        spread=summed.spread,
    )
