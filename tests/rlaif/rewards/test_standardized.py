"""Scores without a scale of their own are standardized once, before their weight."""

from __future__ import annotations

import json

import pytest

from constitution.schema import Message
from rlaif.algorithms.ppo import train as ppo
from rlaif.algorithms.rest import train as rest
from rlaif.data.records import Prompt
from rlaif.distributed.processes import ProcessGroup
from rlaif.feedback.client import JudgeReward
from rlaif.rewards.base import has_own_scale
from rlaif.rewards.mix import Reward
from rlaif.rewards.scale import Scale, estimate_scale
from rlaif.rewards.standardized import (
    StandardizedReward,
    load_scales,
    raw_scores,
    scales_state,
    settle,
    standardized,
)
from tests.support.training.killed import KilledError, assert_same_outcome, kill_after
from tests.support.training.ppo_runs import ALONE, metrics, small


class Ratings:
    """Stands for a judge: the ratings of a table, or a share of the letters."""

    own_scale = False

    def __init__(self, table=None):
        self.table = table

    def __call__(self, conversations, responses):
        if self.table is not None:
            return [self.table[r] for r in responses]
        return [0.5 + 0.01 * sum(c in "aeiou" for c in r) for r in responses]


def length(conversations, responses):
    return [float(len(r)) for r in responses]


def scored(function, texts, workers=ALONE):
    question = (Message(role="user", content="Hello?"),)
    prompts = [Prompt(id=str(i), messages=question) for i in range(len(texts))]
    return settle(function, raw_scores(function, prompts, texts, "here"), workers)


# ── the maths ────────────────────────────────────────────────────────────────────────────────


def test_mean_and_standard_deviation_by_hand():
    # mean 0.4; deviations -0.2, 0, 0.2: sd = √(0.08 / 2) = 0.2
    scale = estimate_scale([0.2, 0.4, 0.6])
    assert scale is not None
    assert (scale.mean, scale.sd) == pytest.approx((0.4, 0.2))
    assert scale.standardized(1.0) == pytest.approx(3.0)


@pytest.mark.parametrize("scores", [[], [0.3], [0.3] * 5, [0.1 + 0.2, 0.3]])
def test_scores_that_do_not_differ_have_no_scale(scores):
    assert estimate_scale(scores) is None


def test_a_scale_does_not_depend_on_the_order_of_the_scores():
    scores = [0.1 * i**2 - 1e3 * (i % 2) for i in range(20)]
    assert estimate_scale(scores) == estimate_scale(scores[::-1])


# ── a reward ─────────────────────────────────────────────────────────────────────────────────


def test_in_a_mix_a_judge_is_standardized_before_its_weight(capsys):
    judge = Ratings({"a": 0.2, "bb": 0.4, "ccc": 0.6})
    reward = standardized(Reward([("judge", 2.0, judge), ("length", -0.5, length)]), "auto")
    # 2·z - length / 2, with z = -1, 0, 1
    assert scored(reward, ["a", "bb", "ccc"]) == pytest.approx([-2.5, -1.0, 0.5])
    assert "scores of judge are standardized from here on: less 0.400, over 0.200" in (
        capsys.readouterr().err
    )


def test_the_scale_stays_that_of_the_first_responses():
    judge = Ratings({"a": 0.2, "b": 0.4, "c": 0.6, "d": 1.0})
    reward = standardized(judge, "auto")
    scored(reward, ["a", "b", "c"])
    assert scored(reward, ["d", "d"]) == pytest.approx([3.0, 3.0])


def test_a_response_without_a_score_takes_no_part_in_the_scale():
    reward = standardized(Ratings({"a": 0.2, "x": None, "b": 0.6}), "auto")
    z = 0.2 / 0.08**0.5
    assert scored(reward, ["a", "x", "b"]) == pytest.approx([-z, None, z])


def test_equal_ratings_score_0_and_the_next_ones_give_the_scale():
    reward = standardized(Ratings({"a": 0.3, "b": 0.2, "c": 0.4, "d": 0.6}), "auto")
    assert scored(reward, ["a", "a"]) == [0.0, 0.0]
    assert scales_state(reward) == {}
    assert scored(reward, ["b", "c", "d"]) == pytest.approx([-1.0, 0.0, 1.0])


def test_several_processes_share_one_scale(monkeypatch):
    shares = [[(0.2,), None], [(0.4,), (0.6,), (0.4,)]]  # of unequal length
    monkeypatch.setattr(ProcessGroup, "gather", lambda self, items: shares)
    table = {"a": 0.2, "x": None, "b": 0.4, "c": 0.6}
    states = []
    for rank, texts in enumerate((["a", "x"], ["b", "c", "b"])):
        reward = standardized(Ratings(table), "auto")
        scored(reward, texts, ProcessGroup(rank, 2))
        states.append(scales_state(reward))
    assert states[0] == states[1]
    assert states[0]["reward"][0] == pytest.approx(0.4)


def test_a_saved_scale_is_used_as_it_was():
    first, later = (standardized(Ratings({"a": 0.2, "b": 0.4}), "auto") for _ in range(2))
    scored(first, ["a", "b"])
    load_scales(later, scales_state(first))
    assert scored(later, ["b"]) == scored(first, ["b"])
    assert isinstance(later, StandardizedReward)
    assert later.scales == {"reward": Scale(*scales_state(first)["reward"])}


def test_what_has_a_scale_of_its_own_or_is_not_to_be_standardized_stays_as_it_is():
    assert standardized(length, "auto") is length
    mix = Reward([("length", 2.0, length)])
    assert standardized(mix, "auto") is mix
    judge = Ratings({"a": 0.3})
    assert standardized(judge, "none") is judge
    assert scored(judge, ["a"]) == [0.3]
    assert not has_own_scale(JudgeReward)


# ── training ─────────────────────────────────────────────────────────────────────────────────


def test_ppos_first_scores_have_mean_0_and_a_killed_run_resumes_on_the_same_scale(
    tiny_model, questions, tmp_path, monkeypatch
):
    config = small(iterations=4, checkpoint_every=2)

    def run(out):
        return ppo.train(config, tiny_model, questions, Ratings(), out)

    run(tmp_path / "whole")
    lines = metrics(tmp_path / "whole")
    assert lines[0]["score"] == pytest.approx(0.0, abs=1e-6)
    assert any(abs(line["score"]) > 1e-3 for line in lines[1:])  # not each by its own mean
    with monkeypatch.context() as patch:
        kill_after(patch, 2)
        with pytest.raises(KilledError):
            run(tmp_path / "parts")
    run(tmp_path / "parts")
    assert_same_outcome(tmp_path / "parts", tmp_path / "whole")


def test_rest_standardizes_over_the_whole_first_grow_step(
    tiny_model, questions, tmp_path, monkeypatch
):
    config = rest.ReSTConfig(
        dtype="float32", engine="transformers", samples_per_prompt=4, max_tokens=80, grow_steps=2,
        max_new_tokens=6, quantiles=(0.25,), batch_size=4, prompts_per_chunk=2,
    )  # fmt: skip
    seen = []
    plain = rest.improve_set
    monkeypatch.setattr(rest, "improve_set", lambda s, *a: seen.append(s) or plain(s, *a))
    reward = Reward([("judge", 1.0, Ratings()), ("length", 0.1, length)])
    out = rest.train(config, tiny_model, questions, reward, tmp_path)
    lines = [json.loads(line) for line in (out / "grow-01.jsonl").read_text().splitlines()]
    scale = estimate_scale([line["raw"][0] for line in lines])
    for step in seen:  # the second one's are on the scale of the first
        for sample in step:
            rating, letters = sample.raw
            assert sample.score == pytest.approx(scale.standardized(rating) + 0.1 * letters)
    assert len(seen) == 2
