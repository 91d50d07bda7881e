"""Prompts and pairs as token ids, and dense batches of them.

    [ prompt ......... | response ... end | pad pad ]       ids (B, T)
      False  False       True  True   True  False           response_mask: the tokens that count

A response that was cut off has no end token. Training batches are padded on the right, so that a
causal model never attends to pads and needs no attention mask. Masks are made from lengths, so a
tokenizer whose pad token is its end token works as well. chat.py says how a prompt is written and
which token ends a response. Nothing is truncated: a record that does not fit is an error, or is
skipped and counted.
prefix_sharing.py puts several responses to one prompt into one row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from constitution.schema import Message
from rlaif.batching.chat import ChatTemplateError, end_ids, prompt_ids, turn_end_id
from rlaif.batching.rows import Pair as Pair  # imported from here
from rlaif.batching.rows import Row as Row
from rlaif.batching.unusable import BatchError, NoneUsableError, Unusable, require_response
from rlaif.data.cut_off import ending_of
from rlaif.data.records import Preference, Prompt, Sample


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows padded on the right to one length."""

    ids: Tensor  # (B, T) long
    response_mask: Tensor  # (B, T) bool: the response's tokens, end token included
    last: Tensor  # (B,) long: index of the last real token


@dataclass(frozen=True, slots=True)
class EncodedPairs:
    """The pairs that can be trained on, and the reasons why others are skipped."""

    pairs: Sequence[Pair]  # of a corpus: read when used (corpus/mapped.py)
    skipped: list[BatchError]  # one per record left out
    left_out: int = 0  # others, without a reason each: those of a corpus

    @property
    def skips(self) -> int:
        """How many records are not trained on."""
        return len(self.skipped) + self.left_out


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt with its token ids, which end where the assistant's turn begins."""

    prompt: Prompt
    ids: tuple[int, ...]


def _unreported(done: int) -> None:
    """A `report` that shows nothing."""


def encode_conversation(
    tokenizer: Any, conversation: Iterable[Message], id: str = "conversation"
) -> list[int]:
    """Token ids of a conversation in the chat template, ending where the assistant's turn begins.

    id: names the record in errors. Raises BatchError when the tokenizer has no chat template, and
    ChatTemplateError for a conversation that it cannot carry.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise BatchError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no chat template; "
            "use an instruction-tuned model, or set tokenizer.chat_template and save it"
        )
    messages = [{"role": m.role, "content": m.content} for m in conversation]
    try:
        return prompt_ids(tokenizer, messages)
    except ChatTemplateError as error:
        message = f"{id}: {error}, drop the record, or set unusable=skip"
        raise ChatTemplateError(message, id) from error


def encode_row(
    tokenizer: Any,
    id: str,
    conversation: Iterable[Message],
    response: str,
    max_tokens: int,
    *,
    complete: bool = True,
    end_token: str = "",
) -> Row:
    """Encode a conversation and its response as a row, which ends as the chat template ends a turn
    if the response ended by itself.

    id: names the record in errors. complete, end_token: as in Sample; a response that was cut off
    gets no end token, so that none is learned. Raises BatchError when the row exceeds max_tokens,
    or the tokenizer has no chat template that takes the conversation.
    """
    prompt = encode_conversation(tokenizer, conversation, id)
    answer = tokenizer.encode(response, add_special_tokens=False)
    ids = (*prompt, *answer, *_end_ids(tokenizer, complete, end_token))
    if len(ids) > max_tokens:
        raise BatchError(
            f"{id}: {len(ids)} tokens ({len(prompt)} of them the prompt) do not fit in "
            f"max_tokens={max_tokens}; raise max_tokens, drop the record, or set unusable=skip",
            id,
        )
    return Row(id, ids, len(prompt))


def _end_ids(tokenizer: Any, complete: bool, end_token: str) -> tuple[int, ...]:
    """The end token as ids: the one that was drawn, where it ends responses of this tokenizer's
    model, or else the end of a turn; none after a response that was cut off."""
    if not complete:
        return ()
    if end_token:
        for end in end_ids(tokenizer):
            if tokenizer.convert_ids_to_tokens(end) == end_token:
                return (end,)
    return (turn_end_id(tokenizer),)


def response_row(
    tokenizer: Any, id: str, conversation: Iterable[Message], response: str, max_tokens: int
) -> Row:
    """`encode_row` of a text that may be a ResponseText, which knows how it ended."""
    complete, end_token = ending_of(response)
    return encode_row(
        tokenizer, id, conversation, response, max_tokens, complete=complete, end_token=end_token
    )


def text_rows(id: str, ids: Sequence[int], max_tokens: int) -> list[Row]:
    """Split a text's ids into rows of at most max_tokens, in which every id but the first counts
    once: each row begins with the last id of the previous one, as context only.

    id: names the text in errors. No row for less than two ids.
    """
    return [
        Row(f"{id}, from token {at}", tuple(ids[at : at + max_tokens]), 1)
        for at in range(0, len(ids) - 1, max_tokens - 1)
    ]


def sample_row(tokenizer: Any, sample: Sample) -> Row:
    """Encode a sampled response from its text, with an end token only if it is complete.

    Raises BatchError when the tokenizer has no chat template that takes the prompt.
    """
    prompt = encode_conversation(tokenizer, sample.prompt.messages, sample.prompt.id)
    answer = tokenizer.encode(sample.response, add_special_tokens=False)
    end = _end_ids(tokenizer, sample.complete, sample.end_token)
    return Row(f"{sample.prompt.id}#{sample.index}", (*prompt, *answer, *end), len(prompt))


def encode_pairs(
    tokenizer: Any,
    preferences: Sequence[Preference],
    max_tokens: int,
    unusable: Unusable,
    report: Callable[[int], None] = _unreported,
) -> EncodedPairs:
    """Encode preferences as pairs; each response has at most max_tokens, prompt included.

    report: called with the number of preferences done. Raises BatchError for an unusable preference
    (too long, empty, refused by the chat template), or with unusable="skip" NoneUsableError when
    all are unusable.
    """
    pairs: list[Pair] = []
    skipped: list[BatchError] = []
    for done, p in enumerate(preferences):
        report(done)
        try:
            pairs.append(encode_pair(tokenizer, p, max_tokens))
        except BatchError as error:
            if unusable == "error":
                raise
            skipped.append(error)
    if not pairs:
        why = f"; the first error: {skipped[0]}" if skipped else ""
        raise NoneUsableError(f"no usable pair among {len(preferences)} preferences{why}", skipped)
    return EncodedPairs(pairs, skipped)


def encode_pair(tokenizer: Any, preference: Preference, max_tokens: int) -> Pair:
    """A preference as a pair; each response has at most max_tokens, prompt included.

    Raises BatchError where either response cannot be used.
    """
    p = preference
    chosen = _labeled_row(
        tokenizer, f"{p.id} (chosen)", p.prompt, p.chosen_text, max_tokens,
        complete=p.chosen_complete, end_token=p.chosen_end_token,
    )  # fmt: skip
    rejected = _labeled_row(
        tokenizer, f"{p.id} (rejected)", p.prompt, p.rejected_text, max_tokens,
        complete=p.rejected_complete, end_token=p.rejected_end_token,
    )  # fmt: skip
    return Pair(p.id, chosen, rejected, p.prob_chosen, dict(p.traits))


def _labeled_row(
    tokenizer: Any, id: str, conversation: Iterable[Message], response: str, max_tokens: int,
    *, complete: bool, end_token: str,
) -> Row:  # fmt: skip
    require_response(id, response)
    return encode_row(
        tokenizer, id, conversation, response, max_tokens, complete=complete, end_token=end_token
    )


def encode_prompts(
    tokenizer: Any,
    prompts: Sequence[Prompt],
    max_prompt_tokens: int,
    unusable: Unusable,
    report: Callable[[int], None] = _unreported,
) -> tuple[list[EncodedPrompt], list[BatchError]]:
    """Encode prompts; returns them with one reason per skipped prompt.

    report: called with the number of prompts done. Raises BatchError for a prompt that is longer
    than max_prompt_tokens or that the chat template refuses, or with unusable="skip"
    NoneUsableError when all are unusable.
    """
    encoded: list[EncodedPrompt] = []
    skipped: list[BatchError] = []
    for done, prompt in enumerate(prompts):
        report(done)
        try:
            ids = encode_conversation(tokenizer, prompt.messages, prompt.id)
        except ChatTemplateError as error:
            if unusable == "error":
                raise
            skipped.append(error)
            continue
        if len(ids) <= max_prompt_tokens:
            encoded.append(EncodedPrompt(prompt, tuple(ids)))
            continue
        reason = (
            f"{prompt.id}: a prompt of {len(ids)} tokens leaves no room for the response (at most "
            f"{max_prompt_tokens}); raise max_tokens, drop the prompt, or set unusable=skip"
        )
        too_long = BatchError(reason, prompt.id)
        if unusable == "error":
            raise too_long
        skipped.append(too_long)
    if not encoded:
        why = f"; the first error: {skipped[0]}" if skipped else ""
        raise NoneUsableError(f"no usable prompt among {len(prompts)}{why}", skipped)
    return encoded, skipped


def pad(rows: Sequence[Row], device: torch.device | str = "cpu") -> Batch:
    """Pad rows on the right to one dense batch. Pads have id 0 and are outside every mask."""
    width = max((len(row.ids) for row in rows), default=1)
    padded = [[*row.ids, *([0] * (width - len(row.ids)))] for row in rows]
    ids = torch.tensor(padded, dtype=torch.long).view(-1, width)  # (B, T)
    length = torch.tensor([len(row.ids) for row in rows], dtype=torch.long)  # (B,)
    start = torch.tensor([row.start for row in rows], dtype=torch.long)  # (B,)
    position = torch.arange(width)  # (T,)
    mask = (position >= start[:, None]) & (position < length[:, None])  # (B, T)
    return Batch(ids.to(device), mask.to(device), (length - 1).to(device))


def length_buckets(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group items of similar length, to be padded together; returns their indices, shortest first.

    A group has at most `budget` tokens, pads included; a longer item is a group by itself.
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
    """Split items into consecutive groups of `size`; the last one may be smaller."""
    for at in range(0, len(items), size):
        yield items[at : at + size]


def epoch_batches(count: int, batch_size: int, epochs: int, seed: int) -> list[list[int]]:
    """Indices of every optimizer step's batch, for `epochs` passes over `count` shuffled items.

    The last batch of an epoch may be smaller. The order is a function of the seed, so a step's
    number is all that a checkpoint needs to resume.
    """
    batches: list[list[int]] = []
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator).tolist()
        batches += [list(group) for group in in_groups(order, batch_size)]
    return batches


def nth_batch(count: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Indices of the batch of step 1, 2, …, from endlessly repeated shuffles of `count` items.

    Every item is drawn once before any is drawn again. Depends on seed and step only, so that a
    step's number is all that a checkpoint needs to resume.
    """
    batch: list[int] = []
    while len(batch) < batch_size:
        epoch, offset = divmod((step - 1) * batch_size + len(batch), count)
        order = _epoch_order(count, seed, epoch)
        batch += order[offset : offset + batch_size - len(batch)].tolist()
    return batch


@lru_cache(maxsize=2)  # a batch may end one epoch and begin the next
def _epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """Indices of one epoch, (count,), shuffled once for all of its batches: 8 bytes an item."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(count, generator=generator)
