"""The recipe that a recipe with rounds stands for: a stage for every stage of every round.

    round-00/answers       the start answers the held-out prompts
    round-01/samples       the repeated stages, on the round's part of the training prompts
    round-01/labels
    round-01/dpo
    round-01/answers       the policy answers the held-out prompts
    round-01/evaluation    it is judged against the start and the round before; may end the rounds
    round-02/samples …     from the policy of round-01
    dpo                    the model of the round that is kept; other stages take it as ever

What comes out is a recipe like any other: it is checked, run, resumed and drawn as they are. Only
whether a round is needed is decided while it runs, by the evaluation of the round before (its
`gate`). Names are folders: `round-01/dpo`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from rlaif.data.prompt_split import HELD_OUT, TRAIN
from rlaif.pipeline.options import PromptSelection
from rlaif.pipeline.recipe import Recipe, RecipeError
from rlaif.pipeline.rounds.config import RoundsConfig
from rlaif.pipeline.rounds.loop import (
    RoundLoop,
    Written,
    find_loop,
    inputs_of,
    kind_of,
    names_in,
    stage_in,
    takes_data,
    trains,
    written_stages,
)
from rlaif.pipeline.stage import ArtifactType

ANSWERS, EVALUATION = "answers", "evaluation"
_ROUND = re.compile(r"round-(\d\d)/")


class ExpandedRecipe(Recipe):
    """A recipe whose rounds are stages, with names such as `round-01/dpo`."""


def in_round(number: int, name: str) -> str:
    """The name of a stage in a round.

    >>> in_round(1, "dpo")
    'round-01/dpo'
    """
    return f"round-{number:02d}/{name}"


def name_as_written(name: str) -> str:
    """The name in the recipe of a stage in a round.

    >>> name_as_written("round-01/dpo")
    'dpo'
    """
    return _ROUND.sub("", name, count=1)


def gate_of(name: str) -> str:
    """The stage that decides whether a stage of a round is needed: the evaluation of the round
    before; "" where it always is.

    >>> gate_of("round-02/dpo"), gate_of("round-01/dpo"), gate_of("dpo")
    ('round-01/evaluation', '', '')
    """
    found = _ROUND.match(name)
    number = int(found[1]) if found else 0
    return in_round(number - 1, EVALUATION) if number > 1 else ""


def expanded(recipe: Recipe) -> Recipe:
    """The recipe itself where it has no rounds, else the one it stands for.

    Its kinds and references are known to be valid. Raises RecipeError as `find_loop`, and where a
    stage outside the rounds takes something else from them than the policy that they keep.
    """
    if recipe.rounds is None:
        return recipe
    written, loop = written_stages(recipe), find_loop(recipe, recipe.rounds)
    _require_names(recipe, loop)
    stages: dict[str, Any] = {}
    minutes: dict[str, float] = {}
    for name, stage in written.items():
        if name == loop.stages[0]:
            for each, made, took in _rounds(recipe, recipe.rounds, loop, written):
                stages[each] = made
                if took:
                    minutes[each] = took
        if name not in loop.stages:
            stages[name] = _outside(name, stage, written, loop, recipe.rounds)
            if name in recipe.minutes:
                minutes[name] = recipe.minutes[name]
    own = set(loop.stages) - {loop.policy}
    numbers = range(1, recipe.rounds.count + 1)
    results = [
        each
        for name in recipe.results
        for each in ([in_round(n, name) for n in numbers] if name in own else [name])
    ]
    changed = {"stages": stages, "minutes": minutes, "results": results, "rounds": None}
    return ExpandedRecipe.model_validate({**recipe.model_dump(exclude={*changed}), **changed})


def _require_names(recipe: Recipe, loop: RoundLoop) -> None:
    """Raises RecipeError for a stage whose name or folder the rounds need."""
    for name in recipe.stages:
        if (name in loop.stages and name in (ANSWERS, EVALUATION)) or re.fullmatch(
            r"(?i)round-\d\d", name
        ):
            raise RecipeError(
                f"stages.{name}: rounds need this name for a stage or folder of their own; rename "
                "yours"
            )


# ── the stages of the rounds ─────────────────────────────────────────────────────────────────


def _rounds(
    recipe: Recipe, rounds: RoundsConfig, loop: RoundLoop, written: Written
) -> Iterator[tuple[str, dict[str, Any], float]]:
    """(name, stage, minutes; 0 where they are not known) of every stage of the rounds."""
    how = _answering(rounds, loop, written)
    yield in_round(0, ANSWERS), {**how, "model": loop.start}, 0.0
    for number in range(1, rounds.count + 1):
        for name in loop.stages:
            took = recipe.minutes.get(name, 0.0)
            if rounds.labels == "all" and trains(written[name]):
                took *= number  # on the data of so many rounds
            yield in_round(number, name), _repeated(name, number, rounds, loop, written), took
        policy = in_round(number, loop.policy)
        yield in_round(number, ANSWERS), {**how, "model": policy}, 0.0
        yield in_round(number, EVALUATION), _evaluation(number, recipe, rounds, loop), 0.0
    numbers = range(1, rounds.count + 1)
    kept = {
        "kind": "keep_round",
        "policy": [in_round(n, loop.policy) for n in numbers],
        "evaluations": [in_round(n, EVALUATION) for n in numbers],
    }
    yield loop.policy, kept, 0.0


def _answering(rounds: RoundsConfig, loop: RoundLoop, written: Written) -> dict[str, Any]:
    """How policies answer the held-out prompts: as the first stage that samples, once."""
    sampling = (written[n] for n in loop.stages if n in loop.draws)
    like: Mapping[str, Any] = next((s for s in sampling if s["kind"] == "sample"), {})
    settings = {k: v for k, v in like.items() if k not in ("kind", "model", "prompts", "n")}
    return {**settings, "n": 1, **rounds.answers, "kind": "sample", "prompts": HELD_OUT}


def _repeated(
    name: str, number: int, rounds: RoundsConfig, loop: RoundLoop, written: Written
) -> dict[str, Any]:
    """A stage of a round."""
    stage = dict(written[name])
    for slot, given in inputs_of(stage).items():
        several = rounds.labels == "all" and takes_data(stage, slot)
        since = 1 if several else number
        stage[slot] = _in_rounds(given, range(since, number + 1), loop, written)
    begins = trains(stage) and rounds.start == "last"
    if number > 1 and (name in loop.draws or begins) and stage.get("model") == loop.start:
        stage["model"] = in_round(number - 1, loop.policy)
    if name in loop.draws and "prompts" in kind_of(stage).options_class.model_fields:
        stage["prompts"] = _part(stage.get("prompts", TRAIN), number, rounds)
    if stage["kind"] == "label":
        stage = {"pairs": rounds.pairs, **stage}
    return stage


def _in_rounds(given: Any, numbers: range, loop: RoundLoop, written: Written) -> Any:
    """An input whose references to repeated stages are those of these rounds; weights are shared
    by the rounds."""

    def these(text: str) -> list[str]:
        name = stage_in(text, written)
        return [in_round(n, text) for n in numbers] if name in loop.stages else [text]

    if isinstance(given, str):
        found = these(given)
        return found[0] if len(found) == 1 else found
    if isinstance(given, Mapping):
        return {
            each: _shared(weight, len(these(text)))
            for text, weight in given.items()
            for each in these(text)
        }
    return [each for text in given for each in these(text)]


def _shared(weight: Any, rounds: int) -> Any:
    """A weight divided among so many rounds, also one that moves over a training."""
    if rounds == 1:
        return weight
    return [w / rounds for w in weight] if isinstance(weight, list | tuple) else weight / rounds


def _part(prompts: Any, number: int, rounds: RoundsConfig) -> dict[str, Any]:
    """The round's own part of a selection of prompts."""
    chosen = PromptSelection.model_validate(prompts).model_dump()
    return {**chosen, "part": (number, rounds.parts or rounds.count)}


def _evaluation(
    number: int, recipe: Recipe, rounds: RoundsConfig, loop: RoundLoop
) -> dict[str, Any]:
    judges = rounds.judges or tuple(n for n in ("second", "judge") if n in recipe.models)
    stop = rounds.stop
    made: dict[str, Any] = {
        "kind": "evaluate_round",
        "policy": in_round(number, loop.policy),
        "start": loop.start,
        "answers": in_round(number, ANSWERS),
        "start_answers": in_round(0, ANSWERS),
        "number": number,
        "win_rate_over": None if stop is None else stop.win_rate_over,
        "patience": 1 if stop is None else stop.patience,
    }
    if judges:
        made["judges"] = list(judges)
    if loop.reward:
        made["reward"] = in_round(number, loop.reward)
    if number > 1:
        made["last_answers"] = in_round(number - 1, ANSWERS)
        made["before"] = in_round(number - 1, EVALUATION)
    return made


# ── the rest of the recipe ───────────────────────────────────────────────────────────────────


def _outside(
    name: str, stage: Mapping[str, Any], written: Written, loop: RoundLoop, rounds: RoundsConfig
) -> dict[str, Any]:
    """A stage that runs once; of the rounds it takes the policy, a report anything."""
    changed = dict(stage)
    numbers = range(1, rounds.count + 1)
    for slot, given in inputs_of(stage).items():
        for text in names_in(given):
            other = stage_in(text, written)
            if other not in loop.stages or other == loop.policy:
                continue
            if kind_of(stage).gives is not ArtifactType.REPORT:
                raise RecipeError(
                    f"stages.{name}.{slot}: {text} is repeated in every round; take {loop.policy}, "
                    "which is the policy that the rounds keep, or remove it"
                )
            rest = [each for each in names_in(changed[slot]) if each != text]
            changed[slot] = [*rest, *(in_round(n, text) for n in numbers)]
    return changed
