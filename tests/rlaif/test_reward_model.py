"""The reward model's loss by hand and against TRL, and what its training leaves behind."""

from __future__ import annotations

import json
import math

import pytest
import torch

from rlaif.backbone import Backbone
from rlaif.batching import BatchError, encode_pairs
from rlaif.reward_model import RewardConfig, head_weights, preference_loss, train, train_step
from rlaif.scoring import Heads, RewardModel, RewardModelError
from rlaif.training import TrainingError
from tests.rlaif.gradients import GradientKeeper
from tests.rlaif.pairs import preference

ALL = torch.tensor([[True]])


def loss(chosen: float, rejected: float, p: float, centering: float = 0.0) -> float:
    tensors = (torch.tensor([[x]], dtype=torch.float64) for x in (chosen, rejected, p))
    return preference_loss(*tensors, ALL, centering).losses.item()


def test_the_loss_is_log_2_where_both_scores_are_equal():
    assert loss(3.0, 3.0, 0.8) == pytest.approx(math.log(2))


def test_the_loss_by_hand():
    # Δ = log 3: sigmoid(Δ) = 3/4; centred: 0.01·(log 3)²
    by_hand = -(0.8 * math.log(0.75) + 0.2 * math.log(0.25)) + 0.01 * math.log(3) ** 2
    assert loss(math.log(3), 0.0, 0.8, 0.01) == pytest.approx(by_hand)


def test_swapping_the_responses_and_the_label_changes_nothing():
    assert loss(1.3, -0.4, 0.8, 0.01) == pytest.approx(loss(-0.4, 1.3, 0.2, 0.01))


def test_the_loss_is_least_where_the_margin_is_the_labels_log_odds():
    best = math.log(0.8 / 0.2)
    assert loss(best, 0, 0.8) < min(loss(best + 0.1, 0, 0.8), loss(best - 0.1, 0, 0.8))


def test_hard_labels_give_trls_loss_with_centering():
    pytest.importorskip("trl")
    chosen, rejected = torch.randn(2, 16, 1)
    # RewardTrainer._compute_loss of trl 1.16, which is written inside a method
    theirs = -torch.nn.functional.logsigmoid(chosen - rejected).mean()
    theirs += 0.01 * torch.mean((chosen + rejected) ** 2)
    p, every = torch.ones(16, 1), torch.ones(16, 1, dtype=torch.bool)
    ours = preference_loss(chosen, rejected, p, every, 0.01).losses.mean()
    torch.testing.assert_close(ours, theirs)


def test_an_unlabelled_trait_has_no_loss_and_no_gradient():
    chosen = torch.ones(1, 2, requires_grad=True)
    labelled = torch.tensor([[True, False]])
    label = torch.tensor([[0.9, float("nan")]])
    found = preference_loss(chosen, torch.zeros(1, 2), label, labelled, 0.01)
    assert found.losses[0, 1] == 0
    found.losses.sum().backward()
    assert chosen.grad[0, 0] != 0
    assert chosen.grad[0, 1] == 0


def test_heads_start_with_a_std_of_one_over_root_d_plus_one():
    heads = Heads(["a", "b"], 1000)
    heads.randomise(0)
    assert heads.weight.std().item() == pytest.approx(1 / math.sqrt(1001), rel=0.05)


def test_normalised_scores_have_mean_0_and_std_1():
    heads, raw = Heads(["a", "b"], 3), torch.tensor([[1.0, 5.0], [3.0, 5.0], [5.0, 5.0]])
    heads.normalise_on(raw)
    scores = heads.normalised(raw)
    torch.testing.assert_close(scores.mean(0), torch.zeros(2))
    assert scores[:, 0].std(correction=0).item() == pytest.approx(1)
    assert scores[:, 1].tolist() == [0, 0, 0]  # a constant head says nothing


def test_there_is_a_head_for_every_labelled_trait_and_one_for_plain_pairs(tiny_model):
    tokenizer = Backbone.load(tiny_model).tokenizer
    labelled = [preference(1, "a", "b", traits={"kind": 0.7, "safe": None})]
    pairs = encode_pairs(tokenizer, labelled, 200, "error").pairs
    assert head_weights(pairs, {"kind": 2.0, "safe": 1.0}) == {"kind": 2.0}
    with pytest.raises(TrainingError, match="the trait 'kind', which has no weight"):
        head_weights(pairs, {"safe": 1.0})
    plain = encode_pairs(tokenizer, [preference(1, "a", "b")], 200, "error").pairs
    assert head_weights(plain, {"kind": 2.0}) == {"overall": 1.0}


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
    assert all(s.overall == pytest.approx(2 * s.traits["manners"]) for s in chosen + rejected)
    every = torch.tensor([s.traits["manners"] for s in chosen + rejected])
    assert every.mean().item() == pytest.approx(0, abs=1e-4)
    assert every.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert json.loads((out / "evaluation.json").read_text())["pairs"] == 8

    odds = torch.tensor(model.log_odds(conversations, [p.chosen_text for p in polite_pairs]))
    scale = model.heads.std.item() / 2.0  # undo the normalisation and the trait's weight
    overall = torch.tensor([s.overall for s in chosen])
    torch.testing.assert_close(odds - odds[0], (overall - overall[0]) * scale, atol=1e-4, rtol=0)


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


def test_a_score_does_not_depend_on_its_neighbours_in_the_batch(tiny_model, polite_pairs, tmp_path):
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


def test_pairs_without_a_trait_label_are_left_out_by_name(
    tiny_model, polite_pairs, tmp_path, capsys
):
    pairs = [*polite_pairs[:3], preference(9, "a", "b", traits={"manners": None})]
    train(small(), tiny_model, pairs, tmp_path, {"manners": 1.0})
    assert "left out 1 records, among them\n  pair-9: no trait label" in capsys.readouterr().err


def test_micro_batches_do_not_change_the_gradient(tiny_model, polite_pairs):
    backbone = Backbone.load(tiny_model, "float32")
    pairs = encode_pairs(backbone.tokenizer, polite_pairs, 200, "error").pairs
    backbone.add_role("reward", RewardConfig().lora, 0)
    heads = Heads(["manners"], backbone.hidden_size)
    heads.randomise(0)
    model = RewardModel(backbone, heads, {"manners": 1.0})

    def gradients(size: int) -> dict[str, torch.Tensor]:
        parameters = {**backbone.role_parameters("reward"), **dict(heads.named_parameters())}
        learner = GradientKeeper([(parameters, 1e-3)], 1, small())
        train_step(model, learner, pairs, small(micro_batch_size=size), "here")
        return learner.gradients

    whole, parts = gradients(8), gradients(2)
    assert all((whole[n] - parts[n]).abs().max() < 1e-6 for n in whole)
    assert any(g.abs().max() > 1e-4 for g in whole.values())


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
