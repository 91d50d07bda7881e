"""Settings of `rlaif sample`. Imports no torch."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from hardware.dtypes import Dtype
from rlaif.batching.chat import ChatTemplateKwargs
from rlaif.generation.engines import EngineChoice, engine_choices
from rlaif.settings import SettingsModel


class ResponseConfig(SettingsModel):
    """How one response is drawn; the default is the policy's own distribution, as PPO and DPO
    assume."""

    renamed: ClassVar[dict[str, str]] = {"max_tokens": "max_new_tokens"}

    max_new_tokens: int = Field(
        128, ge=1, description="longest response, tokens, its end included (ours)"
    )
    temperature: float = Field(
        1.0,
        ge=0,
        description="factor of sampling; 1: the policy's own distribution, 0: greedy (ours)",
    )
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the probability that is kept, the nucleus; 1: all (ours; "
        "arXiv:1904.09751)",
    )
    seed: int = Field(0, description="seed that everything is drawn from (ours)")
    engine: EngineChoice = Field(
        "auto", description="what samples; auto: vLLM where it is installed (ours)"
    )
    dtype: Dtype = Field(
        "auto",
        description="number format of the weights; auto: bfloat16 where the hardware multiplies "
        "in it, else float32 (ours)",
    )
    prompts_per_chunk: int = Field(
        16, ge=1, description="prompts sampled together; a killed run loses at most these (ours)"
    )
    kv_cache_gib: float = Field(
        1.0, gt=0, description="most GiB of keys and values held at a time (ours)"
    )
    chat_template_kwargs: ChatTemplateKwargs = Field(
        default_factory=dict,
        description="variables for the model's chat template, e.g. {enable_thinking: false}; one "
        "that the template does not read is an error (ours)",
    )

    @classmethod
    def choices(cls) -> dict[str, tuple[str, ...]]:
        """The names of the sampling engines."""
        return {"engine": engine_choices()}


class SamplingConfig(ResponseConfig):
    """Settings of sampling."""

    n: int = Field(2, ge=1, description="responses per prompt; a preference needs two (ours)")

    @model_validator(mode="after")
    def _greedy_has_one_answer(self) -> Self:
        if self.temperature == 0 and self.n > 1:
            raise ValueError(
                "temperature 0 gives the same response every time: set n to 1, or a temperature"
            )
        return self
