"""What PPO's training does: metrics, guards, errors, group baselines, resume to the bit."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from rlaif.algorithms.ppo import train as ppo
from rlaif.algorithms.ppo.rollout import RolloutResponse, assemble, roll_out
from rlaif.algorithms.ppo.train import PPOConfig, train
from rlaif.batching.encode import Row
from rlaif.distributed.processes import ProcessGroup
from rlaif.generation.base import Generated
from rlaif.generation.engines import open_sampler
from rlaif.models.reward.weights import RewardModelError
from rlaif.rewards.mix import Reward
from rlaif.training.config import TrainingError
from tests.support.training.killed import KilledError, assert_same_outcome, kill_after
from tests.support.training.ppo_runs import (
    ALONE,
    count_x,
    encoded,
    forwards_of,
    metrics,
    models_over,
    small,
)

CPU = torch.device("cpu")


# ── settings ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kl_horizon": 100}, "kl_horizon does nothing without kl_target"),
        ({"kl_target": 3, "kl_coef": 0}, "kl_target=3 does nothing with kl_coef=0, which it would"),
        ({"ratio": "sequence"}, "advantages=gae does not use ratio; remove it"),
        ({"truncated": "mask", "ratio": "token"}, "gae does not use ratio, truncated; remove them"),
        ({"lora": {"dropout": 0.1}}, r"lora.dropout=0.1 would make the update's policy another"),
        ({"max_tokens": 64, "max_new_tokens": 64}, "max_new_tokens must leave room"),
        (
            {"advantages": "gea"},
            "unknown estimator 'gea'; expected one of: gae, rloo, grpo, dr_grpo; did you mean",
        ),
        ({"advantages": "rloo"}, "advantages=rloo compares .* set group_size to 2 or more"),
        ({"advantages": "grpo", "group_size": 4, "vf_coef": 0.2}, "does not use vf_coef; remove"),
        ({"advantages": "rloo", "group_size": 2, "gamma": 1.0}, "does not use gamma; remove"),
        ({"advantages": "rloo", "group_size": 2, "value": "head"}, "does not use value; remove"),
    ],
)
def test_settings_that_do_nothing_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        PPOConfig(**settings)


def test_settings_of_a_judge_are_refused_without_one(tiny_model, questions, tmp_path):
    with pytest.raises(TrainingError, match=r"need a judge .*: eval_every, rollback_error"):
        train(small(eval_every=1, rollback_error=0.1), tiny_model, questions, count_x, tmp_path)


def test_fewer_prompts_than_processes_are_refused(tiny_model, questions, tmp_path, monkeypatch):
    monkeypatch.setattr(ProcessGroup, "current", classmethod(lambda cls: ProcessGroup(0, 5)))
    with pytest.raises(TrainingError, match="prompts_per_iteration=4 is less than the 5 processes"):
        train(small(), tiny_model, questions, count_x, tmp_path)


# ── the rollout ──────────────────────────────────────────────────────────────────────────────


def response(
    score: float | None,
    old: list[float],
    ref: list[float],
    *,
    complete: bool = True,
    text: str = "a",
) -> RolloutResponse:
    n = len(old)
    row = Row("q", (1, 2, *range(5, 5 + n)), 2)
    return RolloutResponse(row, text, complete, score, torch.tensor(old), torch.tensor(old),
                    torch.tensor(ref), torch.zeros(n))  # fmt: skip


def test_a_rollouts_metrics_by_hand():
    first = response(2.0, [-1.0, -2.0], [-1.5, -2.0], text="to be or to be")
    cut_off = response(4.0, [-3.0], [-2.0], complete=False, text="or not")
    groups = [[first, response(None, [-9.0], [0.0])], [cut_off]]
    _, found = assemble(groups, 0.1, small(missing_eos_penalty=1.0), CPU)
    assert found["score"] == 3
    assert found["kl_k1"] == pytest.approx((0.5 - 1) / 2)
    k3 = (math.exp(-0.5) - 1 + 0.5) + (math.e - 1 - 1)
    assert found["kl_k3"] == pytest.approx(k3 / 2)
    assert found["reward"] == pytest.approx(((2 - 0.05) + (4 - 1 + 0.1)) / 2)
    assert found["entropy"] == pytest.approx(2)
    assert found["response_length"] == 1.5
    assert found["eos_rate"] == 0.5
    assert found["distinct_2"] == pytest.approx(4 / 5)  # "to be" stands twice
    assert found["unscored"] == 1
    assert (found["importance_mean"], found["importance_max"]) == (1, 1)


def test_rloos_reward_has_the_kl_and_grpos_loss_has_it_instead():
    group = [[response(2.0, [-1.0, -2.0], [-1.5, -2.0]), response(1.0, [-3.0], [-2.0])]]
    rloo, found = assemble(group, 0.1, small(advantages="rloo", group_size=2), CPU)
    assert found["reward"] == pytest.approx((1.95 + 1.1) / 2)
    torch.testing.assert_close(rloo.advantages, torch.tensor([[0.85, 0.85], [-0.85, 0.0]]))
    assert rloo.reference_weight == 0
    grpo, found = assemble(group, 0.1, small(advantages="grpo", group_size=2), CPU)
    assert found["reward"] == 1.5
    a = 0.5 / (0.5**0.5 + 1e-4)
    torch.testing.assert_close(grpo.advantages, torch.tensor([[a, a], [-a, 0.0]]))
    assert grpo.reference_weight == 0.1
    assert rloo.targets is None
    assert grpo.targets is None


def test_importance_weights_are_logged_raw_and_used_truncated():
    from dataclasses import replace

    one = response(1.0, [-1.0, -1.0, -1.0], [-1.0, -1.0, -1.0])
    off = replace(
        one, sampler_logprobs=torch.tensor([-1.0, -1.0 - math.log(5), -1.0 + math.log(2)])
    )
    rollout, found = assemble([[off]], 0.1, small(importance_cap=3.0), CPU)
    torch.testing.assert_close(rollout.importance, torch.tensor([[1.0, 3.0, 0.5]]))
    assert found["importance_mean"] == pytest.approx(6.5 / 3)
    assert found["importance_max"] == pytest.approx(5)
    assert found["importance_clipped"] == pytest.approx(1 / 3)


def test_a_forward_of_the_policy_is_saved_when_the_sampler_is_exact(
    tiny_model, questions, monkeypatch
):
    config = small(advantages="rloo", group_size=2)
    models = models_over(tiny_model, config)
    made = forwards_of(models.policy, monkeypatch)
    roll_out(models, encoded(models, questions)[:4], 1, 0.05, config, ALONE)
    assert {role for role, _ in made} == {None}
    models.sampler.exact = False
    roll_out(models, encoded(models, questions)[:4], 1, 0.05, config, ALONE)
    assert {role for role, _ in made} == {None, "policy"}


def test_a_sampler_that_is_not_exact_is_corrected_for(tiny_model, questions, tmp_path, monkeypatch):
    """Its log-probs are a tenth of a nat too high: every weight is e^-0.1."""
    opened = ppo.open_sampler

    def off(*settings):
        sampler = opened(*settings)
        sampler.exact = False
        generate = sampler.generate

        def shifted(*asked):
            return [
                Generated(g.ids, [x + 0.1 for x in g.logprobs], g.complete)
                for g in generate(*asked)
            ]

        sampler.generate = shifted
        return sampler

    monkeypatch.setattr(ppo, "open_sampler", off)
    first = metrics(train(small(iterations=1), tiny_model, questions, count_x, tmp_path))[0]
    assert first["importance_mean"] == pytest.approx(math.exp(-0.1), abs=1e-4)
    assert first["importance_clipped"] == 0
    assert first["sampler_gap"] == pytest.approx(0.1, abs=1e-4)


def test_each_response_to_a_prompt_is_drawn_anew_and_again_in_the_next_iteration(
    tiny_model, questions
):
    config = small(group_size=3)
    models = models_over(tiny_model, config)
    prompts = encoded(models, questions)[:2] * 2  # a prompt may come twice in an iteration
    rows = [
        row.ids
        for step in (1, 2)
        for row in roll_out(models, prompts, step, 0.05, config, ALONE)[0].rows
    ]
    assert len(set(rows)) == len(rows) == 24


# ── training ─────────────────────────────────────────────────────────────────────────────────


def test_the_first_rollout_has_no_kl_and_a_ratio_of_1(tiny_model, questions, tmp_path):
    first = metrics(train(small(iterations=1), tiny_model, questions, count_x, tmp_path))[0]
    assert first["kl_k1"] == pytest.approx(0, abs=1e-5)
    assert first["kl_k3"] == pytest.approx(0, abs=1e-5)
    assert first["update_kl"] == pytest.approx(0, abs=1e-9)
    assert first["clip_fraction"] == 0
    assert first["sampler_gap"] < 1e-5
    assert first["explained_variance"] == 0  # V starts as 0
    assert first["policy_loss"] == pytest.approx(0, abs=1e-5)  # whitened advantages have mean 0
    assert {"rollout_seconds", "update_seconds", "memory_gib"} <= first.keys()


@pytest.mark.parametrize("advantages", ["gae", "rloo", "grpo"])
def test_it_learns_what_is_rewarded(advantages, tiny_model, questions, tmp_path):
    def even(conversations, responses):
        return [sum(ord(c) % 2 == 0 for c in r) / 8 for r in responses]

    settings = {"prompts_per_iteration": 24, "iterations": 20} if advantages == "gae" else {
        "prompts_per_iteration": 6, "iterations": 14, "group_size": 4, "advantages": advantages,
    }  # fmt: skip
    config = small(
        learning_rate=3e-2, kl_coef=0.0, epochs=2, update_batch_size=24, missing_eos_penalty=0.0,
        kl_ceiling=1.0, checkpoint_every=20, **settings,
    )  # fmt: skip
    scores = [m["score"] for m in metrics(train(config, tiny_model, questions, even, tmp_path))]
    assert sum(scores[-5:]) / 5 > sum(scores[:5]) / 5 + 0.1, scores


@pytest.mark.parametrize("advantages", ["rloo", "grpo"])
def test_a_group_baseline_makes_no_value_role(advantages, tiny_model, questions, tmp_path):
    config = small(iterations=1, advantages=advantages, group_size=2)
    out = train(config, tiny_model, questions, count_x, tmp_path)
    assert "value_loss" not in metrics(out)[0]
    assert "explained_variance" not in metrics(out)[0]
    saved = torch.load(out / "checkpoints/step-000001.pt", weights_only=True)
    assert all(".policy." in name for name in saved["learner"]["parameters"])


@pytest.mark.parametrize(
    "settings", [{"value": "head"}, {"value": "adapter"}, {"advantages": "grpo", "group_size": 2}]
)
def test_full_fine_tuning_moves_the_policy_and_leaves_the_reference(
    settings, tiny_model, questions, tmp_path
):
    config = small(lora=None, learning_rate=1e-3, iterations=3, **settings)
    out = train(config, tiny_model, questions, count_x, tmp_path)
    lines = metrics(out)
    assert lines[0]["kl_k3"] == pytest.approx(0, abs=1e-5)
    assert lines[-1]["kl_k3"] > 1e-5
    from transformers import AutoModelForCausalLM

    trained = AutoModelForCausalLM.from_pretrained(out).state_dict()
    start = AutoModelForCausalLM.from_pretrained(tiny_model).state_dict()
    assert trained.keys() == start.keys()
    assert any(not torch.equal(trained[name].float(), start[name].float()) for name in start)


def test_a_response_without_a_score_is_left_out_and_counted(tiny_model, questions, tmp_path):
    def sometimes(conversations, responses):
        return [None, 3.0, 3.0, None][: len(responses)]

    first = metrics(train(small(iterations=1), tiny_model, questions, sometimes, tmp_path))[0]
    assert (first["unscored"], first["unscored/gave None"]) == (2, 2)
    assert first["score"] == 3.0


def test_responses_without_a_score_are_counted_by_reason_in_each_iteration(
    tiny_model, questions, tmp_path
):
    class LateReward:
        def __init__(self):
            self.unscored = {"timed out": 7}  # from before

        def __call__(self, conversations, responses):
            self.unscored["timed out"] += 1
            return [None, None, 3.0, 3.0]

    mix = Reward([("judge:a:1", 1.0, LateReward()), ("f", 1.0, lambda c, r: [1.0, None])])
    for line in metrics(train(small(), tiny_model, questions, mix, tmp_path)):
        assert line["unscored"] == 3
        assert {name: n for name, n in line.items() if name.startswith("unscored/")} == {
            "unscored/judge:a:1: timed out": 1,
            "unscored/judge:a:1: gave None": 1,
            "unscored/f: gave None": 1,
        }


def test_the_cache_of_keys_and_values_is_no_larger_than_the_responses_need(
    tiny_model, questions, tmp_path, monkeypatch
):
    asked: list = []

    def opened(engine, backbone, max_tokens, kv_cache_gib):
        asked.append((max_tokens, kv_cache_gib))
        return open_sampler(engine, backbone, max_tokens, kv_cache_gib)

    monkeypatch.setattr(ppo, "open_sampler", opened)
    for at_most in (1.0, 1e-5):
        config = small(iterations=1, kv_cache_gib=at_most)
        train(config, tiny_model, questions, count_x, tmp_path / str(at_most))
    prompt = max(len(p.ids) for p in encoded(models_over(tiny_model, small()), questions))
    blocks = 4 * 2 + 1  # four responses of 33 to 64 tokens, one block besides
    # 2 layers of keys and values, 2 heads of width 8, float32
    assert asked == [(prompt + 8, blocks * 32 * 256 / 2**30), (prompt + 8, 1e-5)]


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda c, r: [None] * len(r), "iteration 1: none of its 4 responses has a score"),
        (lambda c, r: [1.0], "gave 1 scores for 4 responses"),
        (lambda c, r: [math.nan] * len(r), "the score of a response to prompt q. is nan"),
        (lambda c, r: {}["x"], "the reward function raised KeyError: 'x'; the last checkpoint"),
    ],
)
def test_a_reward_that_cannot_be_used_is_a_clear_error(
    reward, message, tiny_model, questions, tmp_path
):
    with pytest.raises(RewardModelError, match=message):
        train(small(), tiny_model, questions, reward, tmp_path)


def test_a_missing_end_costs_the_penalty(tiny_model, questions, tmp_path):
    config = small(iterations=1, missing_eos_penalty=5.0, kl_coef=0.0)
    first = metrics(train(config, tiny_model, questions, count_x, tmp_path))[0]
    assert first["reward"] == pytest.approx(first["score"] - 5 * (1 - first["eos_rate"]), abs=1e-5)


def test_the_kl_guard_stops_the_updates_of_an_iteration(tiny_model, questions, tmp_path):
    config = small(iterations=1, epochs=30, learning_rate=0.05, warmup=0.0, kl_ceiling=1e-3)
    first = metrics(train(config, tiny_model, questions, count_x, tmp_path))[0]
    assert first["kl_guard"] == 1
    assert first["update_kl"] > 1e-3


def test_over_max_kl_training_ends_with_an_error_and_the_checkpoints_stay(
    tiny_model, questions, tmp_path
):
    config = small(iterations=9, learning_rate=0.05, warmup=0.0, max_kl=1e-3)
    with pytest.raises(TrainingError, match=r"PPO, iteration \d: .* over max_kl=0.001"):
        train(config, tiny_model, questions, count_x, tmp_path)
    assert (tmp_path / "checkpoints/step-000001.pt").exists()


def test_the_kl_coefficient_follows_its_target(tiny_model, questions, tmp_path):
    config = small(kl_target=6.0, kl_horizon=100.0)
    lines = metrics(train(config, tiny_model, questions, count_x, tmp_path))
    assert lines[0]["kl_coef"] == 0.05
    assert lines[1]["kl_coef"] == pytest.approx(0.05 * (1 - 0.2 * 4 / 100))  # no KL yet: down most


def test_a_reward_models_folder_is_a_role_of_the_same_base(
    tiny_model, polite_pairs, questions, tmp_path
):
    from rlaif.algorithms.reward import train as reward_model

    settings = reward_model.RewardConfig(dtype="float32", epochs=1, max_tokens=200)
    folder = reward_model.train(
        settings, tiny_model, polite_pairs, tmp_path / "reward", {"manners": 1.0}
    )
    for name, lora in {"adapters": {}, "full": {"lora": None}}.items():
        lines = metrics(train(small(**lora), tiny_model, questions, folder, tmp_path / name))
        assert len(lines) == 2
        assert all(math.isfinite(m["score"]) for m in lines)


@pytest.mark.parametrize(
    "settings", [{"value": "head"}, {"value": "adapter"}, {"advantages": "rloo", "group_size": 2}]
)
def test_ten_iterations_a_kill_and_ten_more_are_twenty_to_the_bit(
    settings, tiny_model, questions, tmp_path, monkeypatch
):
    config = small(
        iterations=20, prompts_per_iteration=3, max_new_tokens=4, checkpoint_every=5,
        kl_target=1.0, kl_horizon=50.0, learning_rate=1e-3, **settings,
    )  # fmt: skip

    def score(conversations, responses):
        return [len(set(r)) + torch.rand(1).item() for r in responses]  # uses the global RNG

    def run(out):
        return train(config, tiny_model, questions, score, out)

    torch.manual_seed(5)
    run(tmp_path / "whole")
    torch.manual_seed(5)
    with monkeypatch.context() as patch:
        kill_after(patch, 11)  # two iterations are done again
        with pytest.raises(KilledError):
            run(tmp_path / "parts")
    torch.manual_seed(6)  # a new process has another state
    run(tmp_path / "parts")
    assert_same_outcome(tmp_path / "parts", tmp_path / "whole")
