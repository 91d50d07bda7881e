"""PPO over rollout workers, in this process (real holders, messages and weights)."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from rlaif.algorithms.ppo import train as ppo
from rlaif.algorithms.ppo.train import train
from rlaif.generation.remote.opening import open_rollout_workers
from tests.support.rollouts.rollout_workers import launcher
from tests.support.training.ppo_runs import count_x, metrics, small

TIMES = ("seconds", "per_s", "memory", "rollout_restarts")


def told(line):
    """A line of metrics without times."""
    return {name: value for name, value in line.items() if not any(t in name for t in TIMES)}


def assert_same_run(found, expected):
    for one, other in zip(metrics(found), metrics(expected), strict=True):
        assert one["score"] == other["score"]
        assert told(one) == pytest.approx(told(other), abs=1e-4)
    file = "adapter_model.safetensors"
    one, other = (load_file(out / file) for out in (found, expected))
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=0)


@pytest.fixture
def here(monkeypatch):
    """Opens workers in this process; the list has all that were made. `lives` may be set."""
    made = []

    class Launching:
        lives = staticmethod(lambda place, request: True)

    def opened(*args, **settings):
        lives = lambda *asked: Launching.lives(*asked)  # noqa: E731
        return open_rollout_workers(*args, **settings, launch=launcher(made, lives))

    monkeypatch.setattr(ppo, "open_rollout_workers", opened)
    Launching.made = made
    return Launching


@pytest.mark.parametrize(
    "settings",
    [{}, {"rollout_weights": "files"}, {"advantages": "rloo", "group_size": 2}],
)
def test_two_workers_give_the_run_of_none(settings, here, tiny_model, questions, tmp_path):
    alone = {name: value for name, value in settings.items() if name != "rollout_weights"}
    expected = train(small(**alone), tiny_model, questions, count_x, tmp_path / "alone")
    config = small(rollout_workers=2, **settings)
    found = train(config, tiny_model, questions, count_x, tmp_path / "workers")
    assert_same_run(found, expected)
    assert all(len(worker.asked) == 2 for worker in here.made)  # one share in each iteration
    assert not (found / "rollouts" / "rank-0").exists()


def test_a_worker_that_dies_changes_nothing(here, tiny_model, questions, tmp_path):
    expected = train(small(), tiny_model, questions, count_x, tmp_path / "alone")
    deaths = [2, 1]
    here.lives = lambda place, request: not (deaths and request["version"] == deaths[-1]
                                             and deaths.pop())  # fmt: skip
    config = small(rollout_workers=2)
    found = train(config, tiny_model, questions, count_x, tmp_path / "workers")
    assert_same_run(found, expected)
    assert [line["rollout_restarts"] for line in metrics(found)] == [1, 2]


def test_a_run_may_resume_with_another_number_of_workers(here, tiny_model, questions, tmp_path):
    whole = train(small(iterations=3), tiny_model, questions, count_x, tmp_path / "whole")
    scored = []

    def stops_once(conversations, responses):
        scored.append(responses)
        if len(scored) == 3:
            raise KeyboardInterrupt
        return count_x(conversations, responses)

    config = small(iterations=3, rollout_workers=2)
    with pytest.raises(KeyboardInterrupt):
        train(config, tiny_model, questions, stops_once, tmp_path / "resumed")
    config = small(iterations=3, rollout_workers=1)
    resumed = train(config, tiny_model, questions, stops_once, tmp_path / "resumed")
    assert_same_run(resumed, whole)


# ── one step off-policy ──────────────────────────────────────────────────────────────────────

AHEAD = partial(small, rollout_workers=2, off_policy_steps=1, iterations=3, learning_rate=1e-2,
                warmup=0.0)  # fmt: skip


def test_one_step_off_policy_is_logged_and_corrected_by_importance_weights(
    here, tiny_model, questions, tmp_path
):
    lines = metrics(train(AHEAD(), tiny_model, questions, count_x, tmp_path))
    assert [line["staleness"] for line in lines] == [0, 1, 1]
    assert lines[0]["importance_mean"] == pytest.approx(1, abs=1e-4)
    assert abs(lines[1]["importance_mean"] - 1) > 1e-3
    # of the present weights: before the first step the policy is where π_old is
    assert all(line["sampler_gap"] < 1e-4 for line in lines[:1])
    assert lines[1]["sampler_gap"] > 1e-3


def test_ahead_of_training_the_weights_before_the_updates_draw(
    here, tiny_model, questions, tmp_path
):
    """The second iteration's responses are those of a policy that was not trained."""
    texts = {}

    def keeping(name):
        def score(conversations, responses):
            texts.setdefault(name, []).append(list(responses))
            return count_x(conversations, responses)

        return score

    train(AHEAD(iterations=2), tiny_model, questions, keeping("ahead"), tmp_path / "ahead")
    still = small(iterations=2, learning_rate=1e-12, warmup=0.0)
    train(still, tiny_model, questions, keeping("still"), tmp_path / "still")
    assert texts["ahead"] == texts["still"]


def test_an_off_policy_run_that_was_killed_resumes_with_what_was_drawn(
    here, tiny_model, questions, tmp_path
):
    whole = train(AHEAD(), tiny_model, questions, count_x, tmp_path / "whole")
    scored = []

    def stops_once(conversations, responses):
        scored.append(responses)
        if len(scored) == 3:
            raise KeyboardInterrupt
        return count_x(conversations, responses)

    for _ in range(2):
        try:
            resumed = train(AHEAD(), tiny_model, questions, stops_once, tmp_path / "resumed")
        except KeyboardInterrupt:
            continue
    assert_same_run(resumed, whole)
    assert scored[2] == scored[3]


def test_a_worker_that_dies_while_the_trainer_trains_changes_nothing(
    here, tiny_model, questions, tmp_path
):
    whole = train(AHEAD(), tiny_model, questions, count_x, tmp_path / "whole")
    deaths = [2]
    here.lives = lambda place, request: not (
        deaths and request["version"] == 2 and request["max_new_tokens"] == 8
        and len(request["prompts"]) == 2 and place == 0 and here.probed(request) and deaths.pop()
    )  # fmt: skip
    probes = []

    def probed(request):  # the first request of a version is the probe
        probes.append(request)
        return len(probes) > 1

    here.probed = staticmethod(probed)
    found = train(AHEAD(), tiny_model, questions, count_x, tmp_path / "found")
    assert not deaths
    assert_same_run(found, whole)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rollout_weights": "files"}, "rollout_weights does nothing without rollout workers"),
        ({"rollout_ray": "auto"}, "rollout_ray does nothing without rollout workers"),
        ({"rollout_workers": 1, "rollout_gpus": 1}, "rollout_gpus does nothing without a Ray"),
        ({"off_policy_steps": 1}, "off_policy_steps=1 needs rollout workers"),
        (
            {"rollout_workers": 1, "rollout_weights": "adapter", "lora": None},
            "with lora=null there is none; set rollout_weights=files",
        ),
    ],
)
def test_settings_of_workers_without_effect_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        small(**settings)


def test_weights_go_by_adapter_where_there_is_one_and_vllm_is_for_several_processes(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert small(rollout_workers=1).rollout_weights == "adapter"
    assert small(rollout_workers=1, lora=None).rollout_weights == "files"
    assert small(rollout_workers=1, engine="vllm").engine_for(4) == "vllm"
    assert small(rollout_workers=1, engine="auto").engine_for(4) == "vllm"
    assert small(engine="auto").engine_for(4) == "transformers"
