"""DPO's losses by hand and against TRL, and what its training does."""

from __future__ import annotations

import json
import math

import peft
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from rlaif.backbone import Backbone
from rlaif.batching import encode_pairs
from rlaif.dpo import (
    LOSSES,
    DPOConfig,
    PairLogprobs,
    log_ratio_margin,
    reference_logprobs,
    response_sums,
    soft_sigmoid_loss,
    train,
    train_step,
)
from tests.rlaif.gradients import GradientKeeper


def some_pairs(seed: int = 0) -> PairLogprobs:
    generator = torch.Generator().manual_seed(seed)
    sums = [-20 * torch.rand(6, generator=generator) for _ in range(4)]
    return PairLogprobs(*sums, torch.tensor([3, 9, 4, 7, 2, 5]), torch.tensor([5, 2, 8, 7, 6, 1]))


def test_every_sigmoid_loss_is_log_2_where_policy_and_reference_agree():
    x = some_pairs()
    same = PairLogprobs(
        x.chosen, x.rejected, x.chosen, x.rejected, x.chosen_tokens, x.rejected_tokens
    )
    p = torch.linspace(0.5, 1, 6)
    for name in ("soft_sigmoid", "sigmoid", "robust", "sigmoid_norm"):
        losses = LOSSES[name](same, p, 0.3, 0.2)
        torch.testing.assert_close(losses, torch.full((6,), math.log(2)))
    for name in ("ipo_sum", "ipo_mean"):
        torch.testing.assert_close(LOSSES[name](same, p, 0.25, 0.0), torch.full((6,), 4.0))


def test_the_soft_loss_by_hand():
    # βh = log 3, so sigmoid(βh) = 3/4
    found = soft_sigmoid_loss(torch.tensor([math.log(3) / 0.1]), torch.tensor([0.8]), 0.1)
    assert found.item() == pytest.approx(-(0.8 * math.log(0.75) + 0.2 * math.log(0.25)))


def test_swapping_the_pair_and_the_label_changes_nothing():
    x, p = some_pairs(), torch.linspace(0.5, 1, 6)
    swapped = PairLogprobs(
        x.rejected, x.chosen, x.ref_rejected, x.ref_chosen, x.rejected_tokens, x.chosen_tokens
    )
    torch.testing.assert_close(
        LOSSES["soft_sigmoid"](x, p, 0.1, 0.0), LOSSES["soft_sigmoid"](swapped, 1 - p, 0.1, 0.0)
    )


def test_a_certain_label_gives_the_hard_loss():
    x, ones = some_pairs(), torch.ones(6)
    torch.testing.assert_close(
        LOSSES["soft_sigmoid"](x, ones, 0.1, 0.0), LOSSES["sigmoid"](x, ones, 0.1, 0.0)
    )


def test_ipo_is_least_at_a_margin_of_half_over_beta():
    x = some_pairs()
    h = log_ratio_margin(x)
    torch.testing.assert_close(LOSSES["ipo_sum"](x, h, 0.1, 0.0), (h - 5.0) ** 2)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("sigmoid", "sigmoid"), ("ipo_mean", "ipo"), ("robust", "robust"), ("sigmoid_norm",) * 2],
)
@pytest.mark.filterwarnings("ignore")
def test_losses_and_gradients_are_trls(ours, theirs, tiny_model, polite_pairs, tmp_path):
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    noise = 0.2 if ours == "robust" else None
    backbone = Backbone.load(tiny_model, "float32")
    backbone.add_role("policy", DPOConfig().lora, 0)
    _shake(backbone)
    pairs = encode_pairs(backbone.tokenizer, polite_pairs, 200, "error").pairs
    reference = reference_logprobs(backbone, pairs, DPOConfig())
    sums = response_sums(backbone, "policy", pairs)
    x = PairLogprobs(
        *sums.logprobs.chunk(2), reference[:, 0], reference[:, 1], *sums.response_tokens.chunk(2)
    )
    own = LOSSES[ours](x, torch.ones(8), 0.3, noise or 0.0).mean()

    policy = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    backbone.save_role("policy", tmp_path / "policy")
    merged = peft.PeftModel.from_pretrained(policy, tmp_path / "policy").merge_and_unload()
    arguments = trl.DPOConfig(
        output_dir=str(tmp_path / "trl"), loss_type=[theirs], beta=0.3, use_cpu=True, bf16=False,
        label_smoothing=noise or 0.0, per_device_train_batch_size=8, report_to=[],
        max_length=None, disable_dropout=True, gradient_checkpointing=False,
    )  # fmt: skip
    texts = [
        {
            "prompt": backbone.tokenizer.decode(pair.chosen.ids[: pair.chosen.start]),
            "chosen": preference.chosen_text,
            "rejected": preference.rejected_text,
        }
        for pair, preference in zip(pairs, polite_pairs, strict=True)
    ]
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    trainer = trl.DPOTrainer(
        merged, ref_model=base, args=arguments, train_dataset=Dataset.from_list(texts),
        processing_class=backbone.tokenizer,
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    assert int(batch["completion_mask"].sum()) == int(sums.response_tokens.sum())
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(own.item(), rel=1e-4)


def _shake(backbone: Backbone) -> None:
    """Move the fresh adapter away from the base, so that a comparison says something."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in backbone.role_parameters("policy").values():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def test_settings_that_do_nothing_are_refused():
    with pytest.raises(ValidationError, match="label_noise belongs to loss=robust"):
        DPOConfig(label_noise=0.1)
    with pytest.raises(ValidationError, match="label_noise belongs to loss=robust"):
        DPOConfig(loss="robust")
    with pytest.raises(ValidationError, match="no such loss; there are soft_sigmoid, sigmoid"):
        DPOConfig(loss="sigmod")
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        DPOConfig(bta=0.1)


def small(**settings) -> DPOConfig:
    base = {"dtype": "float32", "batch_size": 4, "checkpoint_every": 1, "max_tokens": 200}
    return DPOConfig(**(base | settings))


def test_the_loss_starts_at_log_2_and_falls_on_a_set_it_can_learn(
    tiny_model, polite_pairs, tmp_path
):
    config = small(epochs=10, learning_rate=1e-2)
    out = train(config, tiny_model, polite_pairs, tmp_path)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert lines[0]["margin"] == pytest.approx(0, abs=1e-5)
    assert lines[-1]["loss"] < 0.45
    assert lines[-1]["margin"] > 1
    assert lines[-1]["accuracy"] == 1.0


def test_its_folder_opens_in_peft_and_gives_the_trained_policy(tiny_model, polite_pairs, tmp_path):
    out = train(small(learning_rate=1e-2), tiny_model, polite_pairs, tmp_path)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    ids = torch.tensor([[1, 5, 6, 7, 8]])
    before = base(ids).logits
    opened = peft.PeftModel.from_pretrained(base, out)
    ours = Backbone.load(tiny_model, "float32")
    ours.load_role("policy", out)
    expected = ours.hidden_states("policy", ids) @ ours.head_weight.T
    torch.testing.assert_close(opened(ids).logits, expected)
    assert (expected - before).abs().max() > 1e-3


def test_micro_batches_do_not_change_the_gradient(tiny_model, polite_pairs):
    backbone = Backbone.load(tiny_model, "float32")
    backbone.add_role("policy", DPOConfig().lora, 0)
    _shake(backbone)
    pairs = encode_pairs(backbone.tokenizer, polite_pairs, 200, "error").pairs
    reference = reference_logprobs(backbone, pairs, small())

    def gradients(size: int) -> dict[str, torch.Tensor]:
        learner = GradientKeeper([(backbone.role_parameters("policy"), 1e-3)], 1, small())
        train_step(backbone, learner, pairs, reference, small(micro_batch_size=size), "here")
        return learner.gradients

    whole, parts = gradients(8), gradients(3)
    assert all((whole[n] - parts[n]).abs().max() < 1e-6 for n in whole)
    assert any(g.abs().max() > 1e-4 for g in whole.values())
