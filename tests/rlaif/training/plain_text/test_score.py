"""The loss on held-out plain text: against transformers' own, and during every training."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from constitution.schema import Message
from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.dpo.train import train as train_dpo
from rlaif.algorithms.ppo.config import PPOConfig
from rlaif.algorithms.ppo.train import train as train_ppo
from rlaif.algorithms.rest.config import ReSTConfig
from rlaif.algorithms.rest.train import train as train_rest
from rlaif.algorithms.sft.config import SFTConfig
from rlaif.algorithms.sft.sources import SFTSource
from rlaif.algorithms.sft.train import train as train_sft
from rlaif.batching.encode import text_rows
from rlaif.data.records import Demonstration
from rlaif.distributed.processes import ProcessGroup
from rlaif.models.backbone import Backbone
from rlaif.training.config import TrainingError
from rlaif.training.plain_text.score import TOKENS, WINDOW, TextForgetting, windows
from rlaif.training.plain_text.source import SHIPPED, read_text
from tests.support.training.gradients import OneOfSeveral
from tests.support.training.killed import KilledError, assert_same_outcome, kill_after

ALONE = ProcessGroup(rank=0, count=1)
TINY = {"dtype": "float32", "max_tokens": 80, "checkpoint_every": 1, "lora": {"rank": 2}}


def loss_by_transformers(model: str, context: int = WINDOW) -> float:
    """Nats per token of the shipped text, window by window, by the class's own forward."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    other = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids = begin + tokenizer(read_text(SHIPPED), add_special_tokens=False).input_ids
    ids = ids[: TOKENS + 1]
    nats, count = 0.0, 0
    for at in range(0, len(ids) - 1, context - 1):
        window = torch.tensor([ids[at : at + context]])
        with torch.no_grad():
            mean = other(input_ids=window, labels=window).loss.item()  # over all but the first
        nats += mean * (window.shape[1] - 1)
        count += window.shape[1] - 1
    assert count == len(ids) - 1
    return nats / count


@pytest.mark.parametrize("bos", [None, "<|im_start|>"])
@pytest.mark.parametrize("budget", [1, 4096])
def test_the_loss_is_that_of_transformers_on_the_same_windows(bos, budget, make_tiny_model):
    model = make_tiny_model(bos=bos)
    config = SFTConfig(**TINY, micro_batch_tokens=budget)
    found = TextForgetting.from_start(Backbone.load(model, "float32"), config, ALONE)
    assert found.start == pytest.approx(loss_by_transformers(model), rel=1e-5)


def test_each_token_counts_once_and_their_number_is_bounded(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert len(read_text(SHIPPED)) > TOKENS  # a token a byte here, so that the bound binds
    rows = windows(tokenizer, read_text(SHIPPED), 100)
    counted = [token for row in rows for token in row.ids[row.start :]]
    assert counted == tokenizer.encode(read_text(SHIPPED), add_special_tokens=False)[1 : TOKENS + 1]
    assert max(len(row.ids) for row in rows) == 100
    assert text_rows("t", [7], 100) == text_rows("t", [], 100) == []


def test_processes_share_the_windows_and_add_up_to_the_same_loss(tiny_model):
    backbone, config = Backbone.load(tiny_model, "float32"), SFTConfig(**TINY)
    whole = TextForgetting.from_start(backbone, config, ALONE).start
    parts = [
        TextForgetting.from_start(backbone, config, OneOfSeveral(rank, 2)).start
        for rank in range(2)
    ]
    assert min(parts) > 0.3 * whole
    assert sum(parts) == pytest.approx(whole, rel=1e-6)


def test_the_rise_is_over_the_start_and_0_before_any_step(tiny_model):
    backbone, config = Backbone.load(tiny_model, "float32"), SFTConfig(**TINY)
    backbone.add_role("policy", config.lora, 0)
    text = TextForgetting.from_start(backbone, config, ALONE)
    assert text.metrics(backbone) == {"text_nll": text.start, "text_nll_rise": 0.0}
    with torch.no_grad():
        for parameter in backbone.role_parameters("policy").values():
            parameter.add_(0.05)
    moved = text.metrics(backbone)
    assert moved["text_nll"] != text.start
    assert moved["text_nll_rise"] == pytest.approx(moved["text_nll"] / text.start - 1)


def test_without_a_text_nothing_is_computed_or_logged(tiny_model):
    backbone = Backbone.load(tiny_model, "float32")
    text = TextForgetting.from_start(backbone, SFTConfig(**TINY, text_eval=None), ALONE)
    assert text.metrics(backbone) == {}


def test_a_text_of_one_token_is_refused_before_the_first_step(tiny_model, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    config = SFTConfig(**TINY, text_eval=str(tmp_path / "a.txt"))
    with pytest.raises(TrainingError, match=r"a\.txt: less than two tokens; give a longer text"):
        TextForgetting.from_start(Backbone.load(tiny_model, "float32"), config, ALONE)


# ── in every training ────────────────────────────────────────────────────────────────────────


def lessons():
    return [
        Demonstration(id=f"d{i}", prompt=(Message(role="user", content=f"Say {i}"),), response="x!")
        for i in range(8)
    ]


def letters(conversations, responses):
    return [sum(c.isalpha() for c in r) / 10 + 0.001 * len(r) for r in responses]


def train_each(name, model, prompts, pairs, out, **settings):
    tiny = TINY | settings
    sampled = tiny | {"engine": "transformers", "max_new_tokens": 4}
    if name == "sft":
        config = SFTConfig(**tiny, epochs=2, batch_size=4)
        return train_sft(config, model, [SFTSource("a", lessons())], out)
    if name == "dpo":
        return train_dpo(DPOConfig(**tiny, epochs=2, batch_size=4), model, pairs, out)
    if name == "ppo":
        config = PPOConfig(**sampled, iterations=11, prompts_per_iteration=2)
        return train_ppo(config, model, prompts, letters, out)
    config = ReSTConfig(**sampled, quantiles=(0.2, 0.5), samples_per_prompt=4, batch_size=4)
    return train_rest(config, model, prompts, letters, out)


def scored(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return lines, {line["step"]: line["text_nll_rise"] for line in lines if "text_nll" in line}


@pytest.mark.parametrize("name", ["sft", "dpo", "ppo", "rest"])
def test_every_trainer_scores_the_text_at_its_evaluations_and_after_the_last_step(
    name, tiny_model, questions, polite_pairs, tmp_path
):
    out = train_each(name, tiny_model, questions, polite_pairs, tmp_path)
    lines, rises = scored(out)
    if name in ("sft", "dpo"):
        assert list(rises) == [2, 4]  # once an epoch
    elif name == "ppo":
        assert list(rises) == [10, 11]  # eval_every, without a judge too
    else:
        ends = [a["step"] for a, b in pairwise(lines) if a["improve"] != b["improve"]]
        assert list(rises) == [*ends, lines[-1]["step"]]
    assert all(math.isfinite(rise) and rise != 0 for rise in rises.values())
    backbone = Backbone.load(tiny_model, "float32")
    backbone.load_role("policy", out)
    text = TextForgetting.from_start(backbone, SFTConfig(**TINY), ALONE)
    assert text.metrics(backbone)["text_nll"] == pytest.approx(lines[-1]["text_nll"], rel=1e-5)


@pytest.mark.parametrize("name", ["sft", "dpo", "ppo", "rest"])
def test_scoring_the_text_changes_no_weight(name, tiny_model, questions, polite_pairs, tmp_path):
    same = tiny_model, questions, polite_pairs
    train_each(name, *same, tmp_path / "with")
    train_each(name, *same, tmp_path / "without", text_eval=None)
    assert scored(tmp_path / "without")[1] == {}
    weights = [
        (tmp_path / n / "adapter_model.safetensors").read_bytes() for n in ("with", "without")
    ]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("lora", [{"rank": 2}, None])
def test_a_resumed_run_measures_the_rise_over_the_start_and_not_over_where_it_resumed(
    lora, tiny_model, questions, polite_pairs, tmp_path, monkeypatch
):
    settings = {"lora": lora, "learning_rate": 1e-2, "eval_every": 3}
    same = "sft", tiny_model, questions, polite_pairs
    train_each(*same, tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        kill_after(patch, 2)
        with pytest.raises(KilledError):
            train_each(*same, tmp_path / "parts", **settings)
    train_each(*same, tmp_path / "parts", **settings)
    assert_same_outcome(tmp_path / "whole", tmp_path / "parts")
    assert list(scored(tmp_path / "parts")[1]) == [3, 4]


def test_a_policy_that_forgets_raises_the_alarm(tiny_model, questions, tmp_path, capsys):
    """A random model has no language to forget: it first learns the text itself, by heart."""
    from rlaif.data.records import PlainText
    from rlaif.models.merge import merge_adapter

    small = TINY | {"max_tokens": 128, "batch_size": 8, "learning_rate": 2e-2}
    text = [PlainText(id="t", text=read_text(SHIPPED)[:3000])]
    config = SFTConfig(**small, epochs=6)
    learned = train_sft(config, tiny_model, [SFTSource("text", text)], tmp_path / "text")
    assert scored(learned)[1][max(scored(learned)[1])] < -0.1  # it falls: no alarm
    assert "text_forgotten" not in (learned / "metrics.jsonl").read_text()
    merge_adapter(tiny_model, learned, tmp_path / "model")
    capsys.readouterr()
    config = SFTConfig(**small | {"batch_size": 2}, epochs=4)
    out = train_sft(config, str(tmp_path / "model"), [SFTSource("a", lessons())], tmp_path / "out")
    lines, rises = scored(out)
    assert rises[16] > 0.02
    assert "text_forgotten" in lines[-1]["alarms"]
    assert "the policy forgets ordinary language; mix in plain text" in capsys.readouterr().err
