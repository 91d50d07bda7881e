"""The key `fleet` of a recipe: where its stages have their rows made."""

from __future__ import annotations

from pydantic import Field

from rlaif.settings import SettingsModel


class FleetConfig(SettingsModel):
    """A Ray cluster, and how the work is cut for it. Results do not depend on any of this."""

    ray: str = Field(
        min_length=1,
        description="the cluster: its address, auto (the one this host belongs to), or local (this "
        "host alone)",
    )
    gpus: float = Field(
        default=0,
        ge=0,
        allow_inf_nan=False,
        description="GPUs of a worker, over which its judge is split; 0: none",
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        description="processes that work at a time; null: all that fit, without GPUs one a node",
    )
    rows: int = Field(
        default=2000, ge=1, description="prompts or responses of a shard, about: what may be lost"
    )
    stages: tuple[str, ...] = Field(
        default=(),
        description="stages that run there; by default all that sample, label or revise and can",
    )
