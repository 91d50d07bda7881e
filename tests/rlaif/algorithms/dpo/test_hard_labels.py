"""Ties teach nothing and reversed labels teach their better response, whatever the loss."""

from __future__ import annotations

import pytest

from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.dpo.hard_labels import hard_labels
from rlaif.algorithms.dpo.losses import LOSSES
from rlaif.algorithms.dpo.train import train
from rlaif.training.config import TrainingError
from tests.support.training.killed import weights
from tests.support.training.pairs import preference

PAIRS = [
    preference(0, "Yes, please.", "No!", 0.9),
    preference(1, "Oh, yes.", "Never.", 0.5),
    preference(2, "No way.", "Gladly, yes.", 0.2, traits={"manners": 0.3, "brevity": None}),
]
HARD = [name for name, loss in LOSSES.items() if not loss.soft]


def test_hard_labels_leave_out_ties_and_turn_reversed_pairs_round():
    hard = hard_labels(PAIRS, "sigmoid")
    assert [pair.chosen_text for pair in hard.pairs] == ["Yes, please.", "Gladly, yes."]
    assert [pair.prob_chosen for pair in hard.pairs] == [0.9, 0.8]
    assert hard.pairs[1].traits == {"manners": 0.7, "brevity": None}
    assert hard.describe() == (
        "1 ties (prob_chosen ½) left out, 1 pairs with prob_chosen under ½ turned round"
    )
    assert hard_labels(PAIRS[:1], "sigmoid").describe() == ""


def test_hard_labels_of_ties_alone_are_refused():
    with pytest.raises(TrainingError, match=r"all 1 pairs are ties .* use loss=soft_sigmoid"):
        hard_labels(PAIRS[1:2], "sigmoid")
    assert hard_labels([], "sigmoid").pairs == []


def test_hard_labels_are_for_every_loss_but_the_soft_one():
    assert set(LOSSES) - set(HARD) == {"soft_sigmoid"}


@pytest.mark.parametrize("loss", HARD)
def test_dpo_on_ties_and_reversed_pairs_learns_as_from_the_pairs_put_right(
    loss, tiny_model, tmp_path, capsys
):
    settings = {"label_noise": 0.1} if loss == "robust" else {}
    config = DPOConfig(loss=loss, batch_size=4, epochs=1, max_tokens=64, **settings)
    whole = train(config, tiny_model, PAIRS, tmp_path / "whole")
    assert "1 ties (prob_chosen ½) left out, 1 pairs" in capsys.readouterr().err
    right = train(config, tiny_model, hard_labels(PAIRS, loss).pairs, tmp_path / "right")
    one, other = weights(whole), weights(right)
    assert all(one[name].equal(other[name]) for name in one)


def test_dpo_with_the_soft_loss_keeps_ties_and_reversed_pairs(tiny_model, tmp_path, capsys):
    config = DPOConfig(batch_size=4, epochs=1, max_tokens=64)
    train(config, tiny_model, PAIRS, tmp_path)
    assert "left out" not in capsys.readouterr().err
