"""Which stages of a recipe its rounds repeat, and whether these feed themselves.

    start       what the first round samples from, and what its trainings begin from
    draws       a stage with an input `model` that makes no model, such as `sample`, and names start
    repeated    what leads to the policy (or to the reward model that scores it) and draws from the
                start or takes something from such a stage; the rest of the recipe runs once

In the next round, what draws from the start draws from the policy. Without such a stage every round
would be the same training again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from constitution.errors import nearest
from rlaif.pipeline.kinds import KINDS
from rlaif.pipeline.recipe import Recipe, RecipeError
from rlaif.pipeline.rounds.config import RoundsConfig
from rlaif.pipeline.stage import ArtifactType, Stage

Written = Mapping[str, Mapping[str, Any]]
"""Stages as a recipe has them: name → kind, inputs and settings."""

_MODELS = (
    ArtifactType.MODEL,
    ArtifactType.POLICY,
    ArtifactType.REWARD_MODEL,
    ArtifactType.SAMPLER,
)
_DATA = (ArtifactType.PREFERENCES, ArtifactType.DEMONSTRATIONS, ArtifactType.SAMPLES)


@dataclass(frozen=True, slots=True)
class RoundLoop:
    """What rounds repeat. stages: in the order of the recipe; draws: those that sample from the
    policy; reward: the stage whose reward model scores it, "" for none."""

    policy: str
    start: str
    stages: tuple[str, ...]
    draws: frozenset[str]
    reward: str


def find_loop(recipe: Recipe, rounds: RoundsConfig) -> RoundLoop:
    """The loop of a recipe. Raises RecipeError for an unknown policy or reward model, stages that
    do not feed themselves, and samples that can never make a pair."""
    written = written_stages(recipe)
    policy = _policy(written, rounds.policy)
    before = _before(policy, written)
    start, draws = _start(policy, before, written)
    reward = _reward(rounds.reward, before, written)
    leading = {policy, *before, *([reward, *_before(reward, written)] if reward else [])}
    repeated = {name for name in leading if name in draws or draws & set(_before(name, written))}
    if reward and reward not in repeated:
        raise RecipeError(
            f"rounds.reward: {reward} takes nothing that a round makes, so it is no reward model "
            "of a round; let it take its labels, or remove this setting"
        )
    _require_pairs(draws & repeated, repeated, written)
    stages = tuple(name for name in written if name in repeated)
    return RoundLoop(policy, start, stages, frozenset(draws & repeated), reward)


def written_stages(recipe: Recipe) -> Written:
    """The recipe's stages, without those that it leaves out."""
    return {name: stage for name, stage in recipe.stages.items() if stage is not None}


def kind_of(stage: Mapping[str, Any]) -> type[Stage]:
    """The class of a stage as written, whose kind is known."""
    return KINDS[stage["kind"]]


def trains(stage: Mapping[str, Any]) -> bool:
    """Whether a stage makes a policy or reward model from another model."""
    kind = kind_of(stage)
    return "model" in kind.takes and kind.gives in _MODELS


def takes_data(stage: Mapping[str, Any], slot: str) -> bool:
    """Whether a training takes data of several sources in this input."""
    found = kind_of(stage).takes[slot]
    return trains(stage) and (found.many or found.weighted) and bool(set(found.takes) & set(_DATA))


def inputs_of(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Input → what is written in it."""
    return {slot: stage[slot] for slot in kind_of(stage).takes if stage.get(slot) is not None}


def names_in(written: Any) -> list[str]:
    """The references in an input as it is written: a name, a list, or names with weights."""
    return [written] if isinstance(written, str) else [str(each) for each in written]


def stage_in(text: str, written: Mapping[str, Any]) -> str:
    """The stage that a reference names, also one to a part of it; "" for anything else."""
    name = text if text in written else text.partition(".")[0]
    return name if name in written else ""


def _before(name: str, written: Written) -> list[str]:
    """All stages that a stage depends on."""
    found: dict[str, None] = {}
    waiting = [name]
    while waiting:
        for each in _references(written[waiting.pop()], written):
            if each not in found:
                found[each] = None
                waiting.append(each)
    return list(found)


def _references(stage: Mapping[str, Any], written: Written) -> Iterator[str]:
    for given in inputs_of(stage).values():
        yield from filter(None, (stage_in(text, written) for text in names_in(given)))


def _policy(written: Written, named: str) -> str:
    """The stage whose policy is handed on."""
    policies = [n for n, s in written.items() if kind_of(s).gives is ArtifactType.POLICY]
    if named and named not in written:
        hint = nearest(named, written) or f"expected one of {', '.join(policies)}"
        raise RecipeError(f"rounds.policy: unknown stage {named!r}; {hint}")
    if named and named not in policies:
        raise RecipeError(
            f"rounds.policy: {named} gives {kind_of(written[named]).gives}, not a policy; expected "
            f"one of {', '.join(policies) or 'the stages that train a policy'}"
        )
    if named:
        return named
    begun = {text for s in written.values() if trains(s) for text in names_in(s.get("model", ()))}
    last = [name for name in policies if name not in begun]
    if len(last) == 1:
        return last[0]
    why = f"several stages train one ({', '.join(last)})" if last else "no stage trains one"
    remedy = "name the stage that hands it on" if last else "add such a stage, or remove rounds"
    raise RecipeError(f"rounds.policy: a round makes one policy, and {why}; {remedy}")


def _start(policy: str, before: list[str], written: Written) -> tuple[str, set[str]]:
    """(the start, the stages before the policy that draw from it)."""
    tried: list[str] = []
    name: str | None = policy
    while name is not None:
        start = str(written[name].get("model", "policy"))
        tried.append(start)
        draws = {each for each in before if _draws_from(written[each]) == start}
        if draws:
            return start, draws
        name = start if start in written and "model" in kind_of(written[start]).takes else None
    raise RecipeError(
        f"rounds: the stages that lead to {policy} do not feed themselves: none of "
        f"{', '.join(before) or 'them'} samples from {tried[0]}, where {policy} begins, so every "
        f"round would be the same; let what {policy} learns from come from a stage such as "
        f"{{kind: sample, model: {tried[0]}}}, or remove rounds"
    )


def _draws_from(stage: Mapping[str, Any]) -> str | None:
    """What a stage samples from; None for one that does not sample."""
    kind = kind_of(stage)
    draws = "model" in kind.takes and kind.gives not in _MODELS
    return str(stage.get("model")) if draws else None


def _reward(named: str, before: list[str], written: Written) -> str:
    """The stage whose reward model scores the policies."""
    rewards = [n for n, s in written.items() if kind_of(s).gives is ArtifactType.REWARD_MODEL]
    if named and named not in rewards:
        hint = nearest(named, rewards) or f"expected one of {', '.join(rewards) or 'none: add one'}"
        raise RecipeError(f"rounds.reward: no stage {named!r} that trains a reward model; {hint}")
    return named or next((name for name in rewards if name in before), "")


def _require_pairs(draws: set[str], repeated: set[str], written: Written) -> None:
    """Raises RecipeError for samples of one response that are to be compared."""
    labels = (n for n in repeated if kind_of(written[n]).gives is ArtifactType.PREFERENCES)
    compared = {each for name in labels for each in _references(written[name], written)}
    for name in sorted(draws & compared):
        if written[name].get("n") == 1:
            raise RecipeError(
                f"stages.{name}.n: 1 response to a prompt makes no pair, so a round has no labels; "
                "give 2 or more"
            )
