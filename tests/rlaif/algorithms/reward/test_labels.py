"""Labels of the reward model: hard and soft, without a side, and no probabilities."""

from __future__ import annotations

import pytest

from rlaif.algorithms.reward.heads import head_weights, labels_by_head
from rlaif.algorithms.reward.train import train, train_step
from rlaif.batching.encode import encode_pairs
from rlaif.evaluation.reward_models import RewardEvaluation, compare_nll
from rlaif.models.backbone import Backbone
from rlaif.training.config import TrainingError
from tests.rlaif.algorithms.reward.test_train import small, some_model
from tests.support.training.gradients import ALONE, GradientKeeper
from tests.support.training.pairs import preference

# ── labels ─────────────────────────────────────────────────────────────────────────────────────


def test_hard_labels_are_rounded_and_one_half_is_left_out(tiny_model):
    labels = {"a": 0.51, "b": 0.2, "c": 0.5, "d": None}
    tokenizer = Backbone.load(tiny_model).tokenizer
    (pair,) = encode_pairs(tokenizer, [preference(1, "a", "b", 0.7, labels)], 200, "error").pairs
    assert labels_by_head(pair, "abcd", "soft") == [0.7, 0.51, 0.2, 0.5, None]
    assert labels_by_head(pair, "abcd", "hard") == [1.0, 1.0, 0.0, None, None]


def test_pairs_whose_labels_have_no_side_are_left_out_by_name_when_labels_are_hard(
    tiny_model, polite_pairs, tmp_path, capsys
):
    undecided = preference(9, "a", "b", 0.5, {"manners": 0.5})
    config = small(label_kind="hard")
    train(config, tiny_model, [*polite_pairs, undecided], tmp_path / "a", {"manners": 1.0})
    assert "pair-9: no label with a side" in capsys.readouterr().err
    with pytest.raises(
        TrainingError, match=r"none of the 1 pairs has a label .*set label_kind=soft"
    ):
        train(config, tiny_model, [undecided], tmp_path / "b", {"manners": 1.0})


def test_a_trait_that_hard_labels_teach_nothing_of_has_no_head(tiny_model):
    tokenizer = Backbone.load(tiny_model).tokenizer
    labeled = [preference(i, "a", "b", traits={"kind": 0.7, "safe": 0.5}) for i in range(2)]
    pairs = encode_pairs(tokenizer, labeled, 200, "error").pairs
    weights = {"kind": 2.0, "safe": 1.0}
    assert head_weights(pairs, weights, "soft") == weights
    assert head_weights(pairs, weights, "hard") == {"kind": 2.0}


def test_a_batch_without_a_label_is_refused(tiny_model):
    pairs = [preference(9, "a", "b", 0.5, {"manners": None})]
    config = small(label_kind="hard")
    model, encoded = some_model(tiny_model, config, pairs, {"manners": 1.0})
    learner = GradientKeeper([(dict(model.heads.named_parameters()), 1e-3)], 1, config, ALONE)
    with pytest.raises(TrainingError, match="step 3: none of the 1 pairs has a label"):
        train_step(model, learner, encoded, config, "step 3")


@pytest.mark.parametrize("label", [1.2, -0.1, float("nan")])
@pytest.mark.parametrize("name", ["the label for manners", "prob_chosen"])
def test_a_label_that_is_not_a_probability_is_named(
    name, label, tiny_model, polite_pairs, tmp_path
):
    wrong = {"prob_chosen": label} if name == "prob_chosen" else {"traits": {"manners": label}}
    wrong = polite_pairs[0].model_copy(update=wrong)
    with pytest.raises(TrainingError, match=f"pair-0: {name} is not a probability"):
        train(small(), tiny_model, [*polite_pairs[1:], wrong], tmp_path, {"manners": 1.0})


def test_soft_labels_beat_hard_ones_on_the_held_out_nll_of_labels_that_are_unsure(
    tiny_model, tmp_path
):
    pairs = [preference(i, f"Yes, {i} please.", f"No {i}!", 0.7) for i in range(10)]
    found = []
    for labels in ("soft", "hard"):
        config = small(label_kind=labels, epochs=15, learning_rate=1e-2)
        out = train(config, tiny_model, pairs[:7], tmp_path / labels, {}, pairs[7:])
        found.append(RewardEvaluation.load(out / "evaluation.json"))
    compared = compare_nll(*found)
    assert compared.nll < compared.other_nll
    assert compared.difference.high < 0
    assert compared.nll == pytest.approx(compared.label_entropy, abs=0.05)
