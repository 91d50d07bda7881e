"""ReST: the thresholds by hand, what is kept, and that growing and improving resume exactly."""

from __future__ import annotations

import json
from functools import partial
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError

from rlaif.algorithms.rest import train as rest
from rlaif.algorithms.rest.grow import GrownSample
from rlaif.algorithms.rest.improve import improve_set, thresholds
from rlaif.algorithms.rest.train import ReSTConfig, train
from rlaif.generation.remote.opening import open_rollout_workers
from rlaif.training.config import TrainingError
from tests.support.rollouts.rollout_workers import launcher


def small(**settings) -> ReSTConfig:
    base = {
        "dtype": "float32", "engine": "transformers", "samples_per_prompt": 4, "max_tokens": 80,
        "max_new_tokens": 6, "quantiles": (0.25, 0.5), "batch_size": 4, "prompts_per_chunk": 2,
        "checkpoint_every": 1, "learning_rate": 1e-2,
    }  # fmt: skip
    return ReSTConfig(**(base | settings))


def letters(conversations, responses):
    """The share of letters: a score that tells nearly all responses apart."""
    return [sum(c.isalpha() for c in r) / 10 + 0.001 * len(r) for r in responses]


def grown(prompt: str, index: int, score: float | None, response: str = "a b") -> GrownSample:
    return GrownSample(
        run="", prompt=prompt, index=index, response=response, ids=[5] * 3, complete=index % 2 == 0,
        score=score,
    )  # fmt: skip


def metrics(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(out):
    from safetensors.torch import load_file

    return load_file(out / "adapter_model.safetensors")


def responses(out, step):
    lines = (out / f"grow-{step:02d}.jsonl").read_text().splitlines()
    return [GrownSample.model_validate_json(line) for line in lines]


# ── the equations ────────────────────────────────────────────────────────────────────────────


def test_thresholds_by_hand():
    scores = torch.tensor([1.0, 2.0, 3.0, 10.0, 20.0, 30.0])
    prompts = ["a"] * 3 + ["b"] * 3
    # sorted places 0 … 5: quantile .5 stands at 2.5, between 3 and 10
    assert thresholds(scores, prompts, 0.5, "global").tolist() == [6.5] * 6
    assert thresholds(scores, prompts, 0.5, "prompt").tolist() == [2.0] * 3 + [20.0] * 3
    assert thresholds(scores, prompts, 0.25, "prompt").tolist() == [1.5] * 3 + [15.0] * 3


def test_what_is_kept_scores_above_the_threshold_and_the_rest_is_counted():
    made = [grown("a", i, s) for i, s in enumerate([1.0, 2.0, 2.0, 4.0, None])]
    kept = improve_set(made, 0.5, "global")
    assert [g.index for g in kept.responses] == [3]  # strictly above 2
    reported = kept.metrics
    assert (reported["threshold"], reported["share_kept"], reported["unscored"]) == (2.0, 0.25, 1.0)
    assert (reported["score"], reported["score_kept"]) == (2.25, 4.0)
    assert reported["eos_rate"] == 0.5
    assert reported["distinct_2"] == 0.25  # "a b" four times
    assert reported["distinct_2_kept"] == 1.0


def test_rising_quantiles_keep_less_and_better():
    generator = torch.Generator().manual_seed(0)
    made = [grown(f"p{i % 5}", i, float(torch.randn((), generator=generator))) for i in range(50)]
    for of in ("global", "prompt"):
        kept = [improve_set(made, q, of) for q in (0.0, 0.3, 0.6, 0.9)]
        sizes = [len(k.responses) for k in kept]
        assert sizes == sorted(sizes, reverse=True)
        scores = [k.metrics["score_kept"] for k in kept]
        assert scores == sorted(scores)
        sets = [{g.index for g in k.responses} for k in kept]
        assert all(later <= earlier for earlier, later in pairwise(sets))
    per_prompt = improve_set(made, 0.6, "prompt").responses
    assert {g.prompt for g in per_prompt} == {f"p{i}" for i in range(5)}


def test_equal_scores_say_nothing_and_keep_nothing():
    kept = improve_set([grown("a", i, 1.0) for i in range(4)], 0.5, "prompt")
    assert kept.responses == []
    assert kept.metrics["score_kept"] is None


# ── training ─────────────────────────────────────────────────────────────────────────────────


def test_it_moves_the_policy_to_what_is_scored(tiny_model, questions, tmp_path):
    config = small(
        grow_steps=2, samples_per_prompt=16, quantiles=(0.7,), epochs=3, learning_rate=3e-2
    )
    out = train(config, tiny_model, questions, letters, tmp_path)
    score = {m["grow"]: m["score"] for m in metrics(out)}
    assert score[2] > score[1] + 0.02
    assert all(m["score_kept"] > m["score"] for m in metrics(out))


def test_every_step_tells_what_was_kept(tiny_model, questions, tmp_path):
    out = train(small(), tiny_model, questions, letters, tmp_path)
    assert len(responses(out, 1)) == 4 * len(questions)
    first, last = metrics(out)[0], metrics(out)[-1]
    assert (first["grow"], first["improve"], last["improve"]) == (1, 1, 2)
    assert first["threshold"] < last["threshold"]
    assert first["share_kept"] > last["share_kept"]
    assert first["score"] == last["score"]  # the same responses, filtered more strictly
    assert [m["step"] for m in metrics(out)] == list(range(1, len(metrics(out)) + 1))


@pytest.mark.parametrize("start", ["last", "base"])
def test_a_killed_run_goes_on_to_the_same_bits(tiny_model, questions, tmp_path, monkeypatch, start):
    config = small(grow_steps=2, start=start, checkpoint_every=2)
    whole = train(config, tiny_model, questions, letters, tmp_path / "whole")
    real = rest.train_step

    def run(kill_step, kill_score):
        """Die at that optimizer step or that call of the reward; how often each was called."""
        calls = {"step": 0, "score": 0}

        def step(*arguments):
            calls["step"] += 1
            if calls["step"] == kill_step:
                raise KeyboardInterrupt
            return real(*arguments)

        def score(conversations, texts):
            calls["score"] += 1
            if calls["score"] == kill_score:
                raise KeyboardInterrupt
            return letters(conversations, texts)

        monkeypatch.setattr(rest, "train_step", step)
        out = tmp_path / "cut"
        if kill_step or kill_score:
            with pytest.raises(KeyboardInterrupt):
                train(config, tiny_model, questions, score, out)
        else:
            train(config, tiny_model, questions, score, out)
        return calls

    run(0, 2)  # within grow 1, after one chunk
    assert len(responses(tmp_path / "cut", 1)) == 8
    assert run(4, 0)["score"] == 2  # within the first improve step; the first chunk was kept
    assert run(0, 2)["score"] == 2  # within grow 2: grow 1 is not scored again
    run(6, 0)
    run(0, 0)
    cut = tmp_path / "cut"
    assert all(torch.equal(value, weights(cut)[name]) for name, value in weights(whole).items())
    assert responses(cut, 2)[-1].response == responses(whole, 2)[-1].response
    same = ("step", "grow", "improve", "loss", "threshold", "learning_rate")
    assert [[m[n] for n in same] for m in metrics(cut)] == [
        [m[n] for n in same] for m in metrics(whole)
    ]
    assert run(0, 0) == {"step": 0, "score": 0}  # finished: nothing is done again


def test_each_improve_step_goes_on_from_the_last_or_from_the_base(tiny_model, questions, tmp_path):
    last = train(small(), tiny_model, questions, letters, tmp_path / "last")
    base = train(small(start="base"), tiny_model, questions, letters, tmp_path / "base")
    alone = train(
        small(quantiles=(0.5,), learning_rate=5e-3), tiny_model, questions, letters,
        tmp_path / "alone",
    )  # fmt: skip
    first = [m["loss"] for m in metrics(alone)]

    def second(out):
        return [m["loss"] for m in metrics(out) if m["improve"] == 2]

    # the same rows from the same start, but in another order: the same mean loss, about
    assert sum(second(base)) / len(first) == pytest.approx(sum(first) / len(first), rel=0.05)
    assert sum(second(last)) < sum(second(base))


def test_what_more_processes_have_grown_is_not_sampled_again(tiny_model, questions, tmp_path):
    out = train(small(checkpoint_every=99), tiny_model, questions, letters, tmp_path / "one")
    lines = (out / "grow-01.jsonl").read_text().splitlines(keepends=True)
    two = tmp_path / "two"  # of two processes, killed before their first checkpoint
    two.mkdir()
    (two / "grow-01.jsonl").write_text("".join(lines[:8]))
    (two / "grow-01.rank-1.jsonl").write_text("".join(lines[8:]))
    again = train(small(), tiny_model, questions, lambda c, r: pytest.fail("scored"), two)
    assert len(responses(again, 1)) == 8
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(out).items())


def test_another_run_does_not_take_over_responses(tiny_model, questions, tmp_path, monkeypatch):
    def dying(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(rest, "train_step", dying)
    for seed in (0, 1):  # killed before the first checkpoint: only the responses are there
        with pytest.raises(KeyboardInterrupt):
            train(small(seed=seed), tiny_model, questions, letters, tmp_path)
    made = responses(tmp_path, 1)
    assert len({g.run for g in made}) == 2
    assert len(made) == 2 * 4 * len(questions)
    with pytest.raises(KeyboardInterrupt):
        train(small(seed=1, resume="never"), tiny_model, questions, letters, tmp_path)
    assert len({g.run for g in responses(tmp_path, 1)}) == 1


def test_full_fine_tuning_gives_a_model_folder(tiny_model, questions, tmp_path):
    from rlaif.models.backbone import Backbone

    config = small(lora=None, learning_rate=1e-3, quantiles=(0.5,))
    out = train(config, tiny_model, questions, letters, tmp_path)
    assert Backbone.load(str(out)).fingerprint != Backbone.load(tiny_model).fingerprint


def test_scores_that_tell_nothing_apart_are_an_error(tiny_model, questions, tmp_path, capsys):
    with pytest.raises(TrainingError, match="kept no response in any step"):
        train(small(), tiny_model, questions, lambda c, r: [1.0] * len(r), tmp_path)
    assert "grow 1, improve 2: no score is above the threshold 1.000" in capsys.readouterr().err


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValidationError, match="quantiles must rise"):
        small(quantiles=(0.5, 0.5))
    with pytest.raises(ValidationError, match="must be at least 0 and below 1"):
        small(quantiles=(0.5, 1.0))
    with pytest.raises(ValidationError, match="learning_rate_decay does nothing"):
        small(quantiles=(0.5,), learning_rate_decay=0.5)
    with pytest.raises(ValidationError, match="max_new_tokens must leave room"):
        small(max_new_tokens=80)


def test_two_rollout_workers_grow_what_none_grow(tiny_model, questions, tmp_path, monkeypatch):
    made: list = []
    monkeypatch.setattr(
        rest, "open_rollout_workers", partial(open_rollout_workers, launch=launcher(made))
    )
    alone = train(small(grow_steps=2), tiny_model, questions, letters, tmp_path / "alone")
    config = small(grow_steps=2, rollout_workers=2)
    found = train(config, tiny_model, questions, letters, tmp_path / "workers")
    assert len(made) == 2
    for step in (1, 2):
        one, other = ([(s.ids, s.score) for s in responses(out, step)] for out in (found, alone))
        assert one == other
    expected = weights(alone)
    for name, tensor in weights(found).items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=0)
