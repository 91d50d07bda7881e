"""A recipe's stages as a graph: references resolved, types checked, in an order that works.

    text in a slot           what it becomes
    dpo                      the stage of that name
    revisions.pairs          what else the stage `revisions` gives (Stage.parts)
    policy                   the model that the recipe calls so
    extra.parquet, a/b.jsonl a file, where the slot takes files
    judge:HOST:PORT          as it is, where the slot takes such texts

`build_graph` finds every problem before anything runs: unknown kinds, names and settings, artifacts
of the wrong type, cycles, unused stages and models, two stages that write one file.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from constitution.errors import UserError, nearest
from rlaif.pipeline.fleet.places import fleet_problems
from rlaif.pipeline.kinds import KINDS
from rlaif.pipeline.kinds.merge import MergeStage
from rlaif.pipeline.options import StageOptions
from rlaif.pipeline.recipe import ModelSpec, Recipe, RecipeError, name_problem
from rlaif.pipeline.references import Resolver, StageDraft, fits
from rlaif.pipeline.rounds.expand import ExpandedRecipe, expanded, gate_of, name_as_written
from rlaif.pipeline.stage import EVERY_STAGE, ArtifactType, Source, Stage
from rlaif.settings import configured

_KWARGS = "chat_template_kwargs"
_TRAINED = (ArtifactType.MODEL, ArtifactType.POLICY, ArtifactType.REWARD_MODEL)


@dataclass(frozen=True, slots=True)
class Graph:
    """Stages in an order in which each comes after all that it takes."""

    stages: tuple[Stage, ...]

    def __getitem__(self, name: str) -> Stage:
        """The stage of that name. Raises RecipeError."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        names = [stage.name for stage in self.stages]
        hint = nearest(name, names) or f"there are: {', '.join(names)}"
        raise RecipeError(f"unknown stage {name!r}; {hint}")

    def from_stage(self, name: str) -> list[Stage]:
        """A stage and all that depend on it, in order."""
        chosen = {self[name]}
        for stage in self.stages:
            if chosen & set(stage.predecessors):
                chosen.add(stage)
        return [stage for stage in self.stages if stage in chosen]

    def only(self, selection: Container[Stage]) -> Graph:
        """The selected stages alone, in order; what they take stays what it is."""
        return Graph(tuple(stage for stage in self.stages if stage in selection))

    @property
    def needed(self) -> list[ModelSpec]:
        """The models that these stages load: those they use, and those under what they take."""
        taken = [s for stage in self.stages for each in stage.sources.values() for s in each]
        trained = (s for s in taken if s.stage is not None and s.stage.gives in _TRAINED)
        bases = (s.untrained for s in trained)
        return _each_once([*self.models, *(spec for spec in bases if spec is not None)])

    @property
    def models(self) -> list[ModelSpec]:
        """The models that the recipe brings along and a stage uses, each once."""
        sources = (s for stage in self.stages for each in stage.sources.values() for s in each)
        return _each_once(s.origin for s in sources if isinstance(s.origin, ModelSpec))

    @property
    def judges(self) -> list[ModelSpec]:
        """The models among them that judge."""
        slots = ("judge", "judges")
        sources = (
            s for stage in self.stages for slot in slots for s in stage.sources.get(slot, ())
        )
        return _each_once(s.origin for s in sources if isinstance(s.origin, ModelSpec))

    @property
    def answering(self) -> list[ModelSpec]:
        """The models among them that answer or are trained."""
        slots = ("model", "policies", "attacker")
        sources = (
            s for stage in self.stages for slot in slots for s in stage.sources.get(slot, ())
        )
        return _each_once(s.origin for s in sources if isinstance(s.origin, ModelSpec))


def _each_once(specs: Iterable[ModelSpec]) -> list[ModelSpec]:
    found: list[ModelSpec] = []
    for spec in specs:
        if spec not in found:
            found.append(spec)
    return found


def build_graph(recipe: Recipe, folder: Path) -> Graph:
    """The recipe's stages as a graph whose stages write into `folder`.

    Raises RecipeError with every problem that was found, one per line.
    """
    recipe = without_rounds(recipe)
    stages, drafts = _resolved(recipe, folder)
    problems: list[str] = []
    _add_merges(stages)
    problems += _set_template_kwargs(stages.values())
    for stage, draft in ((stages[name], drafts[name]) for name in drafts):
        stage.sources = _with_every_stage(stage, draft, stages.values())
    for name, stage in stages.items():
        stage.gate = stages.get(gate_of(name))
    graph = Graph(tuple(_in_order(stages)))
    _hold_out(graph)
    problems += [*_unused(recipe, graph), *_written_twice(graph)]
    problems += fleet_problems(recipe, graph.stages)
    _raise(problems)
    return graph


def without_rounds(recipe: Recipe) -> Recipe:
    """The recipe with a stage for every stage of every round; itself where it has none.

    Raises RecipeError for problems of its stages, by the names that they are written with.
    """
    if recipe.rounds is not None:
        _resolved(recipe, Path(recipe.name))
    return expanded(recipe)


def _resolved(recipe: Recipe, folder: Path) -> tuple[dict[str, Stage], dict[str, StageDraft]]:
    """The stages with their sources, and what they were made from. Raises RecipeError."""
    problems: list[str] = []
    drafts = dict(_drafts(recipe, problems))
    # Settings decide which inputs a stage has, so they are read first.
    stages = {name: draft.stage(folder / name, recipe) for name, draft in drafts.items()}
    for name, draft in drafts.items():
        resolver = Resolver(recipe, stages, draft, problems)
        stages[name].sources = dict(resolver.sources())
    _raise(problems)
    problems += _refused_by_kinds(stages.values())
    _refuse_cycles(stages)
    _raise(problems)
    return stages, drafts


def _raise(problems: Sequence[str]) -> None:
    if problems:
        raise RecipeError("\n".join(problems))


# ── from YAML to stages ──────────────────────────────────────────────────────────────────────


def _drafts(recipe: Recipe, problems: list[str]) -> Iterator[tuple[str, StageDraft]]:
    for name, written in recipe.stages.items():
        try:
            _require_name(name, recipe)
            if written is not None:
                yield name, _draft(name, dict(written))
        except UserError as error:
            problems += [f"stages.{name}{_dot(line)}{line}" for line in str(error).split("\n")]
    for name in recipe.minutes.keys() - recipe.stages.keys():
        hint = nearest(name, recipe.stages) or "remove it"
        problems.append(f"minutes.{name}: unknown stage; {hint}")


def _dot(line: str) -> str:
    """Between a stage's name and a problem: the problem may begin with a setting's name."""
    return "." if re.match(r"[\w.]+: ", line) else ": "


def _require_name(name: str, recipe: Recipe) -> None:
    own = name_as_written(name) if isinstance(recipe, ExpandedRecipe) else name
    problem = name_problem(own)
    # Policies write files of their names: upper and lower case are the same file on some disks.
    if not problem and name.lower() in {model.lower() for model in recipe.models}:
        problem = "this name is taken by one of the recipe's models; choose another"
    if problem:
        raise RecipeError(problem)


def _draft(name: str, written: dict[str, Any]) -> StageDraft:
    kind = written.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        hint = nearest(str(kind), KINDS) if kind else ""
        known = hint or f"known: {', '.join(KINDS)}"
        raise RecipeError(f"unknown kind {kind!r}; {known}" if kind else f"missing kind; {known}")
    stage = KINDS[kind]
    slots, options = stage.takes.keys(), stage.options_class.model_fields.keys()
    settings = {k: v for k, v in written.items() if k not in slots and k not in options}
    try:
        checked = configured(stage.settings_class, None, settings)
    except UserError as error:
        raise _with_slots(error, stage, settings) from error
    chosen = configured(
        stage.options_class, None, {k: v for k, v in written.items() if k in options}
    )
    return StageDraft(name, stage, {k: written[k] for k in slots & written.keys()}, chosen, checked)


def _with_slots(error: UserError, stage: type[Stage], settings: Mapping[str, Any]) -> UserError:
    """The error; of an unknown key that resembles an input or option, with that one instead."""
    names = [*stage.takes, *stage.options_class.model_fields]
    lines = []
    for line in str(error).split("\n"):
        key = line.partition(":")[0]
        hint = nearest(key, names) if key in settings and "unknown setting" in line else ""
        lines.append(f"{key}: unknown setting; {hint}" if hint else line)
    return RecipeError("\n".join(lines))


def _refused_by_kinds(stages: Iterable[Stage]) -> Iterator[str]:
    for stage in stages:
        for slot, problem in stage.refused():
            yield f"stages.{stage.name}.{slot}: {problem}"


# ── the graph as a whole ─────────────────────────────────────────────────────────────────────


def _refuse_cycles(stages: Mapping[str, Stage]) -> None:
    try:
        TopologicalSorter({s: s.predecessors for s in stages.values()}).prepare()
    except CycleError as error:
        circle = " → ".join(stage.name for stage in error.args[1])
        raise RecipeError(
            f"stages.{error.args[1][0].name}: these stages wait for each other: {circle}; let one "
            "of them take something else"
        ) from error


def _add_merges(stages: dict[str, Stage]) -> None:
    """A stage that begins from another one's adapter takes it merged, by a stage in between."""
    for stage in list(stages.values()):
        for name, sources in stage.sources.items():
            slot = stage.takes[name]
            if ArtifactType.MODEL in slot.takes and ArtifactType.POLICY not in slot.takes:
                merged = tuple(_merged(source, stages) for source in sources)
                stage.sources = {**stage.sources, name: merged}


def _set_template_kwargs(stages: Iterable[Stage]) -> Iterator[str]:
    """Give every stage that samples or trains a model the variables of that model's chat template.

    A stage of a recipe cannot have its own: rows of one model would not be alike in all stages.
    """
    for stage in stages:
        if getattr(stage.settings, _KWARGS, None):
            yield (
                f"stages.{stage.name}.{_KWARGS}: set once for all stages of a model; write it "
                f"under models, as {{model: …, {_KWARGS}: …}}, and remove it here"
            )
        elif "model" in stage.sources and _KWARGS in type(stage.settings).model_fields:
            kwargs = stage.source("model").template_kwargs
            stage.settings = stage.settings.model_copy(update={_KWARGS: kwargs})


def _merged(source: Source, stages: dict[str, Stage]) -> Source:
    trained = source.stage
    if trained is None or trained.gives is ArtifactType.MODEL or not trained.trains_adapter:
        return source
    name = f"{trained.name}-model"
    existing = stages.get(name)
    if existing is not None and not _is_merge_of(existing, trained):
        raise RecipeError(
            f"stages.{name}: this name is needed for {trained.name} merged into its model; choose "
            "another"
        )
    if existing is None:
        policy = {"policy": (Source(trained.name, trained),)}
        folder = trained.folder.with_name(f"{trained.folder.name}-model")
        settings = MergeStage.settings_class()
        stages[name] = MergeStage(name, folder, policy, StageOptions(), settings, added=True)
    return Source(source.text, stages[name], source.weight)


def _is_merge_of(stage: Stage, trained: Stage) -> bool:
    return isinstance(stage, MergeStage) and stage.source("policy").stage is trained


def _with_every_stage(
    stage: Stage, draft: StageDraft, stages: Iterable[Stage]
) -> Mapping[str, tuple[Source, ...]]:
    """The stage's sources, with all stages where a slot takes them by default."""
    every = {
        name: tuple(Source(s.name, s) for s in stages if s.gives in slot.takes and not s.added)
        for name, slot in draft.slots.items()
        if slot.default == EVERY_STAGE and name not in stage.sources
    }
    return {**stage.sources, **every}


def _in_order(stages: Mapping[str, Stage]) -> Iterator[Stage]:
    """Stages after all that they take; otherwise as the recipe lists them."""
    place = {stage: number for number, stage in enumerate(stages.values())}
    sorter = TopologicalSorter({s: s.predecessors for s in stages.values()})
    sorter.prepare()
    ready: list[Stage] = []
    while sorter.is_active():
        ready = sorted([*ready, *sorter.get_ready()], key=lambda stage: place[stage])
        stage = ready.pop(0)
        yield stage
        sorter.done(stage)


def _hold_out(graph: Graph) -> None:
    """Mark the stages whose held-out pairs are looked at, by themselves or by what they lead to: a
    model that has imitated a pair must not begin the training that is evaluated on it."""
    for stage in reversed(graph.stages):
        stage.holds_out |= stage.looks
        for before in stage.predecessors:
            before.holds_out |= stage.holds_out


def _unused(recipe: Recipe, graph: Graph) -> Iterator[str]:
    """Stages and models that no result depends on."""
    names = {stage.name for stage in graph.stages}
    for name in recipe.results:
        if name not in names:
            hint = nearest(name, names) or f"there are: {', '.join(sorted(names))}"
            yield f"results: unknown stage {name!r}; {hint}"
    # A report shows stages but does not make them wanted.
    others = [stage for stage in graph.stages if stage.gives is not ArtifactType.REPORT]
    taken = {before for stage in others for before in stage.predecessors}
    needed = {stage for stage in others if stage.is_result or stage.name in recipe.results}
    needed = needed or {stage for stage in others if stage not in taken}
    for stage in reversed(others):
        if stage in needed:
            needed |= set(stage.predecessors)
    # What only an unused stage takes is not reported: the remedy is at the unused stage.
    for stage in others:
        if stage not in needed and stage not in taken:
            before = _ancestors(stage)
            takers = [s.name for s in others if s not in before and _could_take(s, stage)]
            could = f"{', '.join(takers)} could take it; or " if takers else ""
            yield (
                f"stages.{stage.name}: only a report takes {stage.gives} from it; {could}remove "
                f"it, or keep it with results: [{', '.join([*recipe.results, stage.name])}]"
            )
    for name, spec in recipe.models.items():
        if spec not in graph.models:
            yield f"models.{name}: no stage uses it; remove it, or name it in a stage"
        elif spec.chat_template_kwargs and spec not in graph.answering:
            yield f"models.{name}.{_KWARGS}: has no effect on a judge; remove it"


def _ancestors(stage: Stage) -> set[Stage]:
    """All stages that a stage depends on."""
    found: set[Stage] = set()
    waiting = stage.predecessors
    while waiting:
        found.add(before := waiting.pop())
        waiting += [each for each in before.predecessors if each not in found]
    return found


def _could_take(stage: Stage, other: Stage) -> bool:
    parts = ("", *other.parts)
    slots = stage.takes.values()
    return stage is not other and any(fits(other, slot, part) for slot in slots for part in parts)


def _written_twice(graph: Graph) -> Iterator[str]:
    """Files and folders that two stages would write; upper and lower case are the same file on
    some disks."""
    owners: dict[str, Stage] = {}
    for stage in graph.stages:
        for path in (stage.folder, *stage.outputs_elsewhere):
            other = owners.setdefault(str(path).lower(), stage)
            if other is not stage:
                yield (
                    f"stages.{stage.name}: writes {path.name}, as {other.name} does; give one of "
                    "them another name or `file`"
                )
