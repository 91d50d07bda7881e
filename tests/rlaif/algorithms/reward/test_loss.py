"""The reward model's loss by hand and against TRL."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from rlaif.algorithms.reward.losses import preference_loss
from rlaif.algorithms.reward.train import train_step
from tests.rlaif.algorithms.reward.test_train import small, some_model
from tests.support.training.gradients import ALONE, GradientKeeper
from tests.support.training.pairs import varied_pairs

ALL = torch.tensor([[True]])


def loss(chosen: float, rejected: float, p: float, centering: float = 0.0) -> float:
    tensors = (torch.tensor([[x]], dtype=torch.float64) for x in (chosen, rejected, p))
    return preference_loss(*tensors, ALL, centering).losses.item()


def test_the_loss_is_log_2_where_both_scores_are_equal():
    assert loss(3.0, 3.0, 0.8) == pytest.approx(math.log(2))


def test_the_loss_by_hand():
    # Δ = log 3: sigmoid(Δ) = 3/4; centered: 0.01·(log 3)²
    by_hand = -(0.8 * math.log(0.75) + 0.2 * math.log(0.25)) + 0.01 * math.log(3) ** 2
    assert loss(math.log(3), 0.0, 0.8, 0.01) == pytest.approx(by_hand)


def test_swapping_the_responses_and_the_label_changes_nothing():
    assert loss(1.3, -0.4, 0.8, 0.01) == pytest.approx(loss(-0.4, 1.3, 0.2, 0.01))


def test_the_loss_is_least_where_the_margin_is_the_labels_log_odds():
    best = math.log(0.8 / 0.2)
    assert loss(best, 0, 0.8) < min(loss(best + 0.1, 0, 0.8), loss(best - 0.1, 0, 0.8))


def trl_loss(trl, model, inputs) -> torch.Tensor:
    """RewardTrainer's own loss, without the trainer around it."""
    alone = SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False),
        args=SimpleNamespace(center_rewards_coefficient=0.01),
        accelerator=alone,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
    )
    return trl.RewardTrainer.compute_loss(trainer, model, inputs)


def test_hard_labels_give_trls_loss_with_centering():
    trl = pytest.importorskip("trl")
    chosen, rejected = torch.randn(2, 16, 1, generator=torch.Generator().manual_seed(1))
    theirs = trl_loss(trl, lambda **_: SimpleNamespace(logits=torch.cat([chosen, rejected])), {})
    p, every = torch.ones(16, 1), torch.ones(16, 1, dtype=torch.bool)
    ours = preference_loss(chosen, rejected, p, every, 0.01).losses.mean()
    torch.testing.assert_close(ours, theirs)


def test_a_step_has_trls_loss_and_gradients_on_the_same_weights(tiny_model):
    trl = pytest.importorskip("trl")
    config = small(lora=None, label_kind="hard")
    model, pairs = some_model(tiny_model, config, varied_pairs(), {})
    model.heads.bias.requires_grad_(False)  # theirs has none
    trained = {**model.backbone.role_parameters("reward"), "head": model.heads.weight}
    learner = GradientKeeper([(trained, 1e-3)], 1, config, ALONE)
    found = train_step(model, learner, pairs, config, "here")

    theirs = AutoModelForSequenceClassification.from_pretrained(
        tiny_model, num_labels=1, dtype=torch.float32, pad_token_id=0
    ).eval()
    theirs.score.weight.data.copy_(model.heads.weight.data)
    rows = [p.chosen.ids for p in pairs] + [p.rejected.ids for p in pairs]
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *([0] * (width - len(row)))] for row in rows])
    loss = trl_loss(trl, theirs, {"input_ids": ids, "attention_mask": (ids != 0).long()})
    assert loss.item() == pytest.approx(found["loss"], rel=1e-5)
    loss.backward()
    expected = {n: p.grad for n, p in theirs.named_parameters()}
    expected["head"] = expected.pop("score.weight")
    assert expected.keys() == learner.gradients.keys()
    for name, gradient in learner.gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-6)
