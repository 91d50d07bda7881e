"""Prompts and pairs → token ids → dense batches.

    [ prompt ......... | response ... eos | pad pad ]       ids (B, T)
      False  False       True  True   True  False           response_mask: the tokens that count

Pads are always on the right of a training batch, so that a causal model never looks at them and
needs no attention mask. Masks are made from lengths: a tokenizer whose pad is its eos is as good
as any. Nothing is cut to fit: a record that does not fit is an error, or skipped and counted.
Responses to one prompt can share a row and compute it once: shared_prompts.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from constitution.errors import UserError
from constitution.schema import Message
from rlaif.batching.unusable import Unusable
from rlaif.data.records import Preference, Prompt, Sample


class BatchError(UserError):
    """A record that cannot be trained on as it is; the message names it and the remedy."""


@dataclass(frozen=True, slots=True)
class Row:
    """One conversation with its response, as token ids. `ids[start:]` is the response."""

    id: str
    ids: tuple[int, ...]
    start: int

    @property
    def response_length(self) -> int:
        return len(self.ids) - self.start


@dataclass(frozen=True, slots=True)
class Pair:
    """A labeled pair of rows. traits: P(chosen is better) per trait, None where not judged."""

    id: str
    chosen: Row
    rejected: Row
    prob_chosen: float
    traits: dict[str, float | None]

    @property
    def rows(self) -> tuple[Row, Row]:
        return self.chosen, self.rejected


@dataclass(frozen=True, slots=True)
class Batch:
    ids: Tensor  # (B, T) long
    response_mask: Tensor  # (B, T) bool: the response's tokens, its eos included
    last: Tensor  # (B,) long: place of the last real token


@dataclass(frozen=True, slots=True)
class EncodedPairs:
    pairs: list[Pair]
    skipped: list[str]  # one reason per record left out


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    prompt: Prompt
    ids: tuple[int, ...]


def encode_conversation(tokenizer: Any, conversation: Iterable[Message]) -> list[int]:
    """The chat template's token ids, up to and including the opening of the assistant's turn.

    Raises BatchError when the tokenizer has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise BatchError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no chat template; "
            "use an instruction-tuned model, or set tokenizer.chat_template and save it"
        )
    messages = [{"role": m.role, "content": m.content} for m in conversation]
    ids: list[int] = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    return ids


def encode_row(
    tokenizer: Any, id: str, conversation: Iterable[Message], response: str, max_tokens: int
) -> Row:
    """One row, closed by the end token. Raises BatchError when it is over max_tokens."""
    prompt = encode_conversation(tokenizer, conversation)
    answer = tokenizer.encode(response, add_special_tokens=False)
    ids = (*prompt, *answer, tokenizer.eos_token_id)
    if len(ids) > max_tokens:
        raise BatchError(
            f"{id}: {len(ids)} tokens ({len(prompt)} of them the prompt) do not fit into "
            f"max_tokens={max_tokens}; raise max_tokens, drop the record, or set unusable=skip"
        )
    return Row(id, ids, len(prompt))


def sample_row(tokenizer: Any, sample: Sample) -> Row:
    """A sampled response, tokenized anew from its text; the end token where it is complete."""
    prompt = encode_conversation(tokenizer, sample.prompt.messages)
    answer = tokenizer.encode(sample.response, add_special_tokens=False)
    end = [tokenizer.eos_token_id] if sample.complete else []
    return Row(f"{sample.prompt.id}#{sample.index}", (*prompt, *answer, *end), len(prompt))


def encode_pairs(
    tokenizer: Any, preferences: Sequence[Preference], max_tokens: int, unusable: Unusable
) -> EncodedPairs:
    """Every preference as a Pair. Raises BatchError when one (or, skipping, all) cannot be used."""
    found = EncodedPairs([], [])
    for p in preferences:
        try:
            chosen = _labeled_row(
                tokenizer, f"{p.id} (chosen)", p.prompt, p.chosen_text, max_tokens
            )
            rejected = _labeled_row(
                tokenizer, f"{p.id} (rejected)", p.prompt, p.rejected_text, max_tokens
            )
        except BatchError as error:
            if unusable == "error":
                raise
            found.skipped.append(str(error))
            continue
        found.pairs.append(Pair(p.id, chosen, rejected, p.prob_chosen, dict(p.traits)))
    if not found.pairs:
        why = f", first because {found.skipped[0]}" if found.skipped else ""
        raise BatchError(f"no usable pair among {len(preferences)} preferences{why}")
    return found


def _labeled_row(
    tokenizer: Any, id: str, conversation: Iterable[Message], response: str, max_tokens: int
) -> Row:
    if not response.strip():
        raise BatchError(f"{id}: the response is empty; drop the record, or set unusable=skip")
    return encode_row(tokenizer, id, conversation, response, max_tokens)


def encode_prompts(
    tokenizer: Any, prompts: Sequence[Prompt], max_prompt_tokens: int, unusable: Unusable
) -> tuple[list[EncodedPrompt], list[str]]:
    """Prompts as token ids, and one reason per prompt left out. Raises BatchError as above."""
    found: list[EncodedPrompt] = []
    skipped: list[str] = []
    for prompt in prompts:
        ids = encode_conversation(tokenizer, prompt.messages)
        if len(ids) <= max_prompt_tokens:
            found.append(EncodedPrompt(prompt, tuple(ids)))
            continue
        reason = (
            f"{prompt.id}: a prompt of {len(ids)} tokens leaves no room for the response (at most "
            f"{max_prompt_tokens}); raise max_tokens, drop the prompt, or set unusable=skip"
        )
        if unusable == "error":
            raise BatchError(reason)
        skipped.append(reason)
    if not found:
        why = f", first because {skipped[0]}" if skipped else ""
        raise BatchError(f"no usable prompt among {len(prompts)}{why}")
    return found, skipped


def pad(rows: Sequence[Row], device: torch.device | str = "cpu") -> Batch:
    """Rows to one dense batch. What stands in a pad does not matter: no mask counts it."""
    width = max((len(row.ids) for row in rows), default=1)
    padded = [[*row.ids, *([0] * (width - len(row.ids)))] for row in rows]
    ids = torch.tensor(padded, dtype=torch.long).view(-1, width)  # (B, T)
    length = torch.tensor([len(row.ids) for row in rows], dtype=torch.long)  # (B,)
    start = torch.tensor([row.start for row in rows], dtype=torch.long)  # (B,)
    place = torch.arange(width)
    mask = (place >= start[:, None]) & (place < length[:, None])  # (B, T)
    return Batch(ids.to(device), mask.to(device), (length - 1).to(device))


def length_buckets(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices in groups of like length, shortest first, to be padded and computed together.

    A group has at most `budget` tokens, pads included, unless it is one item longer than that.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if groups and (len(groups[-1]) + 1) * lengths[index] <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


Item = TypeVar("Item")


def in_groups(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Consecutive groups of `size`, the last one maybe smaller."""
    for at in range(0, len(items), size):
        yield items[at : at + size]


def epoch_batches(count: int, batch_size: int, epochs: int, seed: int) -> list[list[int]]:
    """Indices of every optimizer step's batch: each epoch a fresh seeded order, the last of an
    epoch maybe smaller. A step's number is the whole cursor: the order is a function of the seed.
    """
    batches: list[list[int]] = []
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator).tolist()
        batches += [list(group) for group in in_groups(order, batch_size)]
    return batches


def nth_batch(count: int, batch_size: int, step: int, seed: int) -> list[int]:
    """The indices of step 1, 2, … out of an endless seeded shuffle: every item comes once before
    any comes again. A function of the step's number, as above."""
    found: list[int] = []
    while len(found) < batch_size:
        epoch, place = divmod((step - 1) * batch_size + len(found), count)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(count, generator=generator).tolist()
        found += order[place : place + batch_size - len(found)]
    return found
