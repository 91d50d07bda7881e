"""Runs a recipe, or says what a run would do."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from constitution.errors import UserError
from judge_service.planted.file import PlantedJudge
from rlaif.data.files import as_path
from rlaif.data.records import write_json
from rlaif.generation.base import require_attention_of
from rlaif.generation.engines import choose_engine
from rlaif.models import catalog
from rlaif.pipeline.context import RunContext, run_facts
from rlaif.pipeline.fleet.places import where
from rlaif.pipeline.fleet.work import require_fleet
from rlaif.pipeline.graph import Graph, build_graph, without_rounds
from rlaif.pipeline.machine_fit import fit_to_machine, kept_size
from rlaif.pipeline.recipe import ModelSpec, Recipe, RecipeError, shortened
from rlaif.pipeline.runner import (
    Selection,
    changes,
    digested,
    is_finished,
    locked,
    refuse_foreign,
    refuse_old_form,
    run_stages,
)
from rlaif.pipeline.stage import Stage
from rlaif.training.config import RolloutConfig, TrainConfig
from rlaif.training.preflight import launched_processes, require_context_of, require_folder
from rlaif.training.trackers import require_trackers


def run(
    recipe: Recipe,
    folder: str | Path,
    console: Console | None = None,
    *,
    only: Sequence[str] = (),
    start: str = "",
) -> None:
    """Run the stages that are not finished, each writing into a folder of its name, and print what
    they are about: tables of evaluations, and where the report is.

    only: just these stages. start: this stage and all that depend on it. Either way, what they take
    must be finished. Raises RecipeError before anything runs, and RunError where a stage failed.
    """
    _require_types(recipe, console)
    folder, console = as_path(folder, "folder"), console or Console()
    # 1. Everything that can be refused is, before the machine is measured and anything is written.
    require_folder(folder)
    recipe = without_rounds(recipe)
    graph = build_graph(recipe, folder)
    selection = _select(graph, only, start)
    _check_models(graph.models)
    context = RunContext(recipe, folder)
    _check_constitutions(graph, context)
    _check_packages(graph.only(selection).judges)
    _check_inputs(graph, selection, context)
    require_fleet(recipe, graph.only(selection).stages)
    with locked(folder):
        refuse_foreign([stage for stage in graph.stages if stage in selection], folder)
        # 2. As many prompts as the machine has time for.
        judges = graph.only(selection).judges
        recipe = fit_to_machine(_counted(recipe, folder), folder, console, judges)
        graph, context = build_graph(recipe, folder), RunContext(recipe, folder)
        _say_split(context, console)
        selection = _select(graph, only, start)
        _fetch(graph.only(selection).needed)
        # 3. The stages, and what they found.
        _describe(graph, context)
        run_stages(graph.stages, context, console, selection)
        _describe(graph, context)  # without rounds that were not needed
    for stage in graph.stages:
        if stage in selection and not stage.not_needed:
            stage.show(context, console)


def dry_run(
    recipe: Recipe,
    folder: Path,
    console: Console,
    *,
    only: Sequence[str] = (),
    start: str = "",
) -> None:
    """Print what `run` would do. Nothing is loaded, fetched or written."""
    require_folder(folder)
    recipe = without_rounds(recipe)
    graph = build_graph(recipe, folder)
    selection = _select(graph, only, start)
    _check_models(graph.models)
    _check_constitutions(graph, RunContext(recipe, folder))
    _check_inputs(graph, selection, RunContext(recipe, folder))
    refuse_old_form(folder)
    refuse_foreign([stage for stage in graph.stages if stage in selection], folder)
    recipe = _counted(recipe, folder)
    sized = kept_size(recipe, folder)
    if recipe.fit is not None and sized is recipe:
        console.print(
            f"a run measures the machine when it starts; if it would take more than "
            f"{recipe.fit.minutes:g} min, it uses fewer prompts, but at least "
            f"{recipe.fit.train_prompts} for training and {recipe.fit.heldout_prompts} held out",
            style="dim", soft_wrap=True,
        )  # fmt: skip
    graph, context = build_graph(sized, folder), RunContext(sized, folder)
    selection = _select(graph, only, start)
    _say_split(context, console)
    chosen = [stage for stage in graph.stages if stage in selection]
    waiting: set[Stage] = set()  # what takes something unfinished cannot be known to be finished
    for place, stage in enumerate(chosen, start=1):
        if not waiting & set(stage.predecessors) and (reason := stage.not_needed):
            console.print(
                f"{place}/{len(chosen)} [bold]{stage.name}[/bold]  not needed: {escape(reason)}",
                soft_wrap=True,
            )
            continue
        inputs = digested(stage, context)
        if waiting & set(stage.predecessors) or not is_finished(stage, folder, inputs):
            waiting.add(stage)
        why = changes(stage, folder, inputs)
        about = f"about {stage.minutes:g} min" if stage.minutes else "would run"
        state = f"{about}{f'; {why}' if why else ''}" if stage in waiting else "finished, skipped"
        console.print(
            f"{place}/{len(chosen)} [bold]{stage.name}[/bold]  "
            f"{escape(stage.does(context) + where(stage, recipe))}  "
            f"[dim]{escape(state)}[/dim]",
            soft_wrap=True,
        )


def _select(graph: Graph, only: Sequence[str], start: str) -> Selection:
    """Raises RecipeError for an unknown stage."""
    if not only and not start:
        return Selection()
    only = [only] if isinstance(only, str) else [str(name) for name in only]
    later = graph.from_stage(start) if start else []
    return Selection(frozenset([*(graph[name] for name in only), *later]))


def _require_types(recipe: object, console: object) -> None:
    if not isinstance(console, Console | None):
        raise RecipeError(f"invalid console: {console!r}; give a rich.console.Console or None")
    if not isinstance(recipe, Recipe):
        raise RecipeError(
            f"expected a Recipe (found {shortened(recipe)}); give Recipe.load(NAME or FILE)"
        )


def _check_models(models: Sequence[ModelSpec]) -> None:
    """Raises ModelError for a mistyped model, and PlantedError for an invalid file of a planted
    judge, before anything is loaded or fetched."""
    for spec in models:
        if spec.is_planted:
            PlantedJudge.load(spec.model)
        elif spec.model not in catalog.KNOWN and not spec.is_served_elsewhere:
            catalog.resolve(spec.model)


def _check_constitutions(graph: Graph, context: RunContext) -> None:
    """Raises ConstitutionError for one that cannot be loaded, of the recipe or of a stage."""
    names = {getattr(stage.options, "constitution", "") for stage in graph.stages}
    for name in sorted(names):
        context.constitution(name)


def _check_inputs(graph: Graph, selection: Selection, context: RunContext) -> None:
    """Raises RecipeError naming every stage whose prompts or constitution are not there, or whose
    settings its model or this machine refuses: it would stop a run that has been going for hours.
    """
    problems: dict[str, list[str]] = {}
    for stage in graph.stages:
        try:
            if stage in selection:
                stage.inputs(context)
                _require_settings(stage)
        except UserError as error:  # one that many stages have, such as a missing file, once
            problems.setdefault(str(error), []).append(stage.name)
    if problems:
        raise RecipeError(
            "\n".join(f"stages.{', '.join(names)}: {error}" for error, names in problems.items())
        )


def _require_settings(stage: Stage) -> None:
    """Raises UserError for an engine or tracker that is not installed, and for a model to begin
    from that reads fewer tokens, or that the stage cannot sample from."""
    settings = stage.settings
    if isinstance(settings, TrainConfig):
        require_trackers(settings.trackers)
        if stage.base is not None and (model := stage.base.untrained) is not None:
            known = model.model in catalog.KNOWN
            folder = catalog.model_folder(model.model) if known else as_path(model.model, "model")
            require_context_of(str(folder), settings.max_tokens)
            if hasattr(settings, "engine"):
                require_attention_of(str(folder))
    if isinstance(settings, RolloutConfig):
        settings.engine_for(launched_processes())
    elif (engine := getattr(settings, "engine", None)) is not None:
        choose_engine(engine, launched_processes())


def _check_packages(judges: Sequence[ModelSpec]) -> None:
    """Raises ModuleNotFoundError for a missing extra: a later stage would stop after an hour."""
    needed = ["torch", "transformers", "accelerate", "peft", "datasets", "jinja2"]
    if any(not (judge.is_served_elsewhere or judge.is_planted) for judge in judges):
        needed.append("vllm")
    for name in needed:
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _counted(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the prompts that exist: a file may hold fewer than the recipe's limits."""
    context = RunContext(recipe, folder)
    return recipe.model_copy(
        update={
            "train_prompts": context.count("train"),
            "heldout_prompts": context.count("heldout"),
        }
    )


def _say_split(context: RunContext, console: Console) -> None:
    console.print(context.prompt_set.describe(), style="dim", markup=False, soft_wrap=True)


def _fetch(models: Sequence[ModelSpec]) -> None:
    """Build the folders of models given by their short names, unless they are here."""
    for spec in models:
        if spec.model in catalog.KNOWN:
            catalog.fetch(spec.model)


def _describe(graph: Graph, context: RunContext) -> None:
    """Write run.json, from which `rlaif report` makes the page again."""
    facts = run_facts(context) | {"date": date.today().isoformat()}
    shown = (stage for stage in graph.stages if not (stage.added or stage.not_needed))
    stages = [{"name": stage.name, "kind": stage.kind} for stage in shown]
    context.folder.mkdir(parents=True, exist_ok=True)
    write_json(context.folder / "run.json", {"facts": facts, "stages": stages})
