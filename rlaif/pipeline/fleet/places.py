"""Which stages of a recipe have their rows made by its fleet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from constitution.errors import nearest
from rlaif.pipeline.fleet.config import FleetConfig
from rlaif.pipeline.recipe import Recipe
from rlaif.pipeline.stage import Stage


def fleet_of(stage: Stage, recipe: Recipe) -> FleetConfig | None:
    """The fleet that makes the stage's rows; None where the stage makes them itself."""
    fleet = recipe.fleet
    if fleet is None or stage.off_fleet():
        return None
    return fleet if not fleet.stages or _written(stage) in fleet.stages else None


def where(stage: Stage, recipe: Recipe) -> str:
    """Where a stage's rows are made, for a person; "" without a fleet, or for another kind."""
    if (fleet := fleet_of(stage, recipe)) is not None:
        return f", on the Ray cluster {fleet.ray}"
    forbids = stage.off_fleet() if recipe.fleet is not None and stage.has_shards else ""
    return f", on this host: {forbids}" if forbids else ""


def fleet_problems(recipe: Recipe, stages: Sequence[Stage]) -> Iterator[str]:
    """What is wrong with `fleet`, and what to do."""
    fleet = recipe.fleet
    if fleet is None:
        return
    for name in fleet.stages:
        named = [stage for stage in stages if _written(stage) == name]
        if not named:
            known = sorted({_written(s) for s in stages if not s.off_fleet()})
            hint = nearest(name, known) or f"these can run on it: {', '.join(known) or 'none'}"
            yield f"fleet.stages: unknown stage {name!r}; {hint}"
        elif reason := named[0].off_fleet():
            yield f"fleet.stages: {name} cannot run on a fleet: {reason}; remove it from the list"
    if not fleet.stages and all(stage.off_fleet() for stage in stages):
        yield "fleet: no stage of this recipe can run on it; remove it"


def _written(stage: Stage) -> str:
    """The name in the recipe of a stage, whichever round it is of."""
    return stage.name.rpartition("/")[2]
