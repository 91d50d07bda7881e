"""Settings of models under training: the adapters' shape and the dtype. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlaif.settings import SettingsModel

TrainDtype = Literal["auto", "float32", "bfloat16"]  # what training computes in; float16 overflows


class LoraConfig(SettingsModel):
    """Shape of the LoRA adapters (arXiv:2106.09685).

    Defaults: rank 16 and alpha = 2 rank, on all linear layers, as QLoRA found necessary to match
    full fine-tuning (arXiv:2305.14314, section 4).
    """

    rank: int = Field(
        default=16, ge=1, description="rank of the update of each layer, dimensions (ours)"
    )
    alpha: float = Field(
        default=32.0,
        gt=0,
        description="factor of the update, which is scaled by alpha / rank (ours: twice the rank)",
    )
    rslora: bool = Field(
        default=False,
        description="scale the update by alpha / √rank instead, so that high ranks learn as fast "
        "(arXiv:2312.03732)",
    )
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the adapter's inputs that are zeroed in training steps; not in PPO "
        "(arXiv:2305.14314: 0.05 or 0.1; ours: 0)",
    )
    targets: str | tuple[str, ...] = Field(
        default="all-linear",
        description="adapted layers: all-linear, but no routers and fused experts; or a name, or "
        "[several] (arXiv:2305.14314, section 4)",
    )
