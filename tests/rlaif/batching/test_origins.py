"""A record that cannot be used is named together with its file, whichever function reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rlaif
from rlaif.batching.chat import ChatTemplateError
from rlaif.batching.origins import naming_files
from rlaif.batching.unusable import BatchError
from rlaif.data.records import write_preferences
from rlaif.generation.base import SamplingError
from tests.support.chat_templates import GEMMA
from tests.support.training.pairs import preference

FAST = {"dtype": "float32", "max_tokens": 120}
REFUSED = [{"role": "user", "content": "Hello"}, {"role": "user", "content": "Are you there?"}]


@pytest.fixture(scope="module")
def gemma(make_tiny_model: Callable[..., str]) -> str:
    """A model whose template refuses two user turns in a row."""
    shape = {"template": GEMMA.template, "special": GEMMA.special, "eos": GEMMA.eos}
    return make_tiny_model(**shape, bos=GEMMA.bos)


def labels(path: Path, refused: bool) -> Path:
    pairs = [preference(i, f"Yes {i}.", "No.") for i in range(3)]
    if refused:
        odd = preference(9, "Yes.", "No.").model_copy(update={"prompt": (*pairs[0].prompt,) * 2})
        pairs.append(odd)
    write_preferences(path, pairs)
    return path


def refused_by(file: Path, name: str) -> str:
    return rf"^{re.escape(str(file))}: {re.escape(name)}: the chat template of .* must alternate"


@pytest.mark.parametrize("train", [rlaif.train_dpo, rlaif.train_reward])
@pytest.mark.parametrize("where", ["labels", "heldout"])
def test_a_pair_that_the_template_refuses_is_named_with_its_file(
    train: Callable[..., Path], where: str, gemma: str, tmp_path: Path
) -> None:
    pairs = labels(tmp_path / "pairs.jsonl", where == "labels")
    # other prompts than the training pairs'
    held = [
        preference(20, "Yes!", "No!").model_copy(
            update={"prompt": preference(20, "", "").prompt * (2 if where == "heldout" else 1)}
        )
    ]
    write_preferences(tmp_path / "held.jsonl", held)
    files = {"labels": (pairs, "pair-9"), "heldout": (tmp_path / "held.jsonl", "pair-20")}
    file, name = files[where]
    with pytest.raises(ChatTemplateError, match=refused_by(file, f"{name} (chosen)")):
        train(pairs, heldout=tmp_path / "held.jsonl", model=gemma, out=tmp_path / "out", **FAST)


def test_a_record_of_a_mix_is_named_with_the_file_of_its_source(gemma: str, tmp_path: Path) -> None:
    good = labels(tmp_path / "good.jsonl", refused=False)
    odd = labels(tmp_path / "odd.jsonl", refused=True)
    with pytest.raises(ChatTemplateError, match=refused_by(odd, "pair-9 (chosen)")):
        rlaif.train_sft(good, mix=[f"0.5*{odd}"], model=gemma, out=tmp_path / "out", **FAST)


def prompts(path: Path) -> Path:
    path.write_text(json.dumps({"id": "odd", "messages": REFUSED, "split": "train"}) + "\n")
    return path


def letters(conversations: Any, responses: list[str]) -> list[float]:
    return [float(len(response)) for response in responses]


@pytest.mark.parametrize("train", [rlaif.train_ppo, rlaif.train_rest])
def test_a_prompt_is_named_with_its_file(
    train: Callable[..., Path], gemma: str, tmp_path: Path
) -> None:
    file = prompts(tmp_path / "prompts.jsonl")
    settings = {**FAST, "max_new_tokens": 8, "engine": "transformers"}
    with pytest.raises(ChatTemplateError, match=refused_by(file, "odd")):
        train(file, model=gemma, reward=letters, out=tmp_path / "out", **settings)


def test_a_sampler_names_the_file_of_a_prompt(gemma: str, tmp_path: Path) -> None:
    file = prompts(tmp_path / "prompts.jsonl")
    with pytest.raises(SamplingError, match=rf"^{re.escape(str(file))}: .*prompt odd: the chat"):
        rlaif.sample(
            file, model=gemma, out=tmp_path / "samples.jsonl", engine="transformers",
            max_new_tokens=4, split="train",
        )  # fmt: skip


def test_a_too_long_record_is_named_alike_and_one_in_memory_without_a_file() -> None:
    records = [preference(1, "Yes.", "No.")]
    with pytest.raises(BatchError, match=r"^a.jsonl or b.jsonl: pair-1 \(chosen\): 9 tokens"):  # noqa: SIM117
        with naming_files(("2*a.jsonl", records), ("b.jsonl", records), (records, records)):
            raise BatchError("pair-1 (chosen): 9 tokens", "pair-1 (chosen)")
    with (
        pytest.raises(BatchError, match=r"^pair-1 \(chosen\): 9 tokens"),
        naming_files((records, records)),
    ):
        raise BatchError("pair-1 (chosen): 9 tokens", "pair-1 (chosen)")
    with pytest.raises(BatchError, match=r"^no usable pair"), naming_files(("a.jsonl", records)):
        raise BatchError("no usable pair")
