"""Sampling in a model's chat template: where a response ends, and prompts that it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from rlaif.batching.chat import prompt_ids, with_template_kwargs
from rlaif.batching.unusable import BatchError
from rlaif.data.records import Prompt
from rlaif.generation import worker
from rlaif.generation.base import FolderModel, Generated, SamplingError
from rlaif.generation.config import SamplingConfig
from rlaif.generation.engines import open_folder_sampler, open_sampler
from rlaif.generation.offline import sample
from rlaif.generation.vllm import _end_tokens
from rlaif.models.backbone import Backbone, LoraConfig
from tests.support.chat_templates import GEMMA, THINKING, Shape
from tests.support.training.sampling_here import sampling_here

__all__ = ["sampling_here"]  # a fixture

HELLO = Prompt(id="hello", messages=({"role": "user", "content": "Hello"},))
SYSTEM = Prompt(
    id="rude", messages=({"role": "system", "content": "Be rude."}, *HELLO.model_dump()["messages"])
)
ONE = SamplingConfig(n=1, max_new_tokens=4, dtype="float32", engine="transformers")


@pytest.fixture
def folder_of(make_tiny_model: Callable[..., str]) -> Callable[[Shape], str]:
    return lambda shape: make_tiny_model(
        template=shape.template, special=shape.special, eos=shape.eos, bos=shape.bos
    )


def folder_model(folder: str) -> FolderModel:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return FolderModel(folder, tokenizer, "float32", 256, 0.1, 48)


@pytest.mark.parametrize("over", ["policy", "folder"])
def test_a_sampler_stops_at_the_end_of_a_turn_that_is_not_the_end_of_texts(
    folder_of: Callable[[Shape], str], over: str
) -> None:
    folder = folder_of(GEMMA)
    model = folder_model(folder)
    if over == "policy":
        backbone = Backbone.load(folder, "float32")
        backbone.add_role("policy", LoraConfig(), 0)
        sampler = open_sampler("transformers", backbone, 256, 0.1)
    else:
        sampler = open_folder_sampler("transformers", model)
    prompt = prompt_ids(model.tokenizer, [{"role": "user", "content": "Hello"}])
    drawn = sampler.generate([prompt] * 48, 64, 1.0, list(range(48)))
    turn, text = model.tokenizer.convert_tokens_to_ids(["<end_of_turn>", "<eos>"])
    assert any(g.ids[-1] == turn for g in drawn), "the model is near uniform over 261 tokens"
    for g in drawn:
        assert {turn, text}.isdisjoint(g.ids[:-1])
        assert g.complete == (g.ids[-1] in {turn, text})


def test_vllm_is_told_to_stop_at_the_end_of_a_turn(folder_of: Callable[[Shape], str]) -> None:
    model = folder_model(folder_of(GEMMA))
    ids = model.tokenizer.convert_tokens_to_ids(["<end_of_turn>", "<eos>"])
    assert _end_tokens(model) == set(ids)


def test_the_end_token_is_no_part_of_a_response_s_text() -> None:
    assert Generated([5, 6, 2], [0.0] * 3, True).text_ids == [5, 6]
    assert Generated([5, 6, 2], [0.0] * 3, False).text_ids == [5, 6, 2]


@pytest.mark.usefixtures("sampling_here")
def test_a_prompt_that_the_template_refuses_is_named_with_a_remedy(
    folder_of: Callable[[Shape], str], tmp_path: Path
) -> None:
    out = tmp_path / "samples.jsonl"
    with pytest.raises(
        SamplingError,
        match=r"prompt rude: the chat template of .* refuses .*System role not supported; change "
        r"its turns .*, or drop the prompt",
    ):
        sample(folder_of(GEMMA), [HELLO, SYSTEM], out, ONE)
    assert not out.exists()


@pytest.mark.usefixtures("sampling_here")
def test_variables_of_the_template_reach_the_prompts_that_are_sampled(
    folder_of: Callable[[Shape], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, seen = folder_of(THINKING), []

    class Recorder:
        def sync(self) -> None: ...

        def generate(self, prompts: Any, *_: Any) -> list[Generated]:
            seen.extend(prompts)
            return [Generated([5], [0.0], False) for _ in prompts]

    monkeypatch.setattr(worker, "open_folder_sampler", lambda engine, model: Recorder())
    silent = ONE.model_copy(update={"chat_template_kwargs": {"enable_thinking": False}})
    sample(folder, [HELLO], tmp_path / "s.jsonl", silent)
    sample(folder, [HELLO], tmp_path / "s.jsonl", ONE)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    bound = with_template_kwargs(tokenizer, {"enable_thinking": False})
    messages = [{"role": "user", "content": "Hello"}]
    assert seen == [prompt_ids(bound, messages), prompt_ids(tokenizer, messages)]
    assert seen[0] != seen[1]


@pytest.mark.usefixtures("sampling_here")
def test_a_variable_that_the_template_does_not_read_stops_sampling(
    folder_of: Callable[[Shape], str], tmp_path: Path
) -> None:
    thinking = ONE.model_copy(update={"chat_template_kwargs": {"enable_thinking": False}})
    with pytest.raises(BatchError, match="does not read enable_thinking"):
        sample(folder_of(GEMMA), [HELLO], tmp_path / "s.jsonl", thinking)
