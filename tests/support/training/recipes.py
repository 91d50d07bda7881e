"""A small recipe with a stage of every kind, to be varied."""

from __future__ import annotations

import copy
from typing import Any

from rlaif.pipeline.recipe import Recipe

STAGES: dict[str, dict[str, Any]] = {
    "samples": {"kind": "sample", "model": "policy"},
    "labels": {"kind": "label", "samples": "samples"},
    "sft": {"kind": "sft", "model": "policy", "data": "labels"},
    "reward": {"kind": "reward", "model": "policy", "labels": "labels"},
    "dpo": {"kind": "dpo", "model": "policy", "labels": "labels"},
    "ppo": {"kind": "ppo", "model": "policy", "reward": "reward"},
    "rest": {"kind": "rest", "model": "policy", "reward": "reward"},
    "responses": {"kind": "respond", "policies": ["policy", "sft", "dpo", "ppo", "rest"]},
    "evaluation": {"kind": "evaluate", "responses": "responses", "reward": "reward"},
    "report": {"kind": "report"},
}

ONE_ROUND: dict[str, Any] = {
    "kind": "evaluate_round",
    "policy": "dpo",
    "start": "policy",
    "answers": "samples",
    "start_answers": "samples",
}


def a_recipe(stages: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    """A recipe with every kind of stage: `stages` changes some of them, and null removes one."""
    merged: dict[str, Any] = copy.deepcopy(STAGES)
    for name, stage in (stages or {}).items():
        whole = stage is None or "kind" in stage
        merged[name] = stage if whole else {**merged[name], **stage}
    base = {
        "name": "x",
        "models": {"policy": "org/policy", "judge": "org/judge"},
        "constitution": "hhh",
        "prompts": "quickstart",
        "train_prompts": 30,
        "heldout_prompts": 6,
        "stages": merged,
    }
    return Recipe.model_validate(base | changes)
