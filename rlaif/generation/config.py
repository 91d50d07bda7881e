"""Settings of `rlaif sample`. Imports no torch."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from hardware.dtypes import Dtype
from rlaif.generation.engines import EngineChoice
from rlaif.settings import SettingsModel


class SamplingConfig(SettingsModel):
    """Settings of sampling; the default is the policy's own distribution, as PPO and DPO assume."""

    renamed: ClassVar[dict[str, str]] = {"max_tokens": "max_new_tokens"}

    n: int = Field(2, ge=1, description="responses per prompt; a preference needs two")
    max_new_tokens: int = Field(
        128, ge=1, description="tokens a response may have, its end included"
    )
    temperature: float = Field(1.0, ge=0, description="1: the policy's own distribution; 0: greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus mass kept; 1: all")
    seed: int = Field(0, description="everything is drawn from it")
    engine: EngineChoice = Field("auto", description="auto: vLLM where it is installed")
    dtype: Dtype = Field(
        "auto",
        description="of the weights; auto: bfloat16 where the hardware multiplies in it, else "
        "float32",
    )
    prompts_per_chunk: int = Field(
        16, ge=1, description="prompts sampled together; what a killed run may lose"
    )
    kv_cache_gib: float = Field(
        1.0, gt=0, description="GiB of keys and values held at most at a time"
    )

    @model_validator(mode="after")
    def _greedy_has_one_answer(self) -> Self:
        if self.temperature == 0 and self.n > 1:
            raise ValueError(
                "temperature 0 gives the same response every time: set n to 1, or a temperature"
            )
        return self
