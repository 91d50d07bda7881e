"""Rows of cut-off responses have no end; a drawn end token is taught as it was drawn.

What the losses do with such rows: test_cut_off_gradients.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.dpo.train import train as train_dpo
from rlaif.algorithms.reward.config import RewardConfig
from rlaif.algorithms.reward.train import train as train_reward
from rlaif.algorithms.sft.config import SFTConfig
from rlaif.algorithms.sft.lessons import encode_lessons
from rlaif.algorithms.sft.sources import SFTSource
from rlaif.algorithms.sft.train import train as train_sft
from rlaif.batching.chat import turn_end_id
from rlaif.batching.encode import encode_pairs, encode_row, response_row, sample_row
from rlaif.data.cut_off import ResponseText
from rlaif.data.records import Sample
from rlaif.models.backbone import Backbone
from tests.support.training.pairs import preference


@pytest.fixture(scope="module")
def backbone(tiny_model) -> Backbone:
    return Backbone.load(tiny_model, "float32")


def cut_pair(i: int = 0):
    return preference(i, "Yes, and", "No.").model_copy(update={"chosen_complete": False})


def test_rows_end_only_where_the_response_did(backbone) -> None:
    tokenizer, end = backbone.tokenizer, turn_end_id(backbone.tokenizer)
    (pair,) = encode_pairs(tokenizer, [cut_pair()], 100, "error").pairs
    assert end not in pair.chosen.ids[pair.chosen.start :]
    assert pair.rejected.ids[-1] == end
    assert tokenizer.decode(pair.chosen.ids[pair.chosen.start :]) == "Yes, and"


@pytest.mark.parametrize("complete", [True, False])
def test_sft_teaches_an_end_to_complete_responses_only(complete, backbone) -> None:
    pair = preference(0, "Yes.", "No.").model_copy(update={"chosen_complete": complete})
    prompt = {"id": "p", "messages": [{"role": "user", "content": "Hi"}]}
    sample = Sample(
        prompt=prompt, index=0, response="Yes.", tokens=4, complete=complete, seed=0
    )  # fmt: skip
    encoded = encode_lessons(backbone.tokenizer, "x", [pair, sample], SFTConfig())
    ends = [row.ids[-1] == turn_end_id(backbone.tokenizer) for row in encoded.rows]
    assert ends == [complete, complete]
    assert sample_row(backbone.tokenizer, sample).ids == encoded.rows[1].ids


def taught_end(tokenizer, drawn: str) -> int:
    conversation = preference(0, "a", "b").prompt
    return encode_row(tokenizer, "r", conversation, "Hi", 100, end_token=drawn).ids[-1]


def test_the_end_token_that_was_drawn_is_taught_where_it_is_one_of_the_models_ends(
    backbone, make_tiny_model
) -> None:
    """A model with two ends, of which the template writes the first."""
    two_ends = Path(make_tiny_model())
    pad, turn_end = backbone.tokenizer.pad_token_id, turn_end_id(backbone.tokenizer)
    file = two_ends / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": [turn_end, pad]}))
    tokenizer = Backbone.load(str(two_ends), "float32").tokenizer
    assert taught_end(tokenizer, "<pad>") == pad != turn_end
    assert taught_end(tokenizer, "<|im_end|>") == taught_end(tokenizer, "") == turn_end


@pytest.mark.parametrize("drawn", ["<pad>", "<|im_start|>", "<|eot_id|>", "a"])
def test_a_token_that_ends_no_response_of_the_model_is_not_taught_as_one(drawn, backbone) -> None:
    """Drawn from another model, or written into a file: special here, unknown or a text's."""
    tokenizer = backbone.tokenizer
    assert taught_end(tokenizer, drawn) == turn_end_id(tokenizer)


def test_a_reward_model_scores_a_cut_response_as_it_was_trained(backbone) -> None:
    conversation = preference(0, "a", "b").prompt
    text = ResponseText("Yes, and", complete=False)
    plain = response_row(backbone.tokenizer, "r", conversation, "Yes, and", 100)
    row = response_row(backbone.tokenizer, "r", conversation, text, 100)
    assert plain.ids == (*row.ids, turn_end_id(backbone.tokenizer))


@pytest.mark.parametrize("cut_off", ["keep", "skip"])
@pytest.mark.parametrize("config", [DPOConfig, RewardConfig, SFTConfig])
def test_training_says_how_many_are_cut_and_leaves_them_out_if_asked(
    config, cut_off, tiny_model, tmp_path, capsys
) -> None:
    pairs = [cut_pair(i) if i < 2 else preference(i, f"Yes {i}.", f"No {i}.") for i in range(6)]
    settings = {
        "epochs": 1, "dtype": "float32", "cut_off": cut_off, "batch_size": 2, "max_tokens": 100,
    }  # fmt: skip
    out, heldout = tmp_path / "out", pairs[1:3]
    if config is DPOConfig:
        train_dpo(DPOConfig(**settings), tiny_model, pairs, out, heldout)
    elif config is RewardConfig:
        train_reward(RewardConfig(**settings), tiny_model, pairs, out, {}, heldout)
    else:
        train_sft(SFTConfig(**settings), tiny_model, [SFTSource("x", pairs)], out, heldout)
    said, what = capsys.readouterr().err, "records" if config is SFTConfig else "pairs"
    assert f"2 of 6 {what} hold a response that was cut off" in said
    assert f"1 of 2 held-out {what} hold a response that was cut off" in said
    assert said.count(": left out") == (2 if cut_off == "skip" else 0)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    # six records or the four others, two a step
    assert [line["step"] for line in lines] == ([1, 2, 3] if cut_off == "keep" else [1, 2])
    assert {line["cut_responses"] for line in lines} == {2}
    assert {line.get("cut_pairs", 2) for line in lines} == {2}
