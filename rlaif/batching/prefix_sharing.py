"""Prefix sharing: several responses to one prompt in one row of a batch (arXiv:2410.20305).

The prompt is computed once for all of them, forward and backward.

    [ prompt ... | first ... eos | second ... eos | third ... eos | pad pad ]    ids (B, T)
      0  1  2      3  4  5   6     3  4  5    6     3  4  5   6                  positions
    a token attends to its prompt and to its own response, not to the others     attention

A pack is the content of one such row: the chosen and the rejected response of a pair, or some of
the responses that PPO drew to one prompt. A pack of one is an ordinary causal row.

The mask hides the other responses, but their attention scores are still computed. Adding a response
of r tokens to a pack with p prompt tokens and q response tokens costs and saves

    2 q r a      more attention            p c + p² a      the prompt, not computed again

where a is the cost of one pair of tokens and c that of one token outside attention. So responses to
long prompts are packed, and long responses to short prompts are not. c/a is taken as the model's
width d: by operation count it is 5.6 d, but attention's operations are several times more
expensive, and backward repeats them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlaif.batching.encode import Row, length_buckets

Pack = Sequence[Row]


@dataclass(frozen=True, slots=True)
class SharedBatch:
    """B rows that hold R responses with N tokens in total; all fields are in the packs' order."""

    ids: Tensor  # (B, T) long
    positions: Tensor | None  # (B, T) long: each response continues its prompt; None: 0 to T - 1
    # (B, 1, T, T) bool: [b, 0, q, k] True where q attends to k; None: causal
    attention: Tensor | None
    targets: Tensor  # (N,) long: the responses' tokens, eos included
    predictors: Tensor  # (N,) long: index into B·T of the hidden state that predicts each target
    mask: Tensor  # (R, L) bool: True on each response's tokens, left-aligned
    last: Tensor  # (R,) long: index into B·T of each response's last token
    tokens: int  # computed tokens, pads excluded: a shared prompt counts once

    @property
    def longest(self) -> int:
        """Tokens of the longest conversation (a prompt and one of its responses)."""
        if self.positions is None:
            return self.ids.shape[1]
        return int(self.positions.max()) + 1 if self.positions.numel() else 1


def packed_length(pack: Pack) -> int:
    """Tokens of the row that holds a pack: its prompt once, and every response."""
    return pack[0].start + sum(row.response_length for row in pack)


def pack_by_prompt(
    rows: Sequence[Row], width: int, max_tokens: float = math.inf
) -> list[list[int]]:
    """Group rows with the same prompt into packs, wherever that saves work.

    width: the model's hidden size, d above. max_tokens: limit of a pack of several rows; a longer
    row is a pack by itself. Returns indices into `rows`.
    """
    packs: list[list[int]] = []
    lengths: list[int] = []
    latest: dict[tuple[int, ...], int] = {}  # prompt → its pack that may have room
    for index, row in enumerate(rows):
        prompt, r, p = row.ids[: row.start], row.response_length, row.start
        at = latest.get(prompt)
        fits = at is not None and lengths[at] + r <= max_tokens
        if at is not None and fits and 2 * (lengths[at] - p) * r <= p * (width + p):
            packs[at].append(index)
            lengths[at] += r
        else:
            latest[prompt] = len(packs)
            packs.append([index])
            lengths.append(len(row.ids))
    return packs


def batch_packs(
    rows: Sequence[Row], packs: Sequence[list[int]], budget: int
) -> list[list[list[int]]]:
    """Group packs of similar length into batches, for `pad_packs`; returns indices into `rows`.

    packs: indices of each pack's rows. A batch has at most `budget` padded tokens, unless it is a
    single longer pack.
    """
    lengths = [packed_length([rows[i] for i in pack]) for pack in packs]
    return [[packs[i] for i in group] for group in length_buckets(lengths, budget)]


def group_pairs(
    pairs: Sequence[tuple[Row, Row]], packed: Sequence[bool], budget: int
) -> list[list[int]]:
    """Group pairs of similar length into batches of at most `budget` padded tokens, or one pair.

    packed: whether each pair shares a row. Pairs in one row and pairs in two are in different
    batches, so that neither is padded to the other's length. Returns indices.
    """
    batches: list[list[int]] = []
    for one_row in (True, False):
        places = [place for place, shares in enumerate(packed) if shares == one_row]
        own = [pairs[place] for place in places]
        longest = [packed_length(p) if one_row else 2 * max(len(r.ids) for r in p) for p in own]
        batches += [[places[i] for i in group] for group in length_buckets(longest, budget)]
    return batches


def pad_packs(packs: Sequence[Pack], device: torch.device | str = "cpu") -> SharedBatch:
    """Pad packs to one dense batch, one row per pack.

    The rows of a pack must share their prompt, and no pack, prompt or response may be empty.
    """
    assert all(0 < row.start < len(row.ids) for pack in packs for row in pack)
    width = max(map(packed_length, packs), default=1)
    ids = torch.zeros(len(packs), width, dtype=torch.long)  # (B, T)
    positions = torch.zeros_like(ids)  # (B, T)
    # (B, T): 0 the prompt, 1, 2 … the responses, -1 pads
    segment = torch.full((len(packs), width), -1)
    predictors: list[int] = []
    targets: list[int] = []
    lengths: list[int] = []
    last: list[int] = []
    tokens = 0
    for b, pack in enumerate(packs):
        # the prompt, once, at the row's beginning; `first` is the row's own index into B·T
        start, first = pack[0].start, b * width
        ids[b, :start] = torch.tensor(pack[0].ids[:start])
        positions[b, :start] = torch.arange(start)
        segment[b, :start] = 0
        # each response after the one before it, at the positions it would have alone
        begin = start
        for number, row in enumerate(pack, start=1):
            end = begin + row.response_length
            ids[b, begin:end] = torch.tensor(row.ids[start:])
            positions[b, begin:end] = torch.arange(start, len(row.ids))
            segment[b, begin:end] = number
            targets += row.ids[start:]
            # the first token is predicted at the prompt's end, wherever the response lies
            predictors += [first + start - 1, *range(first + begin, first + end - 1)]
            last.append(first + end - 1)
            lengths.append(row.response_length)
            begin = end
        tokens += begin
    length = torch.tensor(lengths, dtype=torch.long)  # (R,)
    mask = torch.arange(max(lengths, default=0)) < length[:, None]  # (R, L)
    # rows of one response each are plain causal rows, which need neither positions nor a mask
    alone = all(len(pack) == 1 for pack in packs)
    return SharedBatch(
        ids.to(device),
        None if alone else positions.to(device),
        None if alone else _attention(segment.to(device)),
        torch.tensor(targets, dtype=torch.long, device=device),
        torch.tensor(predictors, dtype=torch.long, device=device),
        mask.to(device),
        torch.tensor(last, dtype=torch.long, device=device),
        tokens,
    )


def _attention(segment: Tensor) -> Tensor:
    """The attention mask (B, 1, T, T) of segments (B, T): 0 the prompt, then one number a response.

    Pads attend to the prompt and to each other, so that none of their outputs is NaN.
    """
    causal = torch.ones(
        segment.shape[1], segment.shape[1], dtype=torch.bool, device=segment.device
    ).tril_()  # (T, T)
    visible = (segment[:, None, :] == 0) | (segment[:, None, :] == segment[:, :, None])  # (B, T, T)
    return (causal & visible)[:, None]  # (B, 1, T, T)
