"""Token log-probs, masked statistics and KL estimators, against numbers worked by hand and TRL."""

from __future__ import annotations

import math

import pytest
import torch

from rlaif.batching import logprobs
from rlaif.batching.logprobs import kl_k1, kl_k3, masked_mean, token_logprobs, whiten


def test_a_token_logprob_is_its_logit_minus_the_log_of_the_sum():
    weight = torch.tensor([[0.0], [math.log(3.0)]])  # two tokens, d = 1
    values = token_logprobs(torch.tensor([[1.0], [1.0]]), torch.tensor([0, 1]), weight)
    assert values.tolist() == pytest.approx([math.log(1 / 4), math.log(3 / 4)])


def test_temperature_divides_the_logits():
    weight = torch.tensor([[0.0], [math.log(9.0)]])
    values = token_logprobs(torch.ones(1, 1), torch.tensor([1]), weight, temperature=2.0)
    assert values.item() == pytest.approx(math.log(3 / 4))  # 9 ** 1/2 = 3


def test_chunks_change_neither_values_nor_gradients(monkeypatch):
    torch.manual_seed(0)
    hidden, weight = torch.randn(37, 8, requires_grad=True), torch.randn(50, 8)
    targets = torch.randint(50, (37,))
    upstream = torch.randn(37)
    plain = torch.log_softmax(hidden @ weight.T / 0.7, -1).gather(1, targets[:, None])[:, 0]
    (expected,) = torch.autograd.grad(plain @ upstream, hidden)
    monkeypatch.setattr(logprobs, "CHUNK", 5)
    values = token_logprobs(hidden, targets, weight, temperature=0.7)
    (gradient,) = torch.autograd.grad(values @ upstream, hidden)
    torch.testing.assert_close(values, plain)
    torch.testing.assert_close(gradient, expected)


def test_a_trained_head_gets_the_gradient_of_log_softmax(monkeypatch):
    monkeypatch.setattr(logprobs, "CHUNK", 5)
    torch.manual_seed(0)
    hidden, weight = torch.randn(37, 8), torch.randn(50, 8, requires_grad=True)
    targets = torch.randint(50, (37,))
    upstream = torch.randn(37)
    for leaf in (
        hidden,
        hidden.requires_grad_(),
    ):  # without and with a gradient for the hidden states
        plain = torch.log_softmax(leaf @ weight.T / 0.7, -1).gather(1, targets[:, None])[:, 0]
        inputs = [x for x in (leaf, weight) if x.requires_grad]
        expected = torch.autograd.grad(plain @ upstream, inputs)
        values = token_logprobs(leaf, targets, weight, temperature=0.7)
        torch.testing.assert_close(torch.autograd.grad(values @ upstream, inputs), expected)


def test_the_gradient_of_a_certain_token_vanishes():
    weight = torch.tensor([[0.0], [40.0]], requires_grad=True)
    value = token_logprobs(torch.ones(1, 1), torch.tensor([1]), weight)
    (gradient,) = torch.autograd.grad(value.sum(), weight)
    assert gradient.abs().max().item() < 1e-12


def test_token_logprobs_equal_trls():
    trl = pytest.importorskip("trl.trainer.utils")
    torch.manual_seed(0)
    hidden, weight = torch.randn(12, 8), torch.randn(50, 8)
    targets = torch.randint(50, (12,))
    expected = trl.selective_log_softmax(hidden @ weight.T, targets)
    torch.testing.assert_close(token_logprobs(hidden, targets, weight), expected)


def test_zero_tokens_give_zero_logprobs():
    assert token_logprobs(torch.empty(0, 4), torch.empty(0).long(), torch.zeros(10, 4)).shape == (
        0,
    )


def test_whitening_uses_the_mask_and_the_unbiased_variance():
    values = torch.tensor([[1.0, 2.0, 99.0], [3.0, -99.0, 99.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert masked_mean(values, mask).item() == 2.0  # of 1, 2, 3; unbiased variance 1
    expected = torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(whiten(values, mask), expected)


def test_whitening_a_constant_or_a_single_entry_gives_zero():
    one = torch.tensor([[True, False]])
    assert whiten(torch.tensor([[5.0, 1.0]]), one).tolist() == [[0.0, 0.0]]
    assert whiten(torch.full((2, 2), 5.0), torch.ones(2, 2, dtype=torch.bool)).abs().max() == 0


def test_masked_statistics_ignore_nan_outside_the_mask():
    mask = torch.tensor([[True, True, False]])
    values = torch.tensor([[1.0, 3.0, float("nan")]])
    assert masked_mean(values, mask).item() == 2.0
    assert whiten(values, mask).isfinite().all()


def test_kl_estimators_match_numbers_worked_by_hand():
    own, ref = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])  # r = log 2
    assert kl_k1(own, ref).item() == pytest.approx(math.log(2))
    assert kl_k3(own, ref).item() == pytest.approx(0.5 - 1 + math.log(2))


def test_k1_and_k3_have_the_expectation_of_the_kl():
    own, ref = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    kl = (own * (own / ref).log()).sum().item()
    assert (own * kl_k1(own.log(), ref.log())).sum().item() == pytest.approx(kl)
    assert (own * kl_k3(own.log(), ref.log())).sum().item() == pytest.approx(kl)
