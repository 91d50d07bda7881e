"""A dry run encodes every record as the run does: what it refuses is what the run would refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import rlaif
from constitution.errors import UserError
from rlaif.api.pairs import plan_dpo, plan_reward, plan_sft
from rlaif.api.plan import TrainingPlan
from rlaif.api.rollouts import plan_ppo, plan_rest
from rlaif.data.records import write_preferences
from tests.support.chat_templates import GEMMA
from tests.support.training.pairs import preference

FAST = {"dtype": "float32", "max_tokens": 120}
LESSONS = pytest.mark.parametrize(
    ("plan", "train"),
    [
        (plan_sft, rlaif.train_sft), (plan_reward, rlaif.train_reward), (plan_dpo, rlaif.train_dpo),
    ],
)  # fmt: skip
PROMPTS = pytest.mark.parametrize(
    ("plan", "train"), [(plan_ppo, rlaif.train_ppo), (plan_rest, rlaif.train_rest)]
)


@pytest.fixture(scope="module")
def gemma(make_tiny_model: Callable[..., str]) -> str:
    """A model whose template refuses a system message and two user turns in a row."""
    shape = {"template": GEMMA.template, "special": GEMMA.special, "eos": GEMMA.eos}
    return make_tiny_model(**shape, bos=GEMMA.bos)


@pytest.fixture
def odd_pairs(tmp_path: Path) -> Path:
    """Six pairs, of which pair-1 has two user turns, pair-3 is too long and pair-4 is both."""
    pairs = [preference(n, "Yes.", "No.") for n in range(6)]
    for place in (1, 4):
        pairs[place] = pairs[place].model_copy(update={"prompt": pairs[place].prompt * 2})
    for place in (3, 4):
        long = pairs[place].chosen[0].model_copy(update={"content": "Yes. " * 40})
        pairs[place] = pairs[place].model_copy(update={"chosen": (long,)})
    write_preferences(tmp_path / "pairs.jsonl", pairs)
    return tmp_path / "pairs.jsonl"


def texts(plan: TrainingPlan) -> list[str]:
    return [str(problem) for problem in plan.problems]


def refusal(train: Callable[[], object]) -> str:
    with pytest.raises(UserError) as refused:
        train()
    return str(refused.value)


@LESSONS
def test_every_record_that_the_run_would_refuse_is_named_in_its_words(
    plan: Any, train: Any, gemma: str, odd_pairs: Path, tmp_path: Path
) -> None:
    asked = {"model": gemma, "out": tmp_path / "out", **FAST}
    assert texts(plan(odd_pairs, **asked)) == [], "not found without the tokenizer"
    found = texts(plan(odd_pairs, **asked).examined())
    assert [text.partition(" (chosen): ")[0] for text in found] == [
        f"{odd_pairs}: pair-{place}" for place in (1, 3, 4)
    ]
    assert "Roles must alternate" in found[0]
    assert "do not fit in max_tokens=120" in found[1]
    assert found[0] == refusal(lambda: train(odd_pairs, **asked))


def test_held_out_pairs_are_encoded_too(gemma: str, odd_pairs: Path, tmp_path: Path) -> None:
    write_preferences(tmp_path / "good.jsonl", [preference(9, "Yes.", "No.")])
    asked = {"model": gemma, "heldout": odd_pairs, "out": tmp_path / "out", **FAST}
    for plan in (plan_dpo, plan_sft):
        found = texts(plan(tmp_path / "good.jsonl", **asked).examined())
        assert len(found) == 3
        assert all(text.startswith(f"{odd_pairs}: ") for text in found)


@LESSONS
def test_records_that_unusable_skip_leaves_out_are_counted(
    plan: Any, train: Any, gemma: str, odd_pairs: Path, tmp_path: Path
) -> None:
    settings = {**FAST, "unusable": "skip", "batch_size": 1, "epochs": 2}
    found = plan(odd_pairs, model=gemma, out=tmp_path / "out", **settings).examined()
    assert found.problems == []
    assert found.steps == 6, "of three pairs twice"
    assert list(found.counts.values()) == [3]
    assert any(note.startswith("left out 3 records, among them\n  pair-1") for note in found.notes)
    assert found.unchecked == ""


def test_unusable_skip_is_refused_where_it_leaves_nothing(gemma: str, tmp_path: Path) -> None:
    twice = preference(1, "Yes.", "No.")
    asked = [twice.model_copy(update={"prompt": twice.prompt * 2})]
    settings = {"model": gemma, "out": tmp_path / "out", "unusable": "skip", **FAST}
    (said,) = texts(plan_dpo(asked, **settings).examined())
    assert said == refusal(lambda: rlaif.train_dpo(asked, **settings))
    assert said.startswith("no usable pair among 1 preferences; the first error: pair-1 (chosen)")


def test_an_empty_response_is_named_once(gemma: str, tmp_path: Path) -> None:
    pairs = [preference(1, " ", "No."), preference(2, "Yes.", "No.")]
    for settings in (FAST, {**FAST, "unusable": "skip"}):
        plan = plan_dpo(pairs, model=gemma, out=tmp_path / "out", **settings)
        named = 0 if "unusable" in settings else 1
        assert len(plan.examined().problems) == named


def letters(conversations: Any, responses: list[str]) -> list[float]:
    return [float(len(response)) for response in responses]


@PROMPTS
def test_every_prompt_without_room_for_a_response_is_named(
    plan: Any, train: Any, tiny_model: str, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.jsonl"
    lines = [{"id": f"p{n}", "prompt": "Say it. " * n, "split": "train"} for n in (1, 2, 3)]
    file.write_text("\n".join(map(json.dumps, lines)))
    settings = {"max_tokens": 20, "max_new_tokens": 10, "dtype": "float32"}
    asked = {"model": tiny_model, "reward": letters, "out": tmp_path / "out", **settings}
    found = texts(plan(file, **asked).examined())
    assert [text.partition(": a prompt of")[0] for text in found] == [
        f"{file}: p{n}" for n in (1, 2, 3)
    ]
    assert found[0] == refusal(lambda: train(file, **asked))


@PROMPTS
def test_prompts_that_unusable_skip_leaves_out_are_not_counted(
    plan: Any, train: Any, tiny_model: str, tmp_path: Path
) -> None:
    settings = {"max_tokens": 80, "max_new_tokens": 10, "dtype": "float32", "unusable": "skip"}
    asked = {"model": tiny_model, "reward": letters, "out": tmp_path / "out", **settings}
    file = tmp_path / "prompts.jsonl"
    lines = [{"id": f"p{n}", "prompt": "Say it. " * n, "split": "train"} for n in (1, 2, 200)]
    file.write_text("\n".join(map(json.dumps, lines)))
    found = plan(file, **asked).examined()
    assert found.problems == []
    assert found.counts["prompts"] == 2
    assert any(note.startswith("left out 1 records") for note in found.notes)


def test_a_model_without_a_chat_template_is_named_once(
    make_tiny_model: Callable[..., str], odd_pairs: Path, tmp_path: Path
) -> None:
    plain = make_tiny_model(template=None)
    asked = {"model": plain, "out": tmp_path / "out", **FAST}
    (said,) = texts(plan_dpo(odd_pairs, **asked).examined())
    assert "has no chat template" in said
    found = plan_rest(["Hello", "You"], reward=letters, max_new_tokens=8, **asked).examined()
    assert [said] == texts(found)


def test_what_the_template_does_not_read_and_the_model_cannot_is_refused_together(
    gemma: str, odd_pairs: Path, tmp_path: Path
) -> None:
    asked = {"model": gemma, "out": tmp_path / "out", "chat_template_kwargs": {"thinking": False}}
    found = texts(plan_dpo(odd_pairs, **asked, max_tokens=10**6).examined())
    assert len(found) == 2
    assert any("max_tokens=1000000 is more than" in text for text in found)
    assert any("chat_template_kwargs.thinking" in text for text in found)


def test_a_tokenizer_that_cannot_be_loaded_is_refused(tmp_path: Path, odd_pairs: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text("{}")
    found = texts(plan_dpo(odd_pairs, model=folder, out=tmp_path / "out").examined())
    assert found
    assert all(text.startswith(f"{folder}: cannot be loaded") for text in found)


def test_a_plain_text_needs_an_end_token(tiny_model: str) -> None:
    from rlaif.algorithms.sft.lessons import plain_rows
    from rlaif.batching.unusable import BatchError
    from rlaif.data.records import PlainText

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.eos_token = None
    with pytest.raises(BatchError, match="has no end token, which ends a plain text; set"):
        plain_rows(tokenizer, PlainText(id="t", text="Once upon a time"), 100)
