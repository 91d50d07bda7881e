"""Linear heads over hidden states: one for the label and one per trait, and their scores.

    r_j = w_j · h + b_j                        raw score by head j: differences are log-odds
    s_j = (r_j - mean_j) / std_j               mean and std over the training responses
    s   = Σ_t v_t (r_t - mean_t) / √(v'Cv)     by the traits at weights v, C their covariance there

h is the hidden state at the response's end token. Each s has mean 0 and standard deviation 1 on the
training responses, however many heads there are.

s approximates a label in which the traits weigh v: it is a mean of log-odds, and the judge's label
a mean of probabilities. The two disagree about a pair in which one trait is sure and others lean
the other way; only the head on the label has learned which way the judge goes there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

LABEL = 0
"""The column of the head on the label; those of the traits follow, whatever a trait is called."""


class Heads(torch.nn.Module):
    """K linear heads in float32 over hidden states of width d; initially zero."""

    def __init__(self, count: int, hidden_size: int) -> None:
        super().__init__()
        self.count = count
        self.weight = torch.nn.Parameter(torch.zeros(count, hidden_size))
        self.bias = torch.nn.Parameter(torch.zeros(count))

    def randomize(self, seed: int) -> None:
        """Draw the weights with std 1/√(d+1) ("N implementation details of RLHF with PPO")."""
        generator = torch.Generator().manual_seed(seed)
        std = 1 / math.sqrt(self.weight.shape[1] + 1)
        with torch.no_grad():
            self.weight.copy_(torch.randn(self.weight.shape, generator=generator) * std)

    def forward(self, hidden: Tensor) -> Tensor:
        """Raw scores, not normalized: (..., d) → (..., K) float32."""
        return torch.nn.functional.linear(hidden.float(), self.weight, self.bias)


class RewardHeads(Heads):
    """The head on the label, then one per trait: K = 1 + number of traits."""

    def __init__(self, traits: Sequence[str], hidden_size: int) -> None:
        super().__init__(1 + len(traits), hidden_size)
        self.traits = tuple(traits)
        self.mean: Tensor
        self.covariance: Tensor
        self.register_buffer("mean", torch.zeros(self.count))
        self.register_buffer("covariance", torch.eye(self.count))

    @property
    def std(self) -> Tensor:
        """Standard deviations of the training responses' raw scores (K,); 1 of a constant head."""
        return _root(self.covariance.diagonal())

    def normalize_on(self, raw: Tensor) -> None:
        """Set mean and covariance to those of raw scores (N, K)."""
        mean = raw.double().mean(dim=0)  # (K,)
        centered = raw.double() - mean
        self.mean.copy_(mean)
        self.covariance.copy_(centered.T @ centered / len(raw))

    def normalize_on_pieces(self, pieces: Iterable[Tensor]) -> None:
        """`normalize_on` of raw scores that come in pieces (n, K), of which none is kept.

        Means and sums of squares are merged in float64: Chan, Golub and LeVeque 1979.
        """
        total, mean, squares = 0, torch.zeros(()).double(), torch.zeros(()).double()
        for raw in pieces:
            piece = raw.double()
            count, own = len(piece), piece.mean(dim=0)  # (K,)
            centered, apart = piece - own, own - mean
            squares = squares + centered.T @ centered  # (K, K)
            squares = squares + torch.outer(apart, apart) * (total * count / (total + count))
            mean = mean + apart * (count / (total + count))
            total += count
        self.mean.copy_(mean)
        self.covariance.copy_(squares / total)

    def normalized(self, raw: Tensor) -> Tensor:
        """Raw scores in standard deviations from the training responses' mean: (..., K)."""
        return (raw - self.mean) / self.std

    def weighted(self, raw: Tensor, weights: Sequence[float]) -> Tensor:
        """The traits' sum at these weights, in its own standard deviations: (..., K) → (...)."""
        v = raw.new_tensor(weights)
        total = (raw - self.mean)[..., LABEL + 1 :] @ v
        return total / _root(v @ self.covariance[LABEL + 1 :, LABEL + 1 :] @ v)


def _root(variance: Tensor) -> Tensor:
    """Standard deviations; 1 where the variance is 0, so that a constant score becomes 0."""
    return torch.where(variance > 0, variance, 1.0).sqrt()
