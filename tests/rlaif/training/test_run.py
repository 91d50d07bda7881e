"""Stopping and going on to the bit; checkpoints broken, foreign, or too large for the disk."""

from __future__ import annotations

import json
import random
import resource

import numpy
import pytest
import torch

from rlaif.algorithms.dpo import train as dpo
from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.dpo.losses import LOSSES, Loss
from rlaif.algorithms.ppo import train as ppo
from rlaif.algorithms.rest import train as rest
from rlaif.algorithms.reward import train as reward_model
from rlaif.algorithms.sft import train as sft
from rlaif.distributed.processes import ProcessGroup
from rlaif.training import recompute
from rlaif.training.checkpoints import CheckpointError
from rlaif.training.checks import require_finite
from rlaif.training.config import TrainConfig, TrainingError
from rlaif.training.run import Run
from tests.support.training.killed import (
    KilledError,
    assert_same_outcome,
    kill_after,
    metrics,
    weights,
)

ALONE = ProcessGroup(rank=0, count=1)
COMMON = {"dtype": "float32", "max_tokens": 200, "checkpoint_every": 1, "learning_rate": 1e-3}


@pytest.fixture
def trainers(tiny_model, polite_pairs, questions):
    """name → train(out): six steps of each algorithm."""
    pairs = {"epochs": 3, "batch_size": 4}
    reward_config = reward_model.RewardConfig(**COMMON, **pairs)
    dpo_config = dpo.DPOConfig(**COMMON, **pairs)
    ppo_config = ppo.PPOConfig(
        **(COMMON | {"max_tokens": 60}), iterations=6, prompts_per_iteration=4, max_new_tokens=8,
        engine="transformers", kl_target=1.0, kl_horizon=50.0,
    )  # fmt: skip

    def score(conversations, responses):
        return [len(set(r)) + torch.rand(1).item() for r in responses]  # uses the global RNG

    return {
        "reward": lambda out: reward_model.train(
            reward_config, tiny_model, polite_pairs, out, {"manners": 1.0}
        ),
        "dpo": lambda out: dpo.train(dpo_config, tiny_model, polite_pairs, out),
        "ppo": lambda out: ppo.train(ppo_config, tiny_model, questions, score, out),
    }


DROPOUT = {"lora": {"dropout": 0.5}}


@pytest.mark.parametrize("algorithm", ["reward", "dpo", "sft"])
def test_dropout_resumes_to_the_bit_and_follows_the_seed(
    algorithm, tiny_model, polite_pairs, tmp_path, monkeypatch
):
    def train(out, **settings):
        given = COMMON | {"epochs": 3, "batch_size": 4} | DROPOUT | settings
        if algorithm == "sft":
            sources = [sft.SFTSource("pairs", polite_pairs)]
            sft.train(sft.SFTConfig(**given), tiny_model, sources, out)
        elif algorithm == "dpo":
            dpo.train(DPOConfig(**given), tiny_model, polite_pairs, out)
        else:
            config = reward_model.RewardConfig(**given)
            reward_model.train(config, tiny_model, polite_pairs, out, {"manners": 1.0})

    train(tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_after(patch, 3)
        with pytest.raises(KilledError):
            train(tmp_path / "parts")
    torch.manual_seed(6)  # a new process has another state
    train(tmp_path / "parts")
    assert_same_outcome(tmp_path / "whole", tmp_path / "parts")
    train(tmp_path / "without", lora={"dropout": 0.0})
    ours, without = weights(tmp_path / "whole"), weights(tmp_path / "without")
    assert any(not torch.equal(ours[name], without[name]) for name in ours)


@pytest.mark.parametrize("algorithm", ["reward", "dpo", "ppo", "ppo-adapter", "sft", "rest"])
def test_gradient_checkpointing_changes_no_bit_of_any_trainer(
    algorithm, tiny_model, polite_pairs, questions, tmp_path, monkeypatch
):
    def train(out, **settings):
        given = COMMON | settings
        pairs = given | {"epochs": 1, "batch_size": 8}
        sampled = given | {"max_tokens": 60, "max_new_tokens": 8, "engine": "transformers"}
        if algorithm == "sft":
            sources = [sft.SFTSource("pairs", polite_pairs)]
            sft.train(sft.SFTConfig(**pairs), tiny_model, sources, out)
        elif algorithm == "dpo":
            dpo.train(DPOConfig(**pairs), tiny_model, polite_pairs, out)
        elif algorithm == "reward":
            config = reward_model.RewardConfig(**pairs)
            reward_model.train(config, tiny_model, polite_pairs, out, {"manners": 1.0})
        elif algorithm == "rest":
            made = rest.ReSTConfig(**sampled, samples_per_prompt=3, quantiles=(0.3,))
            rest.train(made, tiny_model, questions, score, out)
        else:
            value = "adapter" if algorithm == "ppo-adapter" else "head"
            made = ppo.PPOConfig(**sampled, iterations=2, prompts_per_iteration=4, value=value)
            ppo.train(made, tiny_model, questions, score, out)

    def score(conversations, responses):
        return [float(len(set(r))) for r in responses]

    train(tmp_path / "plain")
    computed_again = []
    again = recompute.checkpoint
    monkeypatch.setattr(
        recompute, "checkpoint", lambda *a, **k: (computed_again.append(1), again(*a, **k))[1]
    )
    train(tmp_path / "recomputing", gradient_checkpointing=True)
    assert computed_again
    assert_same_outcome(tmp_path / "plain", tmp_path / "recomputing")


@pytest.mark.parametrize("algorithm", ["reward", "dpo", "ppo"])
def test_three_steps_a_kill_and_three_more_are_six_to_the_bit(
    algorithm, trainers, tmp_path, monkeypatch
):
    torch.manual_seed(5)
    trainers[algorithm](tmp_path / "whole")
    torch.manual_seed(5)
    with monkeypatch.context() as patch:
        kill_after(patch, 3)
        with pytest.raises(KilledError):
            trainers[algorithm](tmp_path / "parts")
    torch.manual_seed(6)  # a new process has another state
    trainers[algorithm](tmp_path / "parts")
    assert_same_outcome(tmp_path / "whole", tmp_path / "parts")
    assert [line["step"] for line in metrics(tmp_path / "parts")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("algorithm", ["reward", "dpo", "ppo"])
def test_a_finished_run_called_again_changes_nothing(algorithm, trainers, tmp_path):
    out = trainers[algorithm](tmp_path)
    tensors, lines = weights(out), metrics(out)
    trainers[algorithm](tmp_path)
    assert metrics(out) == lines
    again = weights(out)
    assert all(torch.equal(tensors[name], again[name]) for name in tensors)


def test_a_broken_checkpoint_is_passed_over_for_the_one_before(
    trainers, tmp_path, monkeypatch, capsys
):
    trainers["dpo"](tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_after(patch, 4)
        with pytest.raises(KilledError):
            trainers["dpo"](tmp_path / "parts")
    newest = tmp_path / "parts/checkpoints/step-000004.pt"
    newest.write_bytes(newest.read_bytes()[:-1000])
    trainers["dpo"](tmp_path / "parts")
    assert "step-000004.pt: not readable, trying the one before" in capsys.readouterr().err
    assert_same_outcome(tmp_path / "whole", tmp_path / "parts")


def test_checkpoints_of_another_run_are_refused_and_the_difference_named(
    make_tiny_model, tiny_model, polite_pairs, tmp_path
):
    config = dpo.DPOConfig(**COMMON)
    dpo.train(config, tiny_model, polite_pairs, tmp_path)
    rest = "come from another run \\({} differ\\); choose another output folder"
    with pytest.raises(TrainingError, match=rest.format(r"config.beta \(0.1, now 0.2\)")):
        dpo.train(dpo.DPOConfig(**COMMON, beta=0.2), tiny_model, polite_pairs, tmp_path)
    with pytest.raises(TrainingError, match=rest.format("data")):
        dpo.train(config, tiny_model, polite_pairs[1:], tmp_path)
    with pytest.raises(TrainingError, match=rest.format("model")):
        dpo.train(config, make_tiny_model(seed=1), polite_pairs, tmp_path)
    housekeeping = {"checkpoint_every": 3, "keep_checkpoints": 5, "resume": "auto"}
    dpo.train(config.model_copy(update=housekeeping), tiny_model, polite_pairs, tmp_path)


def run_in(folder, inputs=(("config", 1),), **settings):
    return Run(folder, dict(inputs), TrainConfig(**settings), ALONE)


def names(run):
    return sorted(path.name for path in run.folder.iterdir())


def test_a_full_disk_is_reported_and_the_last_good_checkpoint_stays(tmp_path):
    run = run_in(tmp_path)
    run.save(1, {"learner": {"weights": torch.zeros(10)}}, score=0.5)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"step-000002.pt: .* cannot be saved"):
            run.save(2, {"learner": {"weights": torch.zeros(100_000)}}, score=0.6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(run) == ["best.pt", "step-000001.pt"]
    assert run.resume()["step"] == 1
    assert run.best()["step"] == 1


def test_the_newest_checkpoints_are_kept_and_the_best_besides(tmp_path):
    run = run_in(tmp_path)
    for step, score in enumerate([0.1, 0.7, 0.3, float("nan"), 0.7], start=1):
        run.save(step, {"mark": step}, score=score)
    assert names(run) == ["best.pt", "step-000004.pt", "step-000005.pt"]
    assert run.best()["mark"] == 2  # the first of two equal ones: a second is no gain
    run_in(tmp_path / "more", keep_checkpoints=1).save(1, {})
    assert run_in(tmp_path / "more").best() is None


def test_what_was_best_is_still_known_after_a_restart(tmp_path):
    run_in(tmp_path).save(1, {}, score=0.9)
    again = run_in(tmp_path)
    again.resume()
    again.save(2, {}, score=0.8)
    assert again.best()["step"] == 1


def test_a_kill_between_a_checkpoint_and_its_name_as_the_best_loses_nothing(tmp_path):
    run = run_in(tmp_path)
    run.save(1, {}, score=0.1)
    run.save(2, {}, score=0.9)
    (run.folder / "best.pt").unlink()
    again = run_in(tmp_path)
    again.resume()
    assert again.best()["step"] == 2


def test_a_best_checkpoint_that_cannot_be_read_is_reported_and_replaced_by_the_next(
    tmp_path, capsys
):
    run = run_in(tmp_path)
    run.save(1, {}, score=0.9)
    run.save(2, {}, score=0.1)
    (run.folder / "best.pt").unlink()  # a link to the first: break the name alone
    (run.folder / "best.pt").write_bytes(b"cut")
    again = run_in(tmp_path)
    again.resume()
    assert "best.pt: not readable; the next score" in capsys.readouterr().err
    again.save(3, {}, score=0.2)
    assert again.best()["step"] == 3


def test_the_best_checkpoint_serves_when_no_other_can_be_read(tmp_path, capsys):
    run = run_in(tmp_path, keep_checkpoints=1)
    run.save(1, {}, score=0.9)
    run.save(2, {}, score=0.1)
    (run.folder / "step-000002.pt").write_bytes(b"cut")
    assert run_in(tmp_path).resume()["step"] == 1
    assert "step-000002.pt: not readable" in capsys.readouterr().err


def test_the_best_is_kept_where_files_cannot_be_linked(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError("no hard links here")

    monkeypatch.setattr("os.link", refused)
    run = run_in(tmp_path, keep_checkpoints=1)
    run.save(1, {}, score=0.9)
    run.save(2, {}, score=0.1)
    assert run.best()["step"] == 1


def test_starting_anew_removes_what_was_there(tmp_path):
    run = run_in(tmp_path)
    run.log(1, {"loss": 1.0})
    run.save(1, {}, score=0.9)
    anew = run_in(tmp_path, inputs=(("config", 2),), resume="never")
    assert anew.resume() is None
    assert names(anew) == []
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_every_global_generator_goes_on_where_it_was(tmp_path):
    run = run_in(tmp_path)
    run.save(1, {})
    expected = torch.rand(1).item(), random.random(), numpy.random.rand()
    run.resume()
    assert (torch.rand(1).item(), random.random(), numpy.random.rand()) == expected


def test_metrics_are_cut_back_to_the_checkpoint_and_a_torn_line_goes(tmp_path):
    run = run_in(tmp_path)
    for step in (1, 2, 3):
        run.log(step, {"loss": 1.0 / step})
        if step == 2:
            run.save(step, {})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    run.resume()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_a_loss_that_is_not_a_number_names_the_step_and_the_remedy(
    tiny_model, polite_pairs, tmp_path, monkeypatch
):
    spoilt = Loss(lambda pairs, prob_chosen, config: pairs.chosen * float("nan"), DPOConfig)
    monkeypatch.setitem(LOSSES, "sigmoid", spoilt)
    with pytest.raises(TrainingError, match=r"DPO, step 1: the loss is nan; .*lower learning_rate"):
        dpo.train(dpo.DPOConfig(**COMMON, loss="sigmoid"), tiny_model, polite_pairs, tmp_path)
    with pytest.raises(TrainingError, match="here: the loss is inf"):
        require_finite(torch.tensor(float("inf")), "loss", "here")


def test_a_bound_beyond_the_models_context_is_refused(tiny_model, polite_pairs, tmp_path):
    config = dpo.DPOConfig(**(COMMON | {"max_tokens": 300}))
    with pytest.raises(TrainingError, match=r"max_tokens=300 is more than .* can read \(256\)"):
        dpo.train(config, tiny_model, polite_pairs, tmp_path)


def test_an_alarm_is_named_in_every_line_it_rings_in_and_printed_once(tmp_path, capsys):
    run = run_in(tmp_path)
    for step in range(1, 8):
        run.log(step, {"kl_k1": 30.0, "loss": None})
        if step == 6:
            run.save(step, {})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert ["alarms" in line for line in lines] == [False] * 4 + [True] * 3
    assert lines[-1]["alarms"] == ["kl_over_ceiling"]
    assert capsys.readouterr().err.count("alarm at step 5: kl_k1 is 30.0 nats") == 1
    again = run_in(tmp_path)
    again.resume()
    again.log(7, {"kl_k1": 30.0, "loss": None})  # known from before the restart: not reported again
    assert "alarm" not in capsys.readouterr().err
    assert metrics(tmp_path)[-1] == {k: v for k, v in lines[-1].items() if k != "run_seconds"}
