"""The settings of `rounds:` in a recipe.

    rounds:
      {count: 3, policy: dpo, start: base, labels: all, stop: {win_rate_over: 0.5, patience: 1}}

docs/rounds.md explains them.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from rlaif.settings import SettingsModel


class StopConfig(SettingsModel):
    """When rounds end: after `patience` rounds in a row without a gain over the round before."""

    win_rate_over: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="a round gains if the 95 % interval of its win rate against the round before, "
        "by the first judge, lies above this",
    )
    patience: int = Field(
        default=1, ge=1, description="rounds in a row without a gain that end the rounds"
    )


class RoundsConfig(SettingsModel):
    """A part of the recipe's graph that is repeated, each time with the policy of the round before.

    The part is what leads from samples of the start to `policy`.
    """

    count: int = Field(ge=1, le=99, description="rounds at most")
    policy: str = Field(
        default="",
        description="the stage whose policy a round hands on; may be left out where only one stage "
        "trains a policy that no other one takes",
    )
    start: Literal["base", "last"] = Field(
        default="base",
        description="what training begins from in every round: base, the model that the first "
        "round begins from; last, the policy of the round before (base: arXiv:2505.18126)",
    )
    labels: Literal["all", "last"] = Field(
        default="all", description="what a round trains on: data of all rounds so far, or its own"
    )
    pairs: Literal["extremes", "disjoint"] = Field(
        default="disjoint",
        description="setting `pairs` of the label stages in a round: the best response to a prompt "
        "against the worst (arXiv:2405.07863), or pairs that share no response",
    )
    parts: int | None = Field(
        default=None,
        ge=1,
        description="equal parts of the training prompts, of which each round takes the next one; "
        "by default `count`. More leave prompts for a higher count later",
    )
    stop: StopConfig | None = Field(
        default=StopConfig(), description="when to stop before `count`; null: never"
    )
    judges: tuple[str, ...] = Field(
        default=(),
        description="what judges a round's policy, the first one deciding; by default the models "
        "called `second` (where there is one) and `judge`",
    )
    reward: str = Field(
        default="",
        description="a stage whose reward model scores the policy of its round, too; by default "
        "the one that leads to `policy`, if there is one",
    )
    answers: dict[str, Any] = Field(
        default_factory=dict,
        description="settings with which policies answer the held-out prompts, over those of the "
        "first stage that samples; n is 1",
    )

    @model_validator(mode="after")
    def _require_enough_parts(self) -> RoundsConfig:
        if self.parts is not None and self.parts < self.count:
            raise ValueError(
                f"parts={self.parts}: less than count={self.count}, so that prompts would be used "
                "twice; raise parts, or remove it"
            )
        return self
