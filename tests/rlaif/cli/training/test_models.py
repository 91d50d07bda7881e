"""`rlaif models merge`: an ordinary model folder, and nothing that was there is overwritten."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from constitution.errors import UserError
from rlaif.cli.main import app
from rlaif.models import catalog
from rlaif.models.backbone import Backbone, LoraConfig


@pytest.fixture
def adapter(tiny_model: str, tmp_path: Path) -> Path:
    """An adapter far from the base."""
    backbone = Backbone.load(tiny_model, "float32")
    backbone.add_role("policy", LoraConfig(rank=4), 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in backbone.role_parameters("policy").values():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    backbone.save_role("policy", tmp_path / "adapter")
    return tmp_path / "adapter"


def merge(*arguments: object):
    return CliRunner().invoke(app, ["models", "merge", *map(str, arguments)])


def greedy(model, tokenizer) -> list[int]:
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Why?"}], add_generation_prompt=True, return_tensors="pt",
        return_dict=False,
    )  # fmt: skip
    found: list[int] = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, pad_token_id=0
    )[0].tolist()
    return found


def test_the_merged_folder_says_what_the_base_with_the_adapter_says(tiny_model, adapter, tmp_path):
    out = tmp_path / "merged"
    found = merge(tiny_model, adapter, "-o", out)
    assert (found.exit_code, found.output.strip()) == (0, str(out))
    assert catalog.resolve(out) == str(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(tiny_model).chat_template
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    merged = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    before = greedy(base, tokenizer)
    said = greedy(merged, tokenizer)
    assert said == greedy(peft.PeftModel.from_pretrained(base, adapter), tokenizer)
    assert said != before


def test_what_is_there_already_is_not_overwritten(tiny_model, adapter, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    found = merge(tiny_model, adapter, "-o", tmp_path / "mine")
    assert isinstance(found.exception, UserError)
    assert "exists already" in str(found.exception)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_what_is_no_adapter_is_told(tiny_model, tmp_path):
    found = merge(tiny_model, tiny_model, "-o", tmp_path / "out")
    assert isinstance(found.exception, UserError)
    assert "not a LoRA adapter" in str(found.exception)
    assert not (tmp_path / "out").exists()
