"""Fits the size of a run to the machine: predicted minutes, and the prompts they leave time for.

    minutes of a stage ≈ minutes measured · (GFLOP/s then / here) · (its prompts here / then)

A recipe with `fit` takes at most the prompts it names. Where the prediction exceeds `fit.minutes`,
it takes fewer, down to the minimum that `fit` allows. The size is decided when a run starts and
kept in its folder, so that a killed run continues with the same prompts even if the machine is
busier by then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from rich.console import Console

from hardware import vllm_cpu
from hardware.dtypes import dtype_name, multiplies_bfloat16
from hardware.memory import GIB, ModelSize, available_bytes, model_size
from hardware.speed import cores, matmul_gflops
from rlaif.data.prompt_split import HELD_OUT, TRAIN
from rlaif.data.records import write_json
from rlaif.models import catalog
from rlaif.pipeline.graph import Graph, build_graph
from rlaif.pipeline.recipe import Fit, ModelSpec, Recipe

SIZE_FILE = "size.json"


class RunSize(BaseModel):
    """The size of a run and the limits it was decided from; None where a recipe sets no number."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limits: dict[str, Any]
    train_prompts: int | None
    heldout_prompts: int | None


@dataclass(frozen=True, slots=True)
class Machine:
    """The properties that predict a run's time. gflops: of the CPU in `dtype` (hardware.speed)."""

    cores: float
    dtype: str
    gflops: float
    gpu: str | None


def look_at_machine() -> Machine:
    """Measure this machine; takes about a second, plus importing torch."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    gflops = 0.0 if gpu else matmul_gflops("auto")
    return Machine(cores(), dtype_name("auto"), gflops, gpu)


def fit_to_machine(
    recipe: Recipe, run_dir: Path, console: Console, judges: Sequence[ModelSpec] | None = None
) -> Recipe:
    """The recipe with this machine's minutes and, once per run folder, prompts; says both.

    judges: those of the stages that will run; None for all. Raises UserError when one of them, in
    a new run, does not fit into free memory. A run that was
    started before may not need its judge any more; if it does, the judge itself refuses.
    """
    machine = look_at_machine()
    console.print(_describe(machine), highlight=False, soft_wrap=True)
    if machine.gpu:
        return kept_size(recipe, run_dir)
    size = _kept(recipe, run_dir)
    graph = build_graph(recipe, run_dir)
    for judge in graph.judges if judges is None else judges:
        if size is None and not judge.is_served_elsewhere and not judge.is_planted:
            vllm_cpu.check_memory(judge.model, judge_size(judge), dtype_name(judge.dtype))
        console.print(_judge_memory(judge), highlight=False, soft_wrap=True)
    slower = recipe.gflops / machine.gflops
    if size is None:
        train, heldout = fitted(recipe, graph, slower)
        size = RunSize(limits=_limits(recipe), train_prompts=train, heldout_prompts=heldout)
        run_dir.mkdir(parents=True, exist_ok=True)
        write_json(run_dir / SIZE_FILE, size.model_dump())
    sized = recipe.model_copy(
        update={
            "train_prompts": size.train_prompts,
            "heldout_prompts": size.heldout_prompts,
            "minutes": predicted(recipe, graph, slower, size.train_prompts, size.heldout_prompts),
        }
    )
    console.print(_describe_size(recipe, sized), highlight=False, soft_wrap=True)
    return sized


def kept_size(recipe: Recipe, run_dir: Path) -> Recipe:
    """The recipe with the prompts of a run that was started before; unchanged for a new one."""
    size = _kept(recipe, run_dir)
    if size is None:
        return recipe
    return recipe.model_copy(
        update={"train_prompts": size.train_prompts, "heldout_prompts": size.heldout_prompts}
    )


def predicted(
    recipe: Recipe, graph: Graph, slower: float, train: int | None, heldout: int | None
) -> dict[str, float]:
    """Minutes of each stage. slower: GFLOP/s of the measured machine over this one's."""
    measured = recipe.minutes_prompts
    share = {
        TRAIN: _over(train, measured.get("train", recipe.train_prompts)),
        HELD_OUT: _over(heldout, measured.get("heldout", recipe.heldout_prompts)),
        None: 1.0,
    }
    return {
        stage.name: recipe.minutes[stage.name] * slower * share[stage.grows_with]
        for stage in graph.stages
        if stage.name in recipe.minutes
    }


def _over(now: int | None, measured: int | None) -> float:
    return 1.0 if now is None or measured is None else now / measured


def fitted(recipe: Recipe, graph: Graph, slower: float) -> tuple[int | None, int | None]:
    """(train_prompts, heldout_prompts): the recipe's, or the largest share of them that fits."""
    full = recipe.train_prompts, recipe.heldout_prompts
    fit = recipe.fit
    if fit is None or None in full:
        return full
    for percent in range(100, 0, -1):
        train, heldout = _share(recipe, fit, percent / 100)
        if sum(predicted(recipe, graph, slower, train, heldout).values()) <= fit.minutes:
            break
    return train, heldout


def _share(recipe: Recipe, fit: Fit, share: float) -> tuple[int, int]:
    def part(most: int | None, least: int) -> int:
        assert most is not None
        return max(min(least, most), round(share * most))

    return (
        part(recipe.train_prompts, fit.train_prompts),
        part(recipe.heldout_prompts, fit.heldout_prompts),
    )


def _limits(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", include={"train_prompts", "heldout_prompts", "fit"})


def _kept(recipe: Recipe, run_dir: Path) -> RunSize | None:
    """The size this run was started with; None for a new run, or when its limits were changed."""
    try:
        text = (run_dir / SIZE_FILE).read_text(encoding="utf-8")
        size = RunSize.model_validate_json(text)
    except (OSError, ValueError):  # missing, or damaged; pydantic's errors are ValueErrors
        return None
    return size if size.limits == _limits(recipe) else None


# ── messages ─────────────────────────────────────────────────────────────────────────────────


def _describe(machine: Machine) -> str:
    if machine.gpu:
        return f"this machine: {machine.gpu}, computing in {machine.dtype}"
    lacks = "" if multiplies_bfloat16() else ", as this processor does not multiply bfloat16"
    free = available_bytes()
    memory = "" if free is None else f", {free / GIB:.1f} GiB of memory free"
    return (
        f"this machine: {machine.cores:g} cores, {machine.gflops:.0f} GFLOP/s in {machine.dtype}"
        f"{lacks}{memory}"
    )


def _judge_memory(judge: ModelSpec) -> str:
    """The memory that a judge will take."""
    if judge.is_planted:
        return f"the judge {judge.model} is planted: simulated by rules, not a model"
    if judge.is_served_elsewhere:
        return f"the judge {judge.model} runs behind a model server"
    dtype, size = dtype_name(judge.dtype), judge_size(judge)
    loading, lasting = vllm_cpu.memory_gib(size, dtype)
    if not size.parameters:
        return f"the judge {judge.model} computes in {dtype}"
    return (
        f"the judge {judge.model} computes in {dtype} and takes about {lasting:.1f} GiB of memory "
        f"({loading:.1f} while it loads)"
    )


def judge_size(judge: ModelSpec) -> ModelSize:
    """The size in its folder; for a short name not fetched yet, the folder's size in bfloat16."""
    known = catalog.KNOWN.get(judge.model)
    folder = catalog.model_folder(judge.model) if known else Path(judge.model)
    size = model_size(folder) if folder.is_dir() else ModelSize(0, 0)
    return ModelSize(known.folder_bytes // 2, 0) if known and not size.parameters else size


def _describe_size(recipe: Recipe, sized: Recipe) -> str:
    counts = _counts(sized)
    about = f"about {sum(sized.minutes.values()):.0f} min in all" if sized.minutes else ""
    fewer = ""
    if recipe.fit is not None and counts != _counts(recipe):
        fewer = (
            f" (instead of {_counts(recipe)}, to take {recipe.fit.minutes:g} min or less; "
            "fit=null takes all)"
        )
    return ", ".join(part for part in (f"{counts}{fewer}" if counts else "", about) if part)


def _counts(recipe: Recipe) -> str:
    parts: Mapping[str, int | None] = {
        "training prompts": recipe.train_prompts,
        "held-out prompts": recipe.heldout_prompts,
    }
    return ", ".join(f"{number} {what}" for what, number in parts.items() if number is not None)
