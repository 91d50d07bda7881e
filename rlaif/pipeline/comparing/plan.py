"""The recipe of a comparison, made of another recipe.

    trunk        the stages that the labels and the start come from, as the recipe has them, once
    reward       one reward model, where an arm needs it
    ARM-SEED     a training for every arm and seed: same labels, prompts and start; seeds differ
    responses    all of them, and the start, answer the same held-out prompts
    evaluation   by the recipe's judges, against the start, and by rules
    comparison   head to head, the table, the page, the last line

What comes out is a recipe like any other: it is checked, run, resumed and drawn as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from constitution.errors import nearest
from rlaif.pipeline.comparing.arms import ARMS, Arm, settings_of
from rlaif.pipeline.comparing.budget import Budget
from rlaif.pipeline.graph import build_graph
from rlaif.pipeline.recipe import Recipe, RecipeError
from rlaif.pipeline.stage import Stage

RESPONSES, EVALUATION, COMPARISON = "responses", "evaluation", "comparison"
_LEARNING = ("reward", "dpo", "sft", "ppo", "rest")
_EVALUATED = ("judges", "constitution", "judge_worth", "sample_principles", "seed")


@dataclass(frozen=True, slots=True)
class ComparisonRequest:
    """What is to be compared. labels, start: names in the recipe, "" for those that its trainings
    take; left_out: policy → why it is not there (its training failed)."""

    arms: tuple[str, ...]
    seeds: int
    budget: Budget = field(default_factory=Budget)
    labels: str = ""
    start: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ComparisonPlan:
    """The recipe of a comparison. policies: by arm, the stage of each seed; settings: of which
    stage of the recipe each arm has its settings, "" for the defaults; labels: the label stage that
    the budget of reads is for, "" where labels are a file."""

    recipe: Recipe
    policies: Mapping[str, tuple[str, ...]]
    settings: Mapping[str, str]
    start: str
    labels: str


def comparison_plan(recipe: Recipe, request: ComparisonRequest) -> ComparisonPlan:
    """The plan. Raises RecipeError where the recipe does not say which labels or start to take, and
    for a budget of reads where no stage labels."""
    if recipe.rounds is not None:
        raise RecipeError(
            f"{recipe.name}: methods are compared in one round; add rounds=null, or run the recipe "
            "with `rlaif run`"
        )
    written = {name: dict(stage) for name, stage in recipe.stages.items() if stage is not None}
    stages = {stage.name: stage for stage in build_graph(recipe, Path(recipe.name)).stages}
    labels = _shared(written, "labels", request.labels, recipe)
    start = _shared(written, "model", request.start, recipe)
    arms = {name: ARMS[name] for name in request.arms}
    policies = {
        name: tuple(p for s in range(request.seeds) if (p := f"{name}-{s}") not in request.left_out)
        for name in arms
    }
    policies = {name: own for name, own in policies.items() if own}

    # 1. What all arms share.
    trunk = _ancestors([*_names(labels), *_names(start)], stages, written)
    derived = {name: dict(written[name]) for name in written if name in trunk}
    labeling = [name for name in _names(labels) if derived.get(name, {}).get("kind") == "label"]
    if request.budget.reads is not None:
        derived[_bounded(labeling)]["budget_reads"] = request.budget.reads
    minutes = {name: recipe.minutes[name] for name in derived if name in recipe.minutes}
    reward = _reward(written, derived, start, labels)
    if any(ARMS[name].needs_reward for name in policies):
        _add(derived, *reward)
        _set_minutes(minutes, reward[0], recipe, _name_of(written, "reward"))

    # 2. The arms.
    settings: dict[str, str] = {}
    for name, own in policies.items():
        settings[name], given = settings_of(arms[name], written)
        for policy in own:
            seed = int(policy.rpartition("-")[2])
            inputs = _inputs(arms[name], start, labels, reward[0])
            limits = request.budget.of_training if arms[name].trains else {}
            _add(derived, policy, {**inputs, **given, **limits, "seed": seed})
            _set_minutes(minutes, policy, recipe, settings[name])

    # 3. Answers, evaluation, comparison.
    every = [policy for own in policies.values() for policy in own]
    for name, stage in _ending(written, start, policies, request).items():
        _add(derived, name, stage)
        before = max(1, len(_first(written, "respond").get("policies", ())) - 1)
        more = len(every) / before  # policies than the recipe's own evaluation has
        _set_minutes(minutes, name, recipe, _name_of(written, stage["kind"]), more)
    changed = {"name": f"{recipe.name}-compare"[:100], "stages": derived, "minutes": minutes}
    models = {k: m for k, m in recipe.models.items() if k in _used_models(derived, recipe)}
    base = recipe.model_dump(exclude={"fit", "results", "models", *changed})
    made = Recipe.model_validate({**base, **changed, "models": models})
    return ComparisonPlan(
        made, policies, settings, ", ".join(_names(start)), labeling[0] if labeling else ""
    )


# ── what the recipe says ─────────────────────────────────────────────────────────────────────


def _shared(written: Mapping[str, Any], slot: str, chosen: str, recipe: Recipe) -> Any:
    """What the recipe's trainings take in a slot, or what is chosen instead."""
    option = "labels" if slot == "labels" else "start"
    known = {n: s for n, s in written.items() if s.get("kind") in _LEARNING}
    if chosen:
        if chosen not in written and chosen not in recipe.models:
            hint = nearest(chosen, [*written, *recipe.models]) or "give the name of a stage"
            raise RecipeError(f"--{option} {chosen}: unknown name; {hint}")
        return chosen
    found = {str(_names(s[slot])): s[slot] for s in known.values() if slot in s}
    if slot == "labels" and not found:
        found = {n: n for n, s in written.items() if s.get("kind") == "label"}
    if slot == "model" and not found:
        found = {s["model"]: s["model"] for s in written.values() if s.get("kind") == "sample"}
    if len(found) == 1:
        return next(iter(found.values()))
    several = "; ".join(", ".join(_names(each)) for each in found.values())
    why = f"its trainings differ ({several})" if found else "it has none"
    raise RecipeError(
        f"{recipe.name}: a comparison needs the same {option} for all arms, and {why}; name "
        f"them with --{option}"
    )


def _names(reference: Any) -> list[str]:
    """The names in an input as it is written: a name, a list, or names with weights."""
    return [reference] if isinstance(reference, str) else list(map(str, reference))


def _ancestors(
    names: Sequence[str], stages: Mapping[str, Stage], written: Mapping[str, Any]
) -> set[str]:
    """The recipe's stages among these names, and all that they depend on."""
    waiting = [stages[name] for name in names if name in stages]
    found: set[str] = set()
    while waiting:
        stage = waiting.pop()
        if stage.name not in found:
            found.add(stage.name)
            waiting += stage.predecessors
    return found & written.keys()


def _bounded(labeling: Sequence[str]) -> str:
    """The stage that a budget of reads is for. Raises RecipeError unless there is one."""
    if len(labeling) != 1:
        where = f"several stages ({', '.join(labeling)})" if labeling else "a file"
        raise RecipeError(
            f"--budget reads: the labels come from {where}; name one label stage with --labels, or "
            "remove this budget"
        )
    return labeling[0]


def _first(written: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The recipe's first stage of a kind; empty where it has none."""
    return dict(written.get(_name_of(written, kind), {}))


def _name_of(written: Mapping[str, Any], kind: str) -> str:
    return next((name for name, stage in written.items() if stage.get("kind") == kind), "")


def _set_minutes(
    minutes: dict[str, float], name: str, recipe: Recipe, like: str, times: float = 1.0
) -> None:
    """The measured minutes of the recipe's stage that a stage is like, where it has them."""
    if like in recipe.minutes:
        minutes[name] = recipe.minutes[like] * times


# ── the stages of the comparison ─────────────────────────────────────────────────────────────


def _reward(
    written: Mapping[str, Any], trunk: Mapping[str, Any], start: Any, labels: Any
) -> tuple[str, dict[str, Any]]:
    """(name, stage) of the reward model on the shared labels, with the settings of the recipe's."""
    own, name = _first(written, "reward"), _name_of(written, "reward") or "reward"
    name = f"{name}-shared" if name in trunk else name  # the labels come from another one
    return name, {"kind": "reward", **own, "model": start, "labels": labels}


def _inputs(arm: Arm, start: Any, labels: Any, reward: str) -> dict[str, Any]:
    inputs = {"kind": arm.kind, "model": start}
    if arm.data:
        inputs[arm.data] = labels
    return inputs | ({"reward": reward} if arm.needs_reward else {})


def _ending(
    written: Mapping[str, Any],
    start: Any,
    policies: Mapping[str, tuple[str, ...]],
    request: ComparisonRequest,
) -> dict[str, dict[str, Any]]:
    """The last three stages. How the policies answer and who judges is the recipe's."""
    answer = {k: v for k, v in _first(written, "respond").items() if k != "policies"}
    judge = {k: v for k, v in _first(written, "evaluate").items() if k in _EVALUATED}
    every = [policy for own in policies.values() for policy in own]
    return {
        RESPONSES: {**answer, "kind": "respond", "policies": [start, *every]},
        EVALUATION: {**judge, "kind": "evaluate", "responses": RESPONSES},
        COMPARISON: {
            "kind": "compare",
            "evaluation": EVALUATION,
            "arms": {name: list(own) for name, own in policies.items()},
            "left_out": dict(request.left_out),
            "budget": request.budget.given,
        },
    }


def _add(derived: dict[str, dict[str, Any]], name: str, stage: dict[str, Any]) -> None:
    if name in derived:
        raise RecipeError(
            f"stages.{name}: a comparison needs this name for a stage of its own; rename yours"
        )
    derived[name] = stage


def _used_models(stages: Mapping[str, Any], recipe: Recipe) -> set[str]:
    """The recipe's models that these stages name, or take by default."""
    used: set[str] = set()
    for stage in stages.values():
        for value in stage.values():
            used |= set(_names(value)) if isinstance(value, str | list | tuple | dict) else set()
        if stage["kind"] == "label" and "judge" not in stage:
            used.add("judge")
        if stage["kind"] == "evaluate" and "judges" not in stage:
            used.add("second" if "second" in recipe.models else "judge")
    return used & recipe.models.keys()
