"""Responses that follow one prompt, in one row of a batch: the prompt is computed once for all of
them, forward and backward (prefix sharing, arXiv:2410.20305).

    [ prompt ... | first ... eos | second ... eos | third ... eos | pad pad ]    ids (B, T)
      0  1  2      3  4  5   6     3  4  5    6     3  4  5   6                  positions
    a token looks back at its prompt and at its own response, at no other        attention

A pack is what goes into one such row: the chosen and the rejected response of a pair, or some of
the responses that PPO drew to one prompt. A pack of one is an ordinary causal row.

The mask hides the other responses, but their attention is computed all the same. With p tokens of
the prompt, q of the responses in a pack already, and r of the one to come, together it costs

    2 q r a      more attention,     and saves     p c + p² a

a being the cost of one pair of tokens and c that of a token outside attention: so long prompts are
shared, and long responses to short ones are not. c/a is taken as the model's width d: counted in
operations it is 5.6 d, but those of attention are several times dearer, and backward repeats them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlaif.batching.encode import Row

Pack = Sequence[Row]


@dataclass(frozen=True, slots=True)
class SharedBatch:
    """R responses of N tokens in all, in B rows; everything about them is in the packs' order."""

    ids: Tensor  # (B, T) long
    positions: Tensor | None  # (B, T) long: a response's go on from its prompt's end; None: places
    attention: Tensor | None  # (B, 1, T, T) bool: [b, 0, q, k] True where token q may look at k
    targets: Tensor  # (N,) long: the responses' tokens, their eos included
    before: Tensor  # (N,) long: the place in B·T whose hidden state predicts each of them
    mask: Tensor  # (R, L) bool: True on each response's tokens, a run from 0
    ends: Tensor  # (R,) long: the place in B·T of each response's last token
    tokens: int  # computed, pads aside: a shared prompt counts once

    @property
    def longest(self) -> int:
        """Tokens of the longest conversation, as it would be alone."""
        if self.positions is None:
            return self.ids.shape[1]
        return int(self.positions.max()) + 1 if self.positions.numel() else 1


def shared_length(pack: Pack) -> int:
    """Tokens of a pack's row."""
    return pack[0].start + sum(row.response_length for row in pack)


def by_prompt(rows: Sequence[Row], width: int, most: float = math.inf) -> list[list[int]]:
    """The places of the rows in packs of one prompt each, of at most `most` tokens where they are
    more than one, as long as it saves work. width: the model's d above."""
    packs: list[list[int]] = []
    lengths: list[int] = []
    latest: dict[tuple[int, ...], int] = {}  # prompt → its pack that may have room
    for place, row in enumerate(rows):
        prompt, r, p = row.ids[: row.start], row.response_length, row.start
        at = latest.get(prompt)
        fits = at is not None and lengths[at] + r <= most
        if at is not None and fits and 2 * (lengths[at] - p) * r <= p * (width + p):
            packs[at].append(place)
            lengths[at] += r
        else:
            latest[prompt] = len(packs)
            packs.append([place])
            lengths.append(len(row.ids))
    return packs


def share(packs: Sequence[Pack], device: torch.device | str = "cpu") -> SharedBatch:
    """Packs to one dense batch, a row each. No pack, prompt or response may be empty."""
    assert all(0 < row.start < len(row.ids) for pack in packs for row in pack)
    width = max(map(shared_length, packs), default=1)
    ids = torch.zeros(len(packs), width, dtype=torch.long)
    positions = torch.zeros_like(ids)
    part = torch.full((len(packs), width), -1)  # 0 the prompt, 1, 2 … the responses, -1 pads
    before: list[int] = []
    targets: list[int] = []
    lengths: list[int] = []
    ends: list[int] = []
    tokens = 0
    for b, pack in enumerate(packs):
        start, first = pack[0].start, b * width
        ids[b, :start] = torch.tensor(pack[0].ids[:start])
        positions[b, :start] = torch.arange(start)
        part[b, :start] = 0
        begin = start
        for number, row in enumerate(pack, start=1):
            end = begin + row.response_length
            ids[b, begin:end] = torch.tensor(row.ids[start:])
            positions[b, begin:end] = torch.arange(start, len(row.ids))
            part[b, begin:end] = number
            targets += row.ids[start:]
            before += [first + start - 1, *range(first + begin, first + end - 1)]
            ends.append(first + end - 1)
            lengths.append(row.response_length)
            begin = end
        tokens += begin
    mask = torch.arange(max(lengths, default=0)) < torch.tensor(lengths, dtype=torch.long)[:, None]
    alone = all(len(pack) == 1 for pack in packs)
    return SharedBatch(
        ids.to(device),
        None if alone else positions.to(device),
        None if alone else _attention(part.to(device)),
        torch.tensor(targets, dtype=torch.long, device=device),
        torch.tensor(before, dtype=torch.long, device=device),
        mask.to(device),
        torch.tensor(ends, dtype=torch.long, device=device),
        tokens,
    )


def _attention(part: Tensor) -> Tensor:
    """part (B, T): 0 of the prompt, a number per response. Pads look at the prompt and at each
    other, so that nothing of theirs is NaN."""
    causal = torch.ones(part.shape[1], part.shape[1], dtype=torch.bool, device=part.device).tril_()
    seen = (part[:, None, :] == 0) | (part[:, None, :] == part[:, :, None])  # (B, T, T)
    return (causal & seen)[:, None]
