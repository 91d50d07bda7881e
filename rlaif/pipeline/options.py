"""What stages can say besides their inputs and the settings of their algorithm."""

from __future__ import annotations

from typing import Any

from pydantic import Field, PositiveInt, model_validator

from judge_service.types import JudgeOptions
from rlaif.data.prompt_split import HELD_OUT, TRAIN
from rlaif.settings import SettingsModel


class StageOptions(SettingsModel):
    """Nothing; the base of what a kind of stage adds."""


class PromptSelection(SettingsModel):
    """Some of the recipe's prompts, written `train`, or {split: train, kind: [harmful]}."""

    split: str = Field(default=TRAIN, description="train or heldout, as the recipe splits them")
    kind: tuple[str, ...] = Field(default=(), description="only of these kinds; all by default")
    topic: tuple[str, ...] = Field(default=(), description="only of these topics; all by default")
    part: tuple[PositiveInt, PositiveInt] | None = Field(
        default=None,
        description="[2, 3]: the second of three parts, which share no prompt; all by default",
    )

    @model_validator(mode="after")
    def _part_exists(self) -> PromptSelection:
        if self.part is not None and self.part[0] > self.part[1]:
            raise ValueError(
                f"part: there is no part {self.part[0]} of {self.part[1]}; give [number, of]"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        return {"split": data} if isinstance(data, str) else data


class PromptOptions(StageOptions):
    """Which prompts a stage works on."""

    prompts: PromptSelection = Field(
        default=PromptSelection(), description="train, heldout, or {split:, kind:, topic:}"
    )


class HeldOutPromptOptions(StageOptions):
    """Which prompts a stage works on; the held-out ones by default."""

    prompts: PromptSelection = Field(
        default=PromptSelection(split=HELD_OUT), description="train, heldout, or {split:, kind:}"
    )


class ConstitutionOptions(StageOptions):
    """By which constitution a stage judges."""

    constitution: str = Field(
        default="", description="a shipped name or a YAML file; by default the recipe's"
    )


class JudgingConfig(SettingsModel):
    """Settings of the judge's comparisons."""

    sample_principles: int | None = Field(
        default=None, ge=1, description="principles drawn per pair, seeded; all by default"
    )
    seed: int = Field(default=0, description="of the draw of principles")

    def options(self) -> JudgeOptions:
        """The same as options of the judge client, for work in bulk."""
        return JudgeOptions(
            sample_principles=self.sample_principles, seed=self.seed, interactive=False
        )
