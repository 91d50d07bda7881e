"""Budgets of time and tokens: training ends with the step that spends them, also after a kill."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from rlaif.algorithms.dpo import train as dpo
from rlaif.algorithms.ppo import train as ppo
from rlaif.algorithms.rest import train as rest
from rlaif.algorithms.reward import train as reward_model
from rlaif.algorithms.sft import train as sft
from rlaif.training import run as run_module
from rlaif.training.checks import memory_gib, reset_peak_memory
from rlaif.training.config import TrainingError
from tests.support.training.killed import (
    KilledError,
    assert_same_outcome,
    kill_after,
    metrics,
    weights,
)

COMMON = {"dtype": "float32", "max_tokens": 200, "checkpoint_every": 2, "learning_rate": 1e-3}
SAMPLED = COMMON | {
    "max_tokens": 60,
    "max_new_tokens": 8,
    "engine": "transformers",
    "text_eval": None,  # scored in the last step, too, which differs
}
ALGORITHMS = ("sft", "reward", "dpo", "ppo", "rest")


@pytest.fixture
def train(tiny_model, polite_pairs, questions):
    """train(algorithm, out, **settings): six steps or more of any trainer."""

    def score(conversations, responses):
        return [float(len(set(response))) for response in responses]

    def start(algorithm, out, **settings):
        pairs = COMMON | {"epochs": 3, "batch_size": 4} | settings
        if algorithm == "sft":
            sources = [sft.SFTSource("pairs", polite_pairs)]
            sft.train(sft.SFTConfig(**pairs), tiny_model, sources, out)
        elif algorithm == "dpo":
            dpo.train(dpo.DPOConfig(**pairs), tiny_model, polite_pairs, out)
        elif algorithm == "reward":
            config = reward_model.RewardConfig(**pairs)
            reward_model.train(config, tiny_model, polite_pairs, out, {"manners": 1.0})
        elif algorithm == "ppo":
            config = ppo.PPOConfig(**SAMPLED | settings, iterations=6, prompts_per_iteration=4)
            ppo.train(config, tiny_model, questions, score, out)
        else:
            given = SAMPLED | settings
            config = rest.ReSTConfig(
                **given, samples_per_prompt=4, quantiles=(0.2, 0.5), batch_size=4, start="base"
            )
            rest.train(config, tiny_model, questions, score, out)
        return out

    return start


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_budget_of_tokens_ends_training_with_the_step_that_spends_it(
    algorithm, train, tmp_path, capsys
):
    whole = metrics(train(algorithm, tmp_path / "whole"))
    spent = [line["run_tokens"] for line in whole]
    assert len(spent) >= 5
    assert spent == sorted(spent)

    budget = int(spent[2]) + 1  # a token more than three steps take: the fourth spends it
    ended = train(algorithm, tmp_path / "ended", budget_tokens=budget)
    assert metrics(ended) == whole[:4]
    assert f"budget_tokens={budget} is spent" in capsys.readouterr().err
    newest = torch.load(ended / "checkpoints/step-000004.pt", weights_only=True)
    assert newest["spent"]["tokens"] == spent[3]

    again = weights(ended)
    train(algorithm, tmp_path / "ended", budget_tokens=budget)
    assert metrics(ended) == whole[:4]
    assert all(torch.equal(again[name], tensor) for name, tensor in weights(ended).items())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_budget_of_tokens_that_a_kill_interrupts_ends_at_the_same_step(
    algorithm, train, tmp_path, monkeypatch
):
    whole = metrics(train(algorithm, tmp_path / "whole"))
    budget = int(whole[3]["run_tokens"])
    train(algorithm, tmp_path / "ended", budget_tokens=budget)
    with monkeypatch.context() as patch:
        kill_after(patch, 2)
        with pytest.raises(KilledError):
            train(algorithm, tmp_path / "parts", budget_tokens=budget)
    train(algorithm, tmp_path / "parts", budget_tokens=budget)
    assert_same_outcome(tmp_path / "ended", tmp_path / "parts")
    assert len(metrics(tmp_path / "parts")) == 4


def clock(monkeypatch, *, per_look):
    """A clock that goes on by so many seconds each time it is looked at."""
    now = [0.0]

    def monotonic():
        now[0] += per_look
        return now[0]

    monkeypatch.setattr(run_module, "time", SimpleNamespace(monotonic=monotonic))


@pytest.mark.parametrize("algorithm", ["sft", "dpo"])
def test_budget_of_seconds_counts_those_before_a_kill(algorithm, train, tmp_path, monkeypatch):
    clock(monkeypatch, per_look=1.0)
    with monkeypatch.context() as patch:
        kill_after(patch, 2)
        with pytest.raises(KilledError):
            train(algorithm, tmp_path, budget_seconds=12)
    saved = torch.load(tmp_path / "checkpoints/step-000002.pt", weights_only=True)
    assert 0 < saved["spent"]["seconds"] < 12
    train(algorithm, tmp_path, budget_seconds=12)
    lines = metrics(tmp_path)
    assert 2 < len(lines) < 6
    seconds = torch.load(sorted(tmp_path.glob("checkpoints/*.pt"))[-1], weights_only=True)["spent"]
    assert seconds["seconds"] >= 12 > saved["spent"]["seconds"]


def test_budget_that_is_spent_before_the_first_step_is_an_error(train, tmp_path, monkeypatch):
    clock(monkeypatch, per_look=100.0)
    with pytest.raises(TrainingError, match=r"budget_seconds=5 is spent before the first step"):
        train("dpo", tmp_path, budget_seconds=5)
    assert not (tmp_path / "adapter_config.json").exists()


@pytest.mark.parametrize("algorithm", ["dpo", "rest"])
def test_seconds_spent_before_the_first_step_stay_spent_when_it_is_tried_again(
    algorithm, train, tmp_path, monkeypatch
):
    clock(monkeypatch, per_look=100.0)
    with pytest.raises(TrainingError, match="before the first step"):
        train(algorithm, tmp_path, budget_seconds=5)
    clock(monkeypatch, per_look=0.001)  # what was prepared takes no time now
    with pytest.raises(TrainingError, match="before the first step"):
        train(algorithm, tmp_path, budget_seconds=5)
    train(algorithm, tmp_path, budget_seconds=5, resume="never")
    assert len(metrics(tmp_path)) > 4


def test_seconds_of_sampling_count_after_a_kill_before_the_next_checkpoint(
    train, tmp_path, monkeypatch
):
    clock(monkeypatch, per_look=1.0)
    with monkeypatch.context() as patch:
        kill_after(patch, 1)
        with pytest.raises(KilledError):
            train("rest", tmp_path, budget_seconds=1000)
    assert not list(tmp_path.glob("checkpoints/*.pt"))
    spent = json.loads((tmp_path / "checkpoints/spent.json").read_text())["seconds"]
    assert spent > 0
    train("rest", tmp_path, budget_seconds=1000)
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert first["run_seconds"] > spent


def test_budget_of_tokens_that_sampling_alone_spends_is_an_error(train, tmp_path):
    with pytest.raises(TrainingError, match=r"budget_tokens=3 is spent before the first step"):
        train("rest", tmp_path, budget_tokens=3)


def test_the_peak_of_memory_begins_anew_with_every_run():
    reset_peak_memory()
    before = memory_gib()
    large = bytearray(400_000_000)
    assert memory_gib() > before + 0.3
    del large
    reset_peak_memory()
    assert memory_gib() < before + 0.1
