"""Encoded rows, masks made from lengths, and records that do not fit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from constitution.schema import Message
from rlaif.batching.encode import (
    BatchError,
    Row,
    encode_pairs,
    encode_prompts,
    encode_row,
    epoch_batches,
    length_buckets,
    nth_batch,
    pad,
)
from tests.support.training.pairs import preference

HELLO = (Message(role="user", content="Hello"),)


@pytest.fixture
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


def test_a_row_is_the_templated_prompt_the_response_and_one_end_token(tokenizer):
    row = encode_row(tokenizer, "a", HELLO, "Hi", 100)
    prompt = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(row.ids[: row.start]) == prompt
    assert tokenizer.decode(row.ids[row.start :]) == "Hi<|im_end|>"
    assert row.response_length == 3


def test_masks_come_from_lengths_even_if_the_pad_token_is_in_the_text():
    batch = pad([Row("a", (5, 6, 0, 0), 2), Row("b", (7, 8), 1)])
    assert batch.ids.tolist() == [[5, 6, 0, 0], [7, 8, 0, 0]]
    assert batch.response_mask.tolist() == [
        [False, False, True, True],
        [False, True, False, False],
    ]
    assert batch.last.tolist() == [3, 1]


def test_a_tokenizer_whose_pad_is_its_eos_gives_the_same_rows(make_tiny_model, tokenizer):
    same = AutoTokenizer.from_pretrained(make_tiny_model(pad="<|im_end|>"))
    assert same.pad_token_id == same.eos_token_id
    pairs = [preference(1, "short", "a longer answer")]
    ours = encode_pairs(same, pairs, 200, "error").pairs
    assert ours == encode_pairs(tokenizer, pairs, 200, "error").pairs
    batch = pad([ours[0].chosen, ours[0].rejected])
    ends = batch.ids[torch.arange(2), batch.last]
    assert ends.tolist() == [same.eos_token_id] * 2
    assert batch.response_mask.sum(1).tolist() == [6, 16]  # the end token counts


def test_a_pair_too_long_is_an_error_that_names_it_and_the_remedy(tokenizer):
    pairs = [preference(1, "ok", "fine"), preference(2, "ok", "x" * 300)]
    with pytest.raises(
        BatchError, match=r"pair-2 \(rejected\): 3\d\d tokens .* max_tokens=100; raise"
    ):
        encode_pairs(tokenizer, pairs, 100, "error")


def test_an_empty_response_is_an_error_that_names_its_pair(tokenizer):
    with pytest.raises(BatchError, match=r"pair-1 \(chosen\): the response is empty; drop"):
        encode_pairs(tokenizer, [preference(1, " \n", "fine")], 100, "error")


def test_skipped_records_are_listed_with_their_reasons(tokenizer):
    pairs = [preference(1, "ok", "fine"), preference(2, "ok", "x" * 300), preference(3, "", "no")]
    encoded = encode_pairs(tokenizer, pairs, 100, "skip")
    assert [pair.id for pair in encoded.pairs] == ["pair-1"]
    assert len(encoded.skipped) == 2
    assert str(encoded.skipped[0]).startswith("pair-2 (rejected)")


def test_skipping_every_pair_is_an_error(tokenizer):
    with pytest.raises(
        BatchError, match=r"no usable pair among 1 preferences; the first error: pair-1"
    ):
        encode_pairs(tokenizer, [preference(1, "", "fine")], 100, "skip")
    with pytest.raises(BatchError, match="no usable pair among 0 preferences"):
        encode_pairs(tokenizer, [], 100, "error")


def test_a_prompt_too_long_is_an_error_or_skipped_with_its_reason(tokenizer, questions):
    with pytest.raises(BatchError, match=r"q6: a prompt of \d+ tokens leaves no room"):
        encode_prompts(tokenizer, questions[::-1], 26, "error")
    encoded, skipped = encode_prompts(tokenizer, questions, 26, "skip")
    assert len(encoded) + len(skipped) == len(questions)
    assert encoded
    assert skipped


def test_a_tokenizer_without_a_chat_template_is_refused(make_tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(make_tiny_model(template=None))
    with pytest.raises(BatchError, match="no chat template; use an instruction-tuned model"):
        encode_row(tokenizer, "a", HELLO, "Hi", 100)


def test_every_epoch_draws_every_pair_once_in_its_own_order():
    batches = epoch_batches(10, 4, 2, seed=1)
    assert [len(b) for b in batches] == [4, 4, 2, 4, 4, 2]
    first, second = [i for b in batches[:3] for i in b], [i for b in batches[3:] for i in b]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert batches == epoch_batches(10, 4, 2, seed=1)


def test_the_endless_shuffle_draws_every_item_before_it_repeats_one():
    stream = [i for step in range(1, 6) for i in nth_batch(10, 4, step, seed=3)]
    assert sorted(stream[:10]) == sorted(stream[10:]) == list(range(10))
    assert sorted(nth_batch(2, 5, 1, seed=0)) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])


def test_an_epoch_is_shuffled_once_for_all_its_batches(monkeypatch):
    shuffled = []
    real = torch.randperm
    monkeypatch.setattr(
        torch, "randperm", lambda count, **kwargs: shuffled.append(count) or real(count, **kwargs)
    )
    for step in range(1, 51):
        nth_batch(1000, 20, step, seed=77)
    assert shuffled == [1000]


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 120))
def test_length_buckets_hold_every_index_once_within_the_budget(lengths, budget):
    groups = length_buckets(lengths, budget)
    order = [i for group in groups for i in group]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths)
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= budget


def test_a_length_bucket_is_filled_before_the_next_one_starts():
    assert length_buckets([3, 9, 3, 2], 9) == [[3, 0, 2], [1]]
