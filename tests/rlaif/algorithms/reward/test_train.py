"""What training a reward model leaves behind: heads, scores, checkpoints, held-out pairs."""

from __future__ import annotations

import json
import math

import pytest
import torch
from pydantic import ValidationError

from rlaif.algorithms.reward.config import RewardConfig
from rlaif.algorithms.reward.heads import head_weights
from rlaif.algorithms.reward.losses import preference_loss
from rlaif.algorithms.reward.train import fresh_model, parameters, train, train_step
from rlaif.batching.encode import encode_pairs
from rlaif.batching.unusable import BatchError
from rlaif.distributed.processes import ProcessGroup
from rlaif.evaluation.reward_models import RewardEvaluation
from rlaif.models import reward_model as scoring
from rlaif.models.backbone import Backbone
from rlaif.models.folder import save_tensors
from rlaif.models.lora_config import LoraConfig
from rlaif.models.reward.heads import Heads, RewardHeads
from rlaif.models.reward.weights import RewardModelError
from rlaif.models.reward_model import ModelScores, RewardModel
from rlaif.training.config import TrainingError
from tests.support.training.gradients import ALONE, GradientKeeper, summed_over_processes
from tests.support.training.killed import (
    KilledError,
    assert_same_outcome,
    kill_after,
    metrics,
    weights,
)
from tests.support.training.pairs import preference, varied_pairs


def some_model(folder, config, preferences, trait_weights):
    """(an untrained reward model in float32, the pairs)"""
    backbone = Backbone.load(folder, "float32", train_fully=config.lora is None)
    pairs = encode_pairs(backbone.tokenizer, preferences, 200, "error").pairs
    return fresh_model(backbone, trait_weights, config), pairs


def test_an_unlabeled_trait_has_no_loss_and_no_gradient():
    chosen = torch.ones(1, 2, requires_grad=True)
    labeled = torch.tensor([[True, False]])
    label = torch.tensor([[0.9, float("nan")]])
    found = preference_loss(chosen, torch.zeros(1, 2), label, labeled, 0.01)
    assert found.losses[0, 1] == 0
    found.losses.sum().backward()
    assert chosen.grad[0, 0] != 0
    assert chosen.grad[0, 1] == 0


def test_heads_start_with_a_std_of_one_over_root_d_plus_one():
    heads = Heads(2, 1000)
    heads.randomize(0)
    assert heads.weight.std().item() == pytest.approx(1 / math.sqrt(1001), rel=0.05)


def test_normalized_scores_have_mean_0_and_std_1():
    heads, raw = RewardHeads(["a"], 3), torch.tensor([[1.0, 5.0], [3.0, 5.0], [5.0, 5.0]])
    heads.normalize_on(raw)
    scores = heads.normalized(raw)
    torch.testing.assert_close(scores.mean(0), torch.zeros(2))
    assert scores[:, 0].std(correction=0).item() == pytest.approx(1)
    assert scores[:, 1].tolist() == [0, 0, 0]  # a constant head says nothing


def test_there_is_a_head_for_every_labeled_trait_and_none_for_plain_pairs(tiny_model):
    tokenizer = Backbone.load(tiny_model).tokenizer
    labeled = [preference(1, "a", "b", traits={"kind": 0.7, "safe": None})]
    pairs = encode_pairs(tokenizer, labeled, 200, "error").pairs
    assert head_weights(pairs, {"kind": 2.0, "safe": 1.0}, "soft") == {"kind": 2.0}
    with pytest.raises(TrainingError, match="unknown trait in the labels: 'kind'; known: safe"):
        head_weights(pairs, {"safe": 1.0}, "soft")
    plain = encode_pairs(tokenizer, [preference(1, "a", "b")], 200, "error").pairs
    assert head_weights(plain, {"kind": 2.0}, "soft") == {}


def small(**settings) -> RewardConfig:
    base = {
        "dtype": "float32",
        "epochs": 1,
        "batch_size": 4,
        "checkpoint_every": 1,
        "max_tokens": 200,
    }
    return RewardConfig(**(base | settings))


def test_it_learns_a_set_by_heart_and_scores_it(tiny_model, polite_pairs, tmp_path):
    config = small(epochs=15, learning_rate=1e-2)
    out = train(config, tiny_model, polite_pairs, tmp_path, {"manners": 2.0}, polite_pairs)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 31))
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=0.3)
    assert lines[-1]["loss"] < 0.35
    model = RewardModel.load(tiny_model, out)
    conversations = [p.prompt for p in polite_pairs]
    chosen = model.score(conversations, [p.chosen_text for p in polite_pairs])
    rejected = model.score(conversations, [p.rejected_text for p in polite_pairs])
    assert all(c.overall > r.overall for c, r in zip(chosen, rejected, strict=True))
    for score in (lambda s: s.overall, lambda s: s.traits["manners"]):
        every = torch.tensor([score(s) for s in chosen + rejected])
        assert every.mean().item() == pytest.approx(0, abs=1e-4)
        assert every.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert json.loads((out / "evaluation.json").read_text())["pairs"] == 8


def test_an_empty_response_has_no_score(tiny_model, polite_pairs, tmp_path):
    model = RewardModel.load(
        tiny_model, train(small(), tiny_model, polite_pairs, tmp_path, {"manners": 1})
    )
    conversation = polite_pairs[0].prompt
    found = model.overall_scores([conversation] * 3, ["yes", " \n", "no"])
    assert found[1] is None
    assert [found[0], found[2]] == [
        s.overall for s in model.score([conversation] * 2, ["yes", "no"])
    ]


def test_a_response_longer_than_the_context_has_no_score_and_says_why(
    tiny_model, polite_pairs, tmp_path
):
    model = RewardModel.load(
        tiny_model, train(small(), tiny_model, polite_pairs, tmp_path, {"manners": 1})
    )
    scores = ModelScores(model)
    long = "word " * model.backbone.context
    found = scores([polite_pairs[0].prompt] * 3, ["yes", long, ""])
    assert [score is None for score in found] == [False, True, True]
    assert scores.unscored == {"too_long": 1, "empty_response": 1}


def test_a_score_does_not_depend_on_its_neighbors_in_the_batch(tiny_model, polite_pairs, tmp_path):
    model = RewardModel.load(
        tiny_model, train(small(), tiny_model, polite_pairs, tmp_path, {"manners": 1.0})
    )
    alone = model.score([polite_pairs[0].prompt], ["Hi."])[0].overall
    beside = model.score([polite_pairs[0].prompt] * 2, ["Hi.", "A much longer answer " * 4])
    assert beside[0].overall == pytest.approx(alone, abs=1e-5)


def test_the_pad_token_makes_no_difference(make_tiny_model, tiny_model, polite_pairs, tmp_path):
    same = make_tiny_model(pad="<|im_end|>")
    for name, model in (("a", tiny_model), ("b", same)):
        train(small(), model, polite_pairs, tmp_path / name, {"manners": 1.0})
    a = RewardModel.load(tiny_model, tmp_path / "a").heads.state_dict()
    b = RewardModel.load(same, tmp_path / "b").heads.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("kind", "prob", "trait", "taught"),
    [
        ("soft", 0.9, None, [True, False]),
        ("soft", 0.9, 0.2, [True, True]),
        ("hard", 0.9, 0.5, [True, False]),
        ("hard", 0.5, 0.2, [False, True]),
    ],
)
def test_a_pair_teaches_the_label_s_head_and_those_of_its_traits(
    kind, prob, trait, taught, tiny_model
):
    pairs = [preference(9, "a", "bcd", prob, {"manners": trait})]
    config = small(label_kind=kind)
    model, encoded = some_model(tiny_model, config, pairs, {"manners": 1.0})
    learner = GradientKeeper([(parameters(model), 1e-3)], 1, config, ALONE)
    train_step(model, learner, encoded, config, "here")
    rows = learner.gradients["weight"].abs().sum(1)
    assert (rows > 0).tolist() == taught


def test_a_trait_called_overall_is_only_a_trait(tiny_model, tmp_path):
    # The judge's label and the trait of that name disagree about every pair.
    pairs = [
        preference(i, f"Yes, {i} please.", f"No {i}!", 0.9, {"overall": 0.1}) for i in range(8)
    ]
    config = small(epochs=15, learning_rate=1e-2)
    out = train(config, tiny_model, pairs, tmp_path, {"overall": 3.0}, pairs)
    model = RewardModel.load(tiny_model, out)
    conversations = [p.prompt for p in pairs]
    chosen = model.score(conversations, [p.chosen_text for p in pairs])
    rejected = model.score(conversations, [p.rejected_text for p in pairs])
    for c, r in zip(chosen, rejected, strict=True):
        assert c.overall > r.overall
        assert c.traits["overall"] < r.traits["overall"]
    found = RewardEvaluation.load(out / "evaluation.json")
    assert found.accuracy.value == found.traits["overall"].accuracy.value == 1


@pytest.mark.parametrize("lora", [LoraConfig(rank=2), None])
def test_neither_micro_batches_nor_processes_change_the_gradient(lora, tiny_model):
    traits = {"manners": 1.0, "brevity": 2.0}  # brevity has fewer labels than there are pairs
    model, pairs = some_model(tiny_model, small(lora=lora), varied_pairs(7), traits)

    def gradients(budget: int, workers: ProcessGroup = ALONE) -> dict[str, torch.Tensor]:
        config = small(lora=lora, micro_batch_tokens=budget)
        learner = GradientKeeper([(parameters(model), 1e-3)], 1, config, workers)
        train_step(model, learner, pairs, config, "here")
        return learner.gradients

    whole = gradients(100_000)
    scale = max(g.abs().max() for g in whole.values())
    assert scale > 1e-2
    others = [gradients(1), gradients(300)]
    others += [summed_over_processes(lambda w: gradients(300, w), count) for count in (2, 9)]
    for other in others:
        assert all((whole[n] - other[n]).abs().max() / scale < 1e-6 for n in whole)


def test_the_shared_prompt_gives_the_scores_of_separate_rows(tiny_model):
    model, pairs = some_model(tiny_model, small(), varied_pairs(), {"a": 1.0, "b": 2.0})
    together = model.raw_of_pairs(pairs, 300)  # (N, 2, K)
    apart = model.raw_rows([row for p in pairs for row in p.rows], budget=1)
    torch.testing.assert_close(together.flatten(0, 1), apart, atol=1e-5, rtol=0)


# ── resuming, full fine-tuning, held-out pairs ─────────────────────────────────────────────────


@pytest.mark.parametrize("lora", [LoraConfig(rank=2), None])
def test_ten_steps_a_kill_and_ten_more_are_twenty_to_the_bit(
    lora, tiny_model, polite_pairs, tmp_path, monkeypatch
):
    config = small(lora=lora, epochs=10, checkpoint_every=5, eval_every=7)
    arguments = {"trait_weights": {"manners": 1.0}, "eval_preferences": polite_pairs[7:]}
    train(config, tiny_model, polite_pairs[:7], tmp_path / "whole", **arguments)
    with monkeypatch.context() as patch:
        kill_after(patch, 12)  # two steps are done again
        with pytest.raises(KilledError):
            train(config, tiny_model, polite_pairs[:7], tmp_path / "parts", **arguments)
    train(config, tiny_model, polite_pairs[:7], tmp_path / "parts", **arguments)
    assert [line["step"] for line in metrics(tmp_path / "parts")] == list(range(1, 21))
    assert_same_outcome(tmp_path / "whole", tmp_path / "parts")


def test_full_fine_tuning_leaves_a_whole_model_that_scores_as_it_was_trained(
    make_tiny_model, tiny_model, polite_pairs, tmp_path
):
    config = small(lora=None, epochs=8, learning_rate=3e-3)
    out = train(config, tiny_model, polite_pairs, tmp_path, {"manners": 2.0}, polite_pairs)
    assert metrics(out)[-1]["loss"] < 0.35
    model = RewardModel.load(tiny_model, out)
    conversations = [p.prompt for p in polite_pairs]
    chosen, rejected = (
        model.score(conversations, [text(p) for p in polite_pairs])
        for text in (lambda p: p.chosen_text, lambda p: p.rejected_text)
    )
    assert all(c.overall > r.overall for c, r in zip(chosen, rejected, strict=True))
    every = torch.tensor([s.traits["manners"] for s in chosen + rejected])
    assert every.mean().item() == pytest.approx(0, abs=1e-4)
    assert every.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    # its own weights are what counts, not those of the base it is named with
    other = RewardModel.load(make_tiny_model(seed=1), out).score(conversations[:1], ["Yes please."])
    assert other == model.score(conversations[:1], ["Yes please."])


def test_a_fully_tuned_model_cannot_be_a_role(tiny_model, polite_pairs, tmp_path):
    out = train(small(lora=None), tiny_model, polite_pairs, tmp_path, {"manners": 1.0})
    with pytest.raises(RewardModelError, match=r"trained with lora=null, .* train it with LoRA"):
        RewardModel.attach(Backbone.load(tiny_model, "float32"), out)


def test_the_least_held_out_nll_can_be_kept(tiny_model, polite_pairs, tmp_path):
    contrary = [preference(i, f"No {i}!", f"Yes, {i} please.", 0.99) for i in range(10, 14)]
    outs = {}
    for keep in ("last", "best"):
        config = small(keep=keep, epochs=3, eval_every=1, learning_rate=5e-3, warmup=0)
        arguments = polite_pairs, tmp_path / keep, {"manners": 1.0}, contrary
        outs[keep] = train(config, tiny_model, *arguments)
    logged = [line["heldout_loss"] for line in metrics(outs["best"])]
    assert logged == [line["heldout_loss"] for line in metrics(outs["last"])]
    assert min(logged) < logged[-1]
    left = {k: RewardEvaluation.load(out / "evaluation.json").nll for k, out in outs.items()}
    assert left["best"] == pytest.approx(min(logged), rel=1e-6)
    assert left["last"] == pytest.approx(logged[-1], rel=1e-6)


def test_settings_of_held_out_pairs_without_any_are_refused(tiny_model, polite_pairs, tmp_path):
    with pytest.raises(TrainingError, match="keep=best: there are no held-out pairs"):
        train(small(keep="best"), tiny_model, polite_pairs, tmp_path, {"manners": 1.0})


def test_a_held_out_pair_that_cannot_be_used_is_skipped_and_the_rest_evaluated(
    tiny_model, polite_pairs, tmp_path
):
    heldout = [preference(20, "a", ""), *polite_pairs[6:]]
    weigh = {"manners": 1.0}
    with pytest.raises(BatchError, match=r"pair-20 \(rejected\): the response is empty"):
        train(small(), tiny_model, polite_pairs[:6], tmp_path / "a", weigh, heldout)
    config = small(unusable="skip")
    out = train(config, tiny_model, polite_pairs[:6], tmp_path / "b", weigh, heldout)
    found = RewardEvaluation.load(out / "evaluation.json")
    assert found.pairs == 2
    assert found.traits["manners"].pairs == 2


# ── bad input ──────────────────────────────────────────────────────────────────────────────────


def test_a_loss_that_is_not_finite_names_the_step_and_the_checkpoint_stays(
    tiny_model, polite_pairs, tmp_path, monkeypatch
):
    weigh = {"manners": 1.0}
    whole = Heads.forward

    def spoilt(self, hidden):
        spoilt.calls += 1
        return whole(self, hidden) * (float("nan") if spoilt.calls > 2 else 1.0)

    spoilt.calls = 0
    monkeypatch.setattr(Heads, "forward", spoilt)
    with pytest.raises(TrainingError, match=r"reward model, step 3: the loss is nan"):
        train(small(epochs=2), tiny_model, polite_pairs, tmp_path, weigh)
    assert (tmp_path / "checkpoints" / "step-000002.pt").is_file()
    assert not (tmp_path / "reward.json").exists()


def test_unknown_settings_are_refused():
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        RewardConfig(centerin=0.1)
    with pytest.raises(ValidationError, match="'soft' or 'hard'"):
        RewardConfig(label_kind="medium")


def test_heads_that_do_not_belong_to_the_model_are_named(tiny_model, polite_pairs, tmp_path):
    out = train(small(), tiny_model, polite_pairs, tmp_path, {"manners": 1.0})
    heads = RewardHeads(["manners"], 7)
    save_tensors(heads.state_dict(), out / "heads.safetensors")
    with pytest.raises(RewardModelError, match=r"heads.safetensors: not the heads of this reward"):
        RewardModel.load(tiny_model, out)


def test_a_full_disk_at_the_end_is_reported_and_leaves_no_half_reward_model(
    tiny_model, polite_pairs, tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scoring, "save_tensors", full)
    with pytest.raises(RewardModelError, match=r"No space left .*resumes from its last checkpoint"):
        train(small(), tiny_model, polite_pairs, tmp_path, {"manners": 1.0})
    assert not (tmp_path / "reward.json").exists()
    monkeypatch.undo()
    out = train(small(), tiny_model, polite_pairs, tmp_path, {"manners": 1.0})
    assert weights(out)
    RewardModel.load(tiny_model, out)


def test_a_reward_model_of_another_base_is_refused(
    make_tiny_model, tiny_model, polite_pairs, tmp_path
):
    out = train(small(), tiny_model, polite_pairs, tmp_path, {"manners": 1.0})
    with pytest.raises(RewardModelError, match="trained over another base"):
        RewardModel.load(make_tiny_model(seed=1), out)


def test_a_folder_without_a_reward_model_is_named(tiny_model, tmp_path):
    with pytest.raises(
        RewardModelError, match=r"not a reward model .*; make one with `rlaif train"
    ):
        RewardModel.load(tiny_model, tmp_path / "nothing")


def test_a_broken_pair_is_named(tiny_model, polite_pairs, tmp_path):
    with pytest.raises(BatchError, match=r"pair-9 \(rejected\): the response is empty"):
        train(
            small(), tiny_model, [*polite_pairs, preference(9, "a", "")], tmp_path, {"manners": 1}
        )
