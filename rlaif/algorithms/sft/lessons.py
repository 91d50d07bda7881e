"""Data of SFT: records encoded as rows of token ids, and the mix of sources.

Records to imitate (`records.Lesson`): a Sample, a Demonstration, the chosen response of a
Preference whose prob_chosen is at least min_prob_chosen (a label near ½ carries no information) and
whose chosen response is the best of its prompt (sources.py), and PlainText, where every token
counts: a share of pre-training text keeps a model fluent (arXiv:2203.02155, section 3.5, does so in
PPO).
Constitutional AI mixes revisions with helpful answers (arXiv:2212.08073, section 3.2).

The mix is by rows and exact. With w_i(s) the weight of source i at step s of S, from its first
value to its last,

    w_i(s) = first_i + (last_i - first_i)·(s - 1)/(S - 1)        p_i(s) = w_i(s) / Σ_j w_j(s)

source i has given Σ p_i rows after any number of them (the sum is over those rows, each at its
step): at most one row more, and with k sources at most k - 1 less. A source that begins with
weight 0 is not drawn at the first step. Each source is repeated in a seeded order, a new one each
time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from rlaif.algorithms.sft.config import SFTConfig
from rlaif.algorithms.sft.sources import Imitable, both_ends, imitable, imitated
from rlaif.batching.encode import Row, encode_row, text_rows
from rlaif.batching.unusable import BatchError, NoneUsableError, require_response
from rlaif.data.records import Lesson, PlainText
from rlaif.settings import MixWeight


@dataclass(frozen=True, slots=True)
class EncodedLessons:
    """One source as rows of token ids, with the records left out.

    skipped: by unusable=skip, one error each. imitable: what was to be encoded, and counts of what
    was not.
    """

    imitable: Imitable
    rows: list[Row] = field(default_factory=list)
    skipped: list[BatchError] = field(default_factory=list)


def encode_lessons(
    tokenizer: Any,
    name: str,
    lessons: Sequence[Lesson],
    config: SFTConfig,
    report: Callable[[int], None] | None = None,
) -> EncodedLessons:
    """Encode the records of one source as rows.

    name: the source's, for errors. report: called with the number of records done. Raises
    BatchError for an unusable record, or with unusable="skip" NoneUsableError when no record is
    usable.
    """
    rows: list[Row] = []
    skipped: list[BatchError] = []
    left = imitable(lessons, config)
    for done, lesson in enumerate(left.lessons):
        if report is not None:
            report(done)
        try:
            rows += _rows(tokenizer, lesson, config.max_tokens)
        except BatchError as error:
            if config.unusable == "error":
                raise
            skipped.append(error)
    if not rows:
        unsure = f"; {left.unsure} below min_prob_chosen={config.min_prob_chosen}"
        why = unsure if left.unsure else ""
        why += f"; {left.cut} cut off, and cut_off=skip leaves them out" if left.cut else ""
        why += f"; first because {skipped[0]}" if skipped else ""
        message = f"{name}: nothing to imitate among {len(lessons)} records{why}"
        raise NoneUsableError(message, skipped)
    return EncodedLessons(left, rows, skipped)


def _rows(tokenizer: Any, lesson: Lesson, max_tokens: int) -> list[Row]:
    if isinstance(lesson, PlainText):
        return plain_rows(tokenizer, lesson, max_tokens)
    name, prompt, response, complete, end_token = imitated(lesson)
    require_response(name, response)
    return [
        encode_row(
            tokenizer, name, prompt, response, max_tokens, complete=complete, end_token=end_token
        )
    ]


def plain_rows(tokenizer: Any, text: PlainText, max_tokens: int) -> list[Row]:
    """Split a text into rows of at most max_tokens, the last one ended by the end token.

    Every token is trained on once: each row begins with the last token of the previous one, as
    context only, and the first with the tokenizer's begin token (without one, the text's first
    token is context too). Raises BatchError for an empty text, or a tokenizer without end token.
    """
    if tokenizer.eos_token_id is None:
        raise BatchError(
            f"the tokenizer of {tokenizer.name_or_path} has no end token, which ends a plain text; "
            "set tokenizer.eos_token and save it"
        )
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    # verbose=False: a text is cut into rows, so that it may be longer than a context.
    tokens = tokenizer.encode(text.text, add_special_tokens=False, verbose=False)
    ids = [*begin, *tokens, tokenizer.eos_token_id]
    if len(ids) < 3:
        message = f"{text.id}: the text is empty; drop the record, or set unusable=skip"
        raise BatchError(message, text.id)
    return text_rows(text.id, ids, max_tokens)


class Pick(NamedTuple):
    """A row of the mix, by the index of its source and its index in that source."""

    source: int
    row: int


def mixture(
    counts: Sequence[int],
    weights: Sequence[MixWeight],
    total: int,
    seed: int,
    batch_size: int = 1,
) -> list[Pick]:
    """Mix sources of `counts` rows by `weights` into `total` rows, in training order.

    batch_size: rows of a step, by which weights move. A row comes from the source that is furthest
    behind its share of the rows so far. Each source is shuffled by the seed, and used up before it
    is repeated in a new order. A function of its arguments: a resumed run draws the same rows.
    """
    due = _rows_due(weights, total, batch_size)
    taken = [0] * len(counts)
    orders: list[list[int]] = [[] for _ in counts]
    picks: list[Pick] = []
    for expected in due:
        source = max(range(len(counts)), key=lambda i: expected[i] - taken[i])
        lap, place = divmod(taken[source], counts[source])
        if place == 0:
            generator = torch.Generator().manual_seed(_lap_seed(seed, source, lap))
            orders[source] = torch.randperm(counts[source], generator=generator).tolist()
        picks.append(Pick(source, orders[source][place]))
        taken[source] += 1
    return picks


def _rows_due(
    weights: Sequence[MixWeight], total: int, batch_size: int
) -> Iterator[Sequence[float]]:
    """Σ p_i of every source after the first row, the second, … (the equation above)."""
    ends = [both_ends(weight) for weight in weights]
    steps = -(-total // batch_size)
    before, rows_before = [0.0] * len(ends), 0  # at the end of the last step whose shares differed
    share: list[float] = []
    for row in range(total):
        if row % batch_size == 0:
            progress = (row // batch_size) / max(steps - 1, 1)
            now = [first + (last - first) * progress for first, last in ends]
            new = [weight / sum(now) for weight in now]
            if new != share:
                before = _later(before, share or new, row - rows_before)
                rows_before, share = row, new
        yield _later(before, share, row + 1 - rows_before)


def _later(due: Sequence[float], share: Sequence[float], rows: int) -> list[float]:
    """What is due so many rows later, at shares that do not change."""
    return [before + part * rows for before, part in zip(due, share, strict=True)]


def _lap_seed(seed: int, source: int, lap: int) -> int:
    return ((seed * 1_000_003 + source) * 1_000_003 + lap) % 2**63
