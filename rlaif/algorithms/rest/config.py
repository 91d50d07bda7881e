"""Settings of ReST. Imports no torch."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, Self

from pydantic import Field, model_validator

from rlaif.generation.engines import EngineChoice
from rlaif.training.config import TrainConfig


class ReSTConfig(TrainConfig):
    """Settings of reinforced self-training (arXiv:2308.08998)."""

    grow_steps: int = Field(
        default=1, ge=1, description="G; the paper's best in human evaluation is 1"
    )
    samples_per_prompt: int = Field(default=8, ge=2, description="n, responses per prompt")
    quantiles: tuple[float, ...] = Field(
        default=(0.5, 0.75, 0.9),
        min_length=1,
        description="of the scores; an Improve step each, rising",
    )
    threshold: Literal["global", "prompt"] = Field(
        default="global", description="the quantile of all scores, or of each prompt's own"
    )
    start: Literal["last", "base"] = Field(
        default="last", description="where an Improve step starts: the one before, or the base"
    )
    learning_rate_decay: float = Field(
        default=0.5, gt=0, le=1, description="factor from one Improve step of a Grow to the next"
    )
    epochs: int = Field(default=1, ge=1, description="passes over the responses of an Improve step")
    batch_size: int = Field(default=8, ge=1, description="responses per optimizer step")
    max_new_tokens: int = Field(default=128, ge=1, description="longest response, tokens")
    temperature: float = Field(default=1.0, gt=0, description="of sampling")
    engine: EngineChoice = Field(
        default="auto", description="samples the responses; auto: vLLM where it is installed"
    )
    kv_cache_gib: float = Field(default=1.0, gt=0, description="GiB of keys and values in sampling")
    prompts_per_chunk: int = Field(
        default=16, ge=1, description="prompts sampled together; a killed run loses at most these"
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
