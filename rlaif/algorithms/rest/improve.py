"""The Improve step's data: responses whose score is above a threshold.

F(x, y; τ) = 1[R(x, y) > τ]        section 3, arXiv:2308.08998; R the scores, τ the thresholds
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rlaif.algorithms.rest.grow import GrownSample
from rlaif.evaluation.diversity import distinct_n


def thresholds(
    scores: Tensor, prompts: Sequence[str], quantile: float, of: Literal["global", "prompt"]
) -> Tensor:
    """Threshold τ for every response: a quantile of all scores, or of the scores of its prompt.

    scores (N,); prompts: the id of each score's prompt. Returns (N,). Quantiles between two scores
    are interpolated linearly.
    """
    if of == "global":
        return torch.quantile(scores, quantile).expand_as(scores)
    tau = torch.empty_like(scores)  # (N,)
    names = {name: number for number, name in enumerate(dict.fromkeys(prompts))}
    group = torch.tensor([names[name] for name in prompts])  # (N,)
    for number in range(len(names)):
        tau[group == number] = torch.quantile(scores[group == number], quantile)
    return tau


@dataclass(frozen=True, slots=True)
class ImproveSet:
    """The responses that an Improve step trains on, and their metrics."""

    responses: list[GrownSample]
    metrics: dict[str, float | None]


def improve_set(
    grown: Sequence[GrownSample], quantile: float, of: Literal["global", "prompt"]
) -> ImproveSet:
    """Select the responses with a score above the threshold (F).

    Metrics, logged at every step of the Improve step:

    threshold          τ_i, mean over responses        share_kept         of the scored responses
    score              mean R over D_g                 score_kept         of the kept ones
    distinct_2         different word pairs of D_g     distinct_2_kept    of the kept ones
    response_length    mean tokens in D_g              response_length_kept
    eos_rate           share with an end token         unscored           without R, not in D_g
    """
    scored = [g for g in grown if g.score is not None]
    scores = torch.tensor([g.score for g in scored], dtype=torch.float64)  # (N,)
    tau = thresholds(scores, [g.prompt for g in scored], quantile, of)
    keep = scores > tau  # (N,) F, section 3, arXiv:2308.08998
    kept = [g for g, is_kept in zip(scored, keep.tolist(), strict=True) if is_kept]
    metrics = {
        "threshold": float(tau.mean()),
        "share_kept": len(kept) / len(scored),
        "score": float(scores.mean()),
        "score_kept": float(scores[keep].mean()) if kept else None,
        "distinct_2": distinct_n([g.response for g in scored], 2),
        "distinct_2_kept": distinct_n([g.response for g in kept], 2),
        "response_length": sum(len(g.ids) for g in scored) / len(scored),
        "response_length_kept": sum(len(g.ids) for g in kept) / len(kept) if kept else None,
        "eos_rate": sum(g.complete for g in scored) / len(scored),
        "unscored": float(len(grown) - len(scored)),
    }
    return ImproveSet(kept, metrics)
