"""DPO's losses by hand and by their invariants; a loss added from outside."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch
from typer.testing import CliRunner

from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.dpo.losses import LOSSES, PairLogprobs, log_ratio_margin, preferred_nll
from rlaif.algorithms.dpo.losses.sigmoid import soft_sigmoid_loss
from rlaif.algorithms.dpo.train import PairMicroBatch, metric_sums
from rlaif.cli.main import app
from rlaif.data.records import write_jsonl


def loss(name: str, pairs: PairLogprobs, prob_chosen: torch.Tensor, beta: float) -> torch.Tensor:
    own = {"label_noise": 0.2} if name == "robust" else {}
    return LOSSES[name].compute(pairs, prob_chosen, DPOConfig(loss=name, beta=beta, **own))


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
        losses = loss(name, same, p, 0.3)
        torch.testing.assert_close(losses, torch.full((6,), math.log(2)))
    for name in ("ipo_sum", "ipo_mean"):
        torch.testing.assert_close(loss(name, same, p, 0.25), torch.full((6,), 4.0))


def test_the_soft_loss_by_hand():
    # βh = log 3, so sigmoid(βh) = 3/4
    found = soft_sigmoid_loss(torch.tensor([math.log(3) / 0.1]), torch.tensor([0.8]), 0.1)
    assert found.item() == pytest.approx(-(0.8 * math.log(0.75) + 0.2 * math.log(0.25)))


def test_the_sft_term_by_hand():
    # -6 nats over 3 tokens: 2 a token; where the label prefers the rejected one, -8 over 4: 2 too
    chosen, rejected = torch.tensor([-6.0, -1.0, -5.0]), torch.tensor([-9.0, -8.0, -7.0])
    tokens = torch.tensor([3, 1, 5]), torch.tensor([3, 4, 7])
    pairs = PairLogprobs(chosen, rejected, chosen, rejected, *tokens)
    found = preferred_nll(pairs, torch.tensor([0.9, 0.2, 0.5]))
    assert found.tolist() == [2.0, 2.0, 1.0]


def test_the_sft_term_is_symmetric_in_the_pair_and_its_label():
    x, p = some_pairs(), torch.tensor([0.51, 0.6, 0.7, 0.8, 0.9, 1.0])
    swapped = PairLogprobs(
        x.rejected, x.chosen, x.ref_rejected, x.ref_chosen, x.rejected_tokens, x.chosen_tokens
    )
    torch.testing.assert_close(preferred_nll(x, p), preferred_nll(swapped, 1 - p))


def test_swapping_the_pair_and_the_label_changes_nothing():
    x, p = some_pairs(), torch.linspace(0.5, 1, 6)
    swapped = PairLogprobs(
        x.rejected, x.chosen, x.ref_rejected, x.ref_chosen, x.rejected_tokens, x.chosen_tokens
    )
    torch.testing.assert_close(
        loss("soft_sigmoid", x, p, 0.1), loss("soft_sigmoid", swapped, 1 - p, 0.1)
    )


def test_a_certain_label_gives_the_hard_loss():
    x, ones = some_pairs(), torch.ones(6)
    torch.testing.assert_close(loss("soft_sigmoid", x, ones, 0.1), loss("sigmoid", x, ones, 0.1))


def test_ipo_is_least_at_a_margin_of_half_over_beta():
    x = some_pairs()
    h = log_ratio_margin(x)
    torch.testing.assert_close(loss("ipo_sum", x, h, 0.1), (h - 5.0) ** 2)


def test_every_loss_has_the_beta_of_its_source():
    own = {"label_noise": 0.2}
    found = {
        name: DPOConfig(loss=name, **(own if name == "robust" else {})).beta for name in LOSSES
    }
    assert found == {
        "soft_sigmoid": 0.1, "sigmoid": 0.1, "robust": 0.1, "ipo_sum": 0.1,
        "ipo_mean": 1.0, "sigmoid_norm": 5.0,
    }  # fmt: skip
    assert DPOConfig(loss="sigmoid_norm", beta=0.1).beta == 0.1


def slope(name: str, h: float, tokens: int = 50) -> float:
    """-dL/dh at the loss's own beta, of a pair of responses of `tokens` each, h nats in sum."""
    chosen = torch.tensor([-60.0 + h], requires_grad=True)
    other, count = torch.tensor([-60.0]), torch.tensor([tokens])
    config = DPOConfig(loss=name, **({"label_noise": 0.1} if name == "robust" else {}))
    pairs = PairLogprobs(chosen, other, other, other, count, count)
    LOSSES[name].compute(pairs, torch.tensor([0.9]), config).sum().backward()
    return -chosen.grad.item()


@pytest.mark.parametrize("h", [-1.0, 0.0, 1.0])
def test_the_gradient_of_every_loss_is_within_a_factor_of_10_of_sigmoids_but_of_a_square(h):
    slopes = {name: slope(name, h) / slope("sigmoid", h) for name in LOSSES}
    assert slopes["sigmoid_norm"] == pytest.approx(1.0)  # 5 over 50 tokens is 0.1
    square = slopes.pop("ipo_sum")  # 2 (1/(2β) - h): steep, far from its least value
    assert all(1 / 10 < each < 10 for each in slopes.values()), slopes
    assert 100 < square < 300
    assert slope("ipo_sum", 0.0) == pytest.approx(10.0)
    assert slope("ipo_mean", 0.0) == pytest.approx(1 / 50)


def test_sigmoid_norm_at_the_beta_of_sums_has_a_fiftieth_of_its_gradient():
    small = DPOConfig(loss="sigmoid_norm", beta=0.1)
    h = torch.tensor([0.0], requires_grad=True)
    zero, count = torch.tensor([0.0]), torch.tensor([50])
    LOSSES["sigmoid_norm"].compute(
        PairLogprobs(h, zero, zero, zero, count, count), zero, small
    ).sum().backward()
    assert slope("sigmoid", 0.0) / -h.grad.item() == pytest.approx(50)


@pytest.mark.parametrize(
    ("name", "expected"), [("sigmoid", (0.6, -0.2, 0.8)), ("sigmoid_norm", (5.0, -2.0, 7.0))]
)
def test_metrics_are_in_the_terms_of_the_loss(name, expected):
    pairs = PairLogprobs(
        torch.tensor([-4.0]), torch.tensor([-7.0]), torch.tensor([-10.0]), torch.tensor([-5.0]),
        torch.tensor([6]), torch.tensor([5]),
    )  # fmt: skip
    part = PairMicroBatch(torch.tensor([0.5]), torch.tensor([2.0]), pairs, tokens=11)
    sums = metric_sums(part, DPOConfig(loss=name)).tolist()
    loss_sum, margin, accuracy, chosen, rejected, nll = sums
    assert nll == 2.0
    assert (chosen, rejected, margin) == pytest.approx(expected)
    assert (loss_sum, accuracy) == (0.5, 1.0)


# ── a loss of one's own ──────────────────────────────────────────────────────────────────────────

SCALED_HINGE = """
from pydantic import Field

from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.dpo.losses import Loss, log_ratio_margin


class HingeConfig(DPOConfig):
    hinge_margin: float = Field(gt=0)


def hinge(pairs, prob_chosen, config):
    return (config.hinge_margin - config.beta * log_ratio_margin(pairs)).clamp(min=0)


LOSS = Loss(hinge, HingeConfig)
"""


@pytest.fixture
def hinge(tmp_path, monkeypatch):
    """One new file and one line in the table."""
    (tmp_path / "my_losses").mkdir()
    (tmp_path / "my_losses" / "__init__.py").write_text("")
    (tmp_path / "my_losses" / "hinge.py").write_text(SCALED_HINGE)
    monkeypatch.syspath_prepend(tmp_path)
    from my_losses.hinge import LOSS

    monkeypatch.setitem(LOSSES, "hinge", LOSS)
    yield LOSS
    for name in ("my_losses", "my_losses.hinge"):
        sys.modules.pop(name)


def test_a_loss_added_in_one_file_trains_by_the_command_with_its_own_setting(
    hinge, tiny_model, polite_pairs, tmp_path
):
    write_jsonl(tmp_path / "pairs.jsonl", polite_pairs)

    def losses(out, *settings):
        fast = ["dtype=float32", "max_tokens=120", "batch_size=8", "epochs=1", "lora.rank=2"]
        command = ["train", "dpo", str(tmp_path / "pairs.jsonl"), "--model", tiny_model]
        found = CliRunner().invoke(app, [*command, "--out", str(tmp_path / out), *fast, *settings])
        assert found.exit_code == 0, (found.output, found.exception)
        lines = (tmp_path / out / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    # before the first step h is 0: the loss is hinge_margin itself
    assert losses("one", "loss=hinge", "hinge_margin=1") == [pytest.approx(1.0, abs=1e-5)]
    assert losses("two", "loss=hinge", "hinge_margin=2") == [pytest.approx(2.0, abs=1e-5)]


def test_a_loss_added_in_one_file_is_a_loss_of_the_settings(hinge):
    assert type(DPOConfig(loss="hinge", hinge_margin=2.0)) is hinge.config
    with pytest.raises(ValueError, match="hinge_margin belongs to loss=hinge: set both or neither"):
        DPOConfig(hinge_margin=2.0)
