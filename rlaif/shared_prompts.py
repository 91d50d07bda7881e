"""Responses that follow one prompt, in one row of a batch: the prompt is computed once for all of
them, forward and backward (prefix sharing, arXiv:2410.20305).

    [ prompt ... | first ... eos | second ... eos | third ... eos | pad pad ]    ids (B, T)
      0  1  2      3  4  5   6     3  4  5    6     3  4  5   6                  positions
    a token looks back at its prompt and at its own response, at no other        attention

A pack is what goes into one such row: the chosen and the rejected response of a pair, or some of
the responses that PPO drew to one prompt. A pack of one is an ordinary causal row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from rlaif.batching import Row

Pack = Sequence[Row]


@dataclass(frozen=True, slots=True)
class SharedBatch:
    """R responses of N tokens in all, in B rows; everything about them is in the packs' order."""

    ids: Tensor  # (B, T) long
    positions: Tensor | None  # (B, T) long: a response's go on from its prompt's end; None: places
    attention: Tensor | None  # (B, 1, T, T) bool: [b, 0, q, k] True where token q may look at k
    targets: Tensor  # (N,) long: the responses' tokens, their eos included
    before: Tensor  # (N,) long: the place in B·T whose hidden state predicts each of them
    owner: Tensor  # (N,) long: whose token it is, 0…R-1
    ends: Tensor  # (R,) long: the place in B·T of each response's last token
    tokens: int  # real tokens, each prompt counted once

    @property
    def longest(self) -> int:
        """Tokens of the longest conversation, as it would be alone."""
        if self.positions is None:
            return self.ids.shape[1]
        return int(self.positions.max()) + 1 if self.positions.numel() else 1


def shared_prefix(pack: Pack) -> int:
    """Tokens at the front that all rows have; never any of a response."""
    most = min(row.start for row in pack)
    if len({row.ids[:most] for row in pack}) == 1:
        return most
    columns = zip(*(row.ids[:most] for row in pack), strict=True)
    return next(place for place, column in enumerate(columns) if len(set(column)) > 1)


def shared_length(pack: Pack) -> int:
    """Tokens of a pack's row."""
    return sum(len(row.ids) for row in pack) - (len(pack) - 1) * shared_prefix(pack)


def by_prompt(rows: Sequence[Row], budget: int) -> list[list[int]]:
    """The places of rows that follow one prompt, together as long as their pack has at most
    `budget` tokens: in long packs attention would cost what the prompt saves."""
    packs: list[list[int]] = []
    lengths: list[int] = []
    latest: dict[tuple[int, ...], int] = {}  # prompt → its pack that may have room
    for place, row in enumerate(rows):
        prompt = row.ids[: row.start]
        at = latest.get(prompt)
        if at is not None and lengths[at] + row.response_length <= budget:
            packs[at].append(place)
            lengths[at] += row.response_length
        else:
            latest[prompt] = len(packs)
            packs.append([place])
            lengths.append(len(row.ids))
    return packs


def share(packs: Sequence[Pack], device: torch.device | str = "cpu") -> SharedBatch:
    """Packs to one dense batch, a row each. No prompt may be empty, and no pack."""
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
        fork, first = shared_prefix(pack), b * width
        ids[b, :fork] = torch.tensor(pack[0].ids[:fork])
        positions[b, :fork] = torch.arange(fork)
        part[b, :fork] = 0
        begins = list(accumulate((len(row.ids) - fork for row in pack), initial=fork))
        for number, (row, begin) in enumerate(zip(pack, begins, strict=False), start=1):
            own = slice(begin, begin + len(row.ids) - fork)
            ids[b, own] = torch.tensor(row.ids[fork:])
            positions[b, own] = torch.arange(fork, len(row.ids))
            part[b, own] = number
            targets += row.ids[row.start :]
            # token t of the row predicts token t + 1; the last shared one stands before the fork
            before += [
                first + (t if t < fork else begin + t - fork)
                for t in range(row.start - 1, len(row.ids) - 1)
            ]
            lengths.append(row.response_length)
            ends.append(first + own.stop - 1)
        tokens += begins[-1]
    alone = all(len(pack) == 1 for pack in packs)
    return SharedBatch(
        ids.to(device),
        None if alone else positions.to(device),
        None if alone else _attention(part.to(device)),
        torch.tensor(targets, dtype=torch.long, device=device),
        torch.tensor(before, dtype=torch.long, device=device),
        torch.arange(len(lengths))
        .repeat_interleave(torch.tensor(lengths, dtype=torch.long))
        .to(device),
        torch.tensor(ends, dtype=torch.long, device=device),
        tokens,
    )


def _attention(part: Tensor) -> Tensor:
    """part (B, T): 0 of the prompt, a number per response. Pads look at the prompt and at each
    other, so that nothing of theirs is NaN."""
    causal = torch.ones(part.shape[1], part.shape[1], dtype=torch.bool, device=part.device).tril_()
    seen = (part[:, None, :] == 0) | (part[:, None, :] == part[:, :, None])  # (B, T, T)
    return (causal & seen)[:, None]
