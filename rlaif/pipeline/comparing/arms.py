"""The methods of a comparison by name, and the settings of each from a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from constitution.errors import UserError, expected_one_of
from rlaif.algorithms.ppo.config import OF_JUDGE, PPOConfig, unread_by
from rlaif.algorithms.ppo.estimators import ESTIMATORS

GROUP = 4
"""Responses to a prompt where an arm compares several and the recipe's PPO has one."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A method: the kind of its stages, what it learns from, and settings that make it this one."""

    kind: str
    needs_reward: bool
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: str = ""  # the input that takes the labels

    @property
    def trains(self) -> bool:
        """Whether there is a training, which a budget can end."""
        return self.kind != "best_of_n"


ARMS: dict[str, Arm] = {
    "sft": Arm("sft", needs_reward=False, data="data"),
    "dpo": Arm("dpo", needs_reward=False, data="labels"),
    "ppo": Arm("ppo", needs_reward=True, settings={"advantages": "gae"}),
    "rloo": Arm("ppo", needs_reward=True, settings={"advantages": "rloo"}),
    "grpo": Arm("ppo", needs_reward=True, settings={"advantages": "grpo"}),
    "rest": Arm("rest", needs_reward=True),
    "best_of_n": Arm("best_of_n", needs_reward=True),
}
"""Name → arm. ppo, rloo and grpo differ in their advantages alone."""


def arms_of(text: str) -> tuple[str, ...]:
    """The names in "sft,dpo,ppo". Raises UserError for an unknown or repeated one, or none."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise UserError(f"--arms: no arm is named; known: {', '.join(ARMS)}")
    for name in names:
        if name not in ARMS:
            raise UserError(f"--arms: unknown arm {name!r}; {expected_one_of(name, ARMS)}")
        if names.count(name) > 1:
            raise UserError(f"--arms: {name} is named twice; remove one")
    return names


def settings_of(arm: Arm, stages: Mapping[str, Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    """(the stage whose settings the arm takes, these settings): the recipe's first stage of the
    kind, one with the same advantages if there is one; ("", the arm's own) where it has none.

    stages: the recipe's, as written. Inputs, seeds and the guard of PPO are left out, and settings
    that only another estimator reads.
    """
    alike = [name for name, stage in stages.items() if stage.get("kind") == arm.kind]
    advantages = arm.settings.get("advantages", "")
    default = PPOConfig.model_fields["advantages"].default
    same = [name for name in alike if stages[name].get("advantages", default) == advantages]
    name = next(iter([*same, *alike]), "")
    left_out = {"kind", *_INPUTS, "seed", *OF_JUDGE}
    kept = {key: value for key, value in stages.get(name, {}).items() if key not in left_out}
    if advantages:
        estimator = ESTIMATORS[str(advantages)]
        kept = {key: value for key, value in kept.items() if key not in unread_by(estimator)}
        if kept.get("group_size", 1) < estimator.min_group_size:
            kept |= _in_groups(kept)
    return name, {**kept, **arm.settings}


_INPUTS = ("model", "reward", "labels", "data", "judge", "samples", "judging")


def _in_groups(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As many responses in an iteration, in groups that can be compared."""
    default = PPOConfig.model_fields["prompts_per_iteration"].default
    prompts = settings.get("prompts_per_iteration", default)
    return {"group_size": GROUP, "prompts_per_iteration": max(1, prompts // GROUP)}


def describe(names: Sequence[str], seeds: int) -> str:
    """The arms and their number of trainings, for a person."""
    trainings = seeds * sum(ARMS[name].trains for name in names)
    return f"{len(names)} arms ({', '.join(names)}), {trainings} trainings"
