"""Settings of ReST. Imports no torch."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, Self

from pydantic import Field, model_validator

from rlaif.training.config import RolloutConfig


class ReSTConfig(RolloutConfig):
    """Settings of reinforced self-training (arXiv:2308.08998)."""

    grow_steps: int = Field(
        default=1,
        ge=1,
        description="Grow steps, G; the best in human evaluation is 1 (arXiv:2308.08998)",
    )
    samples_per_prompt: int = Field(
        default=8, ge=2, description="responses per prompt of a Grow step, n (ours)"
    )
    quantiles: tuple[float, ...] = Field(
        default=(0.5, 0.75, 0.9),
        min_length=1,
        description="quantiles of the scores above which responses are kept, an Improve step "
        "each, rising (ours)",
    )
    threshold: Literal["global", "prompt"] = Field(
        default="global",
        description="quantile of all scores, or of each prompt's own (arXiv:2308.08998: global)",
    )
    standardize_scores: Literal["auto", "none"] = Field(
        default="auto",
        description="auto: a judge's ratings, before their weight, less the mean and over the "
        "standard deviation of the run's first ones; none: as they are, in [-1, 1] (ours; "
        "rewards/scale.py)",
    )
    start: Literal["last", "base"] = Field(
        default="last",
        description="where an Improve step starts: the one before, or the base (arXiv:2308.08998: "
        "last)",
    )
    learning_rate_decay: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="factor of the rate from one Improve step of a Grow to the next (ours)",
    )
    epochs: int = Field(
        default=1, ge=1, description="passes over the responses of an Improve step (ours)"
    )
    batch_size: int = Field(default=8, ge=1, description="responses per optimizer step (ours)")
    max_new_tokens: int = Field(default=128, ge=1, description="longest response, tokens (ours)")
    temperature: float = Field(
        default=1.0, gt=0, description="factor of sampling; 1: the policy itself (ours)"
    )
    kv_cache_gib: float = Field(
        default=1.0, gt=0, description="most GiB of keys and values in sampling (ours)"
    )
    prompts_per_chunk: int = Field(
        default=16,
        ge=1,
        description="prompts sampled together; a killed run loses at most these (ours)",
    )

    @model_validator(mode="after")
    def _refuse_impossible(self) -> Self:
        if not all(0 <= q < 1 for q in self.quantiles):
            raise ValueError("quantiles must be at least 0 and below 1 (1 would keep nothing)")
        if any(later <= earlier for earlier, later in pairwise(self.quantiles)):
            raise ValueError("quantiles must rise: every Improve step keeps less than the last")
        if "learning_rate_decay" in self.model_fields_set and len(self.quantiles) == 1:
            raise ValueError("learning_rate_decay does nothing with one quantile; set more of them")
        if self.max_new_tokens >= self.max_tokens:
            raise ValueError("max_new_tokens must leave room for the prompt within max_tokens")
        return self
