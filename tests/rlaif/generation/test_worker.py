"""The process that samples: its text is what PPO's sampler draws, and what the model would say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from rlaif.generation.base import SamplingError
from rlaif.generation.engines import open_sampler
from rlaif.generation.worker import Job, Request, run
from rlaif.models.backbone import Backbone, LoraConfig

QUESTIONS = ["Name a fruit", "Hi", "Say xxxx", "Why?"]
SEEDS = [3, 14, 15, 92]


def job_for(model: str, chunks: Sequence[Sequence[Request]], **changes: Any) -> Job:
    settings: dict[str, Any] = {
        "engine": "transformers", "dtype": "float32", "max_new_tokens": 24, "temperature": 1.0,
        "top_p": 1.0, "kv_cache_gib": 0.1, "start": 0,
    }  # fmt: skip
    return Job(model=model, chunks=[list(chunk) for chunk in chunks], **(settings | changes))


def requests(questions: Sequence[str] = QUESTIONS, seeds: Sequence[int] = SEEDS) -> list[Request]:
    return [
        Request(f"p{n}", [{"role": "user", "content": text}], 0, seed)
        for n, (text, seed) in enumerate(zip(questions, seeds, strict=True))
    ]


def answers(job: Job) -> list[dict[str, Any]]:
    """What the worker sends for a job, response by response."""
    sent: list[dict[str, Any]] = []
    run(job, sent.append)
    return [response for message in sent for response in message.get("responses", [])]


def prompt_ids(tokenizer: Any, questions: Sequence[str] = QUESTIONS) -> list[list[int]]:
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        for text in questions
    ]


def test_the_worker_gives_the_text_that_ppo_samples_for_the_same_seed(tiny_model: str) -> None:
    backbone = Backbone.load(tiny_model, "float32")
    backbone.add_role("policy", LoraConfig(), 0)
    sampler = open_sampler("transformers", backbone, 256, 0.1)
    drawn = sampler.generate(prompt_ids(backbone.tokenizer), 24, 1.0, SEEDS)
    responses = answers(job_for(tiny_model, [requests()]))
    assert [a["tokens"] for a in responses] == [len(g.ids) for g in drawn]
    assert [a["complete"] for a in responses] == [g.complete for g in drawn]
    assert [a["text"] for a in responses] == [
        backbone.tokenizer.decode(g.ids, skip_special_tokens=True) for g in drawn
    ]
    assert len({a["text"] for a in responses}) == 4


def test_a_response_is_the_same_in_any_chunk_batch_or_resumed_run(tiny_model: str) -> None:
    together = answers(job_for(tiny_model, [requests()]))
    one, two = requests()[:2], requests()[2:]
    assert answers(job_for(tiny_model, [two, one])) == together[2:] + together[:2]
    assert answers(job_for(tiny_model, [one, two], start=1)) == together[2:]
    assert answers(job_for(tiny_model, [requests()], kv_cache_gib=1e-9)) == together


def test_at_temperature_0_the_worker_says_what_the_model_generates(tiny_model: str) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    responses = answers(job_for(tiny_model, [requests()], temperature=0.0))
    for ids, answer in zip(prompt_ids(tokenizer), responses, strict=True):
        new = model.generate(
            torch.tensor([ids]), max_new_tokens=24, do_sample=False, pad_token_id=0
        )[0, len(ids) :]
        assert answer["text"] == tokenizer.decode(new, skip_special_tokens=True)
        assert answer["tokens"] == len(new)


def test_a_small_nucleus_leaves_only_the_most_probable_token(tiny_model: str) -> None:
    greedy = answers(job_for(tiny_model, [requests()], temperature=0.0))
    assert answers(job_for(tiny_model, [requests()], top_p=1e-6)) == greedy
    assert answers(job_for(tiny_model, [requests()], top_p=0.9)) != greedy


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        (transformers.GraniteConfig, {"logits_scaling": 4.0}),  # not W h: the model's own logits
        (transformers.Lfm2Config, {"layer_types": ["conv", "full_attention"]}),  # no keys, values
    ],
    ids=["scaled logits", "convolutions"],
)
def test_other_heads_and_layers_are_sampled_as_the_model_generates(
    tiny_model: str, tmp_path: Path, kind: Any, own: dict[str, Any]
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    config = kind(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, eos_token_id=2,
        bos_token_id=1, pad_token_id=0, initializer_range=0.5, **own,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    responses = answers(job_for(str(tmp_path), [requests()], temperature=0.0))
    for ids, answer in zip(prompt_ids(tokenizer), responses, strict=True):
        new = model.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0, len(ids) :]
        assert answer["text"] == tokenizer.decode(new, skip_special_tokens=True)
    drawn = answers(job_for(str(tmp_path), [requests()]))
    assert answers(job_for(str(tmp_path), [requests()[1:2]])) == drawn[1:2]


def test_a_prompt_without_room_for_its_response_is_named(tiny_model: str) -> None:
    long = requests(["x" * 300], [1])
    with pytest.raises(SamplingError, match=r"prompt p0 is too long: 3\d\d tokens.*max_new_tokens"):
        answers(job_for(tiny_model, [long]))
