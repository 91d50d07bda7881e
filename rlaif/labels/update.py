"""Updating labels after an edit of the constitution, without repeating reads.

    previous labels ─ receipts ────► known votes ┐
    sub-constitutions ─ judge_pairs ► fresh votes ┴ rejudge ─► journal ─ label ─► preferences

`reuse` takes the votes of unchanged principles from each earlier label, reads only the missing
ones, and writes the new judgments to the labeling journal, where `label` finds them. Pairs that
lack the same principles are judged together, by a constitution restricted to these. `label` judges
in full what cannot be reused: pairs that are new or edited, or that were judged by another model,
template or protocol.

`update` keeps the previous labels beside the new ones and reports what changed. Left out:
calibration and abstention. A calibration is specific to one constitution, so labels from receipts
are not calibrated.
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
from rlaif.data.records import Preference, replacing
from rlaif.feedback.counts import ALL_ASKED, LabelingSummary, NotAsked
from rlaif.feedback.earlier_labels import Earlier, JudgeIdentity
from rlaif.feedback.labeler import (
    JOURNAL,
    PREFERENCES,
    JournalEntry,
    LabelingClient,
    LabelingError,
    answer_key,
    identify,
    judge_pairs,
    label,
)
from rlaif.feedback.pairs import digest, same_question
from rlaif.feedback.receipts import Receipt, comparison, parse_receipt
from rlaif.labels.reaggregate import (
    changed_principles,
    keep_unchanged,
    rejudge,
    restrict_to,
    unanswered_principles,
)

PREVIOUS = "preferences.previous.parquet"


@dataclass(frozen=True, slots=True)
class LabelChange:
    """The differences between the labels before and after an update."""

    compared: int  # labels with the same id and texts on both sides
    changed: int  # those of them whose chosen response changed
    mean_change: float | None  # mean |change of P(the previously chosen response)|
    added: int  # labels that did not exist before
    dropped: int  # labels that no longer exist


@dataclass(frozen=True, slots=True)
class Reuse:
    """The result of `reuse`."""

    changed: tuple[str, ...]  # principles that are new or reworded
    labels: int  # made from receipts, with or without further reads
    usage: Usage  # for these labels; stored_reads includes the reads in receipts


@dataclass(frozen=True, slots=True)
class Update:
    """The result of `update`. A read is computed, or comes from the server's store or a receipt."""

    summary: LabelingSummary
    change: LabelChange
    reuse: Reuse | None
    reads: int  # computed by this run
    stored_reads: int  # from the store or from receipts

    @property
    def saved(self) -> float | None:
        """Share of the reads that were not computed; None if the journal had every answer."""
        total = self.reads + self.stored_reads
        return self.stored_reads / total if total else None


def update(
    pairs: Sequence[Comparison],
    client: LabelingClient,
    out: Path,
    *,
    constitution: str | Constitution,
    options: JudgeOptions | None = None,
    old: Constitution | None = None,
    not_asked: NotAsked = ALL_ASKED,
) -> Update:
    """Label the pairs again into `out`, by an edited constitution or with other judge settings.

    The previous labels become preferences.previous.parquet if the new ones differ. With `old`, the
    constitution they were made by, votes in their receipts are reused; without it, every pair is
    judged again, and reads in the server's store cost nothing. After a kill, the same call
    continues. Raises LabelingError when there are no labels yet, and as `reuse` and `label`.
    """
    options = options or JudgeOptions()
    # The previous labels are needed until the end: for their receipts, and for the comparison.
    before, reused = out / f"{PREVIOUS}.unfinished", None
    copied = _copy_previous(out / PREFERENCES, before)
    try:
        if old is not None:
            new = Constitution.load(constitution) if isinstance(constitution, str) else constitution
            reused = reuse(pairs, client, out, before, old, new, options)
        summary = label(
            pairs,
            client,
            out,
            constitution=constitution,
            options=options,
            not_asked=not_asked,
            earlier=Earlier.OVERWRITE,  # `before` has a copy
        )
    except Exception:
        if copied:  # the labels have not been changed yet
            before.unlink()
        raise
    change = compare(iter_preferences(before), iter_preferences(out / PREFERENCES))
    if change.changed or change.mean_change or change.added or change.dropped:
        before.replace(out / PREVIOUS)
    else:
        before.unlink()
    usage = reused.usage if reused else Usage()
    return Update(
        summary,
        change,
        reused,
        usage.reads + summary.asked_reads,
        usage.stored_reads + summary.asked_stored_reads,
    )


def _copy_previous(current: Path, before: Path) -> bool:
    """Copy the current labels to `before`, atomically. False: it exists already, left by a killed
    update; that older copy is kept."""
    if before.is_file():
        return False
    if not current.is_file():
        raise LabelingError(f"{current}: no labels to update; run without --update first")
    with replacing(before) as partial:
        shutil.copyfile(current, partial)
    return True


def compare(before: Iterable[Preference], after: Iterable[Preference]) -> LabelChange:
    """Compare labels before and after, matched by id and texts."""
    known = {_texts(label): (label.chosen_text, label.prob_chosen) for label in before}
    compared = changed = added = 0
    total_change = 0.0
    for current in after:
        chosen, prob = known.get(_texts(current), (None, 0.0))
        if chosen is None:
            added += 1
            continue
        same = current.chosen_text == chosen
        compared += 1
        changed += not same
        total_change += abs((current.prob_chosen if same else 1.0 - current.prob_chosen) - prob)
    mean = total_change / compared if compared else None
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
    """Write judgments by `new` to the journal for the pairs with a label by `old` in `previous`.

    The judge must accept inline constitutions (`identify` raises if it does not). Raises
    LabelingError when no earlier label was made by `old`, and as `judge_pairs`.
    """
    options = replace(options, interactive=False)
    judge = identify(client.server_info(), new)
    if judge.calibrations and options.calibrated:
        raise LabelingError(
            f"labels from receipts cannot be calibrated, but the judge calibrates {new.name} "
            f"{new.version}; remove --from: reads in the judge's store cost nothing either"
        )
    # Group the pairs by what they lack, so that each group is one request by one constitution.
    waiting = _unanswered(pairs, judge, options, out / JOURNAL)
    known = _Reusable(waiting, judge, old, new, options)
    groups: dict[tuple[str, ...], list[Comparison]] = {}
    for pair, _, missing in known.labels(previous):
        groups.setdefault(tuple(p.id for p in missing), []).append(pair)
    if not groups and len(waiting) == len(pairs):
        raise LabelingError(
            f"{previous}: no label of these pairs was made by {old.name} {old.version} "
            f"({old.digest[:12]}) with this judge, so nothing can be reused; "
            "give the constitution they were made by, or remove --from"
        )
    fresh: dict[str, int] = {}
    usage = Usage()
    for ids, group in groups.items():
        if ids:
            part = restrict_to(new, [new.principle(id) for id in ids])
            whole = replace(options, sample_principles=None)
            answers = judge_pairs(group, client, out / JOURNAL, constitution=part, options=whole)
            fresh.update(zip((pair.id for pair in group), answers.places, strict=True))
            usage += answers.usage
    made, stored = _write(known, previous, out / JOURNAL, fresh)
    return Reuse(known.changed, made, usage + Usage(stored_reads=stored))


def _unanswered(
    pairs: Sequence[Comparison], judge: JudgeIdentity, options: JudgeOptions, journal_file: Path
) -> list[Comparison]:
    """The pairs without a judgment in the journal."""
    with Journal(journal_file, JournalEntry) as journal:
        done = {e.key for _, e in journal.scan() if isinstance(e.answer, Judgment)}
    return [pair for pair in pairs if answer_key(pair, judge, options) not in done]


class _Reusable:
    """Selects the earlier labels that can be reused, and what each of them lacks."""

    def __init__(
        self,
        pairs: Sequence[Comparison],
        judge: JudgeIdentity,
        old: Constitution,
        new: Constitution,
        options: JudgeOptions,
    ) -> None:
        self.changed = changed_principles(old, new)
        self.judge = judge
        self.new = new
        self.options = options
        self._old = old
        self._pairs = {pair.id: pair for pair in pairs}

    def labels(self, previous: Path) -> Iterator[tuple[Comparison, Receipt, tuple[Principle, ...]]]:
        """(pair, receipt, missing principles) of each label that can be reused."""
        for earlier in iter_preferences(previous):
            pair = self._pairs.get(earlier.id)
            if pair is None:
                continue
            receipt = parse_receipt(earlier)
            read = comparison(earlier, receipt)
            if same_question(read, pair) and self._is_comparable(receipt):
                answered = set(receipt.provenance.principle_ids).difference(self.changed)
                unanswered = unanswered_principles(self.new, pair.conversation, answered)
                drawn = {p.id for p in self.drawn(pair)}
                yield pair, receipt, tuple(p for p in unanswered if p.id in drawn)

    def drawn(self, pair: Comparison) -> tuple[Principle, ...]:
        """The principles that a full judgment by the new constitution would read."""
        responses, options = (pair.response_a, pair.response_b), self.options
        return choose_principles(
            self.new.principles,
            pair.conversation,
            responses,
            options.sample_principles,
            options.seed,
        )

    def _is_comparable(self, receipt: Receipt) -> bool:
        """Whether the reads in the receipt are those that would be made now."""
        origin, options = receipt.provenance, self.options
        return (
            origin.constitution_sha256 == self._old.digest
            and origin.model == self.judge.model
            and origin.template_version == self.judge.template_version
            and origin.protocol == (options.protocol or DEFAULT_PROTOCOL)
            and set(origin.orders) == set(options.orders)
            and options.max_rationale_tokens == 0
            and options.max_straddle is None
            and not any(read.rationale for vote in receipt.votes for read in vote.reads)
        )


def _write(
    known: _Reusable, previous: Path, journal_file: Path, fresh: dict[str, int]
) -> tuple[int, int]:
    """(judgments written, reads taken from receipts). fresh: pair id → journal offset of its
    answer."""
    made = stored = 0
    with Journal(journal_file, JournalEntry) as journal:
        for pair, receipt, missing in known.labels(previous):
            answer = next(journal.read([fresh[pair.id]])).answer if missing else None
            judgment = _combine(known, pair, receipt, answer)
            if judgment is not None:
                key = answer_key(pair, known.judge, known.options)
                journal.append(JournalEntry(key=key, id=pair.id, answer=judgment))
                from_store = answer.usage.stored_reads if answer else 0
                stored += judgment.usage.stored_reads - from_store
                made += 1
    return made, stored


def _combine(
    known: _Reusable, pair: Comparison, receipt: Receipt, answer: Judgment | Unjudged | None
) -> Judgment | None:
    """The judgment by the new constitution; None if the pair must be judged in full.

    Fresh principles with too little label mass have no vote, as in a full judgment.
    """
    fresh: tuple[PrincipleVote, ...] = ()
    usage, seconds = Usage(), 0.0
    if isinstance(answer, Judgment):
        fresh, usage, seconds = answer.votes, answer.usage, answer.seconds
    elif isinstance(answer, Unjudged):
        if answer.reason is not UnjudgedReason.LOW_LABEL_MASS:
            return None
        usage = answer.usage
    # Known votes count if a full judgment would read them too; their reads cost nothing now.
    drawn = {principle.id for principle in known.drawn(pair)}
    kept = tuple(
        replace(vote, reads=tuple(replace(read, stored=True) for read in vote.reads))
        for vote in keep_unchanged(receipt.votes, known.changed)
        if vote.principle_id in drawn
    )
    new, options = known.new, known.options
    rejudged = rejudge(kept, fresh, new, pair.conversation, tie_margin=options.tie_margin)
    if rejudged is None:
        return None
    return Judgment(
        verdict=rejudged.verdict,
        prob_a=rejudged.prob_a,
        trait_probs=rejudged.trait_probs,
        votes=rejudged.votes,
        position_consistent=rejudged.position_consistent,
        order_gap=rejudged.order_gap,
        provenance=replace(
            receipt.provenance,
            constitution_name=new.name,
            constitution_version=new.version,
            constitution_sha256=new.digest,
            principle_ids=tuple(p.id for p in known.drawn(pair)),
            orders=options.orders,
            seed=options.seed,
            calibration="",
            reader="",
        ),
        usage=usage + Usage(stored_reads=sum(len(vote.reads) for vote in kept)),
        seconds=seconds,
        spread=rejudged.spread,
    )
