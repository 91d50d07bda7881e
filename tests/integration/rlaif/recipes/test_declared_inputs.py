"""A stage reads nothing that it does not declare, so that "finished, skipped" is never stale.

Every kind of stage runs for real on a tiny model. Once as part of a run, with a hook on every file
that Python opens; and once more in a folder that holds only the files it declares, which also finds
what libraries open by themselves.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rlaif.feedback.client import judge_client
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.graph import Graph, build_graph
from rlaif.pipeline.kinds import KINDS
from rlaif.pipeline.recipe import Recipe
from rlaif.pipeline.stage import Files, Stage
from tests.support.training.tiny_model import save_tiny_model
from tests.support.training.tiny_run import judge_in_thread, tiny_files, tiny_recipe

pytestmark = pytest.mark.integration

STAGES = (
    "samples", "labels", "attacks", "revisions", "sft", "sft-model", "reward", "dpo_soft",
    "dpo_hard", "dpo_files", "ppo", "rest", "best", "responses", "evaluation", "comparison",
    "answers", "round", "kept", "report",
)  # fmt: skip

# What a child process opens is written to a file that the environment names.
SITE = """
import os, sys
if "AUDITED" in os.environ:
    log = os.open(os.environ["AUDITED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    def note(event, args):
        if event == "open" and isinstance(args[0], (str, bytes)) and "r" in (args[1] or "r"):
            os.write(log, os.fsencode(args[0]) + b"\\n")
    sys.addaudithook(note)
"""


class Opened:
    """Files that this process and its children open for reading while `watching`."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.paths: set[str] = set()
        self.on = False
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event == "open" and isinstance(arguments[0], (str, bytes)):
            mode = arguments[1] or "r"
            if "r" in mode and "+" not in mode:
                self.paths.add(os.fsdecode(arguments[0]))

    @contextmanager
    def watching(self) -> Iterator[None]:
        self.paths.clear()
        self.log.unlink(missing_ok=True)
        self.on = True
        try:
            yield
        finally:
            self.on = False
            if self.log.exists():
                self.paths |= set(self.log.read_text().splitlines())


class TinyRun:
    """A whole tiny run, and which files each of its stages opened."""

    def __init__(self, recipe: Recipe, folder: Path, files: dict[str, str]) -> None:
        self.recipe = recipe
        self.folder = folder
        self.files = files
        self.graph = build_graph(recipe, folder)
        self.opened: dict[str, set[str]] = {}

    def run(self, opened: Opened) -> None:
        context = RunContext(self.recipe, self.folder)
        for stage in self.graph.stages:
            stage.folder.mkdir(parents=True)
            with opened.watching():
                stage.run(context)
            self.opened[stage.name] = set(opened.paths)


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyRun]:
    root = tmp_path_factory.mktemp("declared")
    (root / "site").mkdir()
    (root / "site" / "sitecustomize.py").write_text(SITE)
    files = tiny_files(root / "brought")
    run = TinyRun(tiny_recipe(save_tiny_model(root / "model"), files), root / "run", files)
    with judge_in_thread(files["constitution"]) as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUDITED", str(root / "opened"))
        patch.setenv("PYTHONPATH", str(root / "site"), prepend=os.pathsep)
        patch.setattr(
            RunContext,
            "judge_client",
            lambda self, judge, constitution, log: judge_client("", "", log, address),
        )
        run.run(Opened(root / "opened"))
        yield run


def declared_files(stage: Stage, context: RunContext) -> set[Path]:
    def walk(value: Any) -> Iterator[Path]:
        if isinstance(value, Files):
            yield from value.paths
        elif isinstance(value, dict):
            for each in value.values():
                yield from walk(each)
        elif isinstance(value, (list, tuple)):
            for each in value:
                yield from walk(each)

    return {path.resolve() for path in walk(stage.declared(context))}


def test_every_kind_of_stage_is_in_the_run(tiny_run: TinyRun) -> None:
    assert [stage.name for stage in tiny_run.graph.stages] == list(STAGES)
    assert {stage.kind for stage in tiny_run.graph.stages} == KINDS.keys()


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_opens_only_what_it_declares(tiny_run: TinyRun, name: str) -> None:
    stage, context = tiny_run.graph[name], RunContext(tiny_run.recipe, tiny_run.folder)
    allowed = declared_files(stage, context)
    # Prompts and constitution are declared by their content.
    inputs = stage.inputs(context)
    if {"prompts", "split"} & inputs.keys():
        allowed.add(Path(tiny_run.files["prompts"]))
    if {"constitution", "label_weights", "facts"} & inputs.keys():
        allowed.add(Path(tiny_run.files["constitution"]))
    model = Path(tiny_run.recipe.models["policy"].model)
    roots = [tiny_run.folder, Path(tiny_run.files["prompts"]).parent, model]
    read = {
        path
        for text in tiny_run.opened[name]
        if (path := Path(text).resolve()).is_file()
        and any(path.is_relative_to(root) for root in roots)
        and not path.is_relative_to(stage.folder)
    }
    assert read <= allowed, f"undeclared: {sorted(map(str, read - allowed))}"
    if name != "best":  # best-of-n reads when it answers, which is a part of `responses`
        assert read, "the hook sees what is read"


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_runs_where_only_what_it_declares_exists(
    tiny_run: TinyRun, name: str, tmp_path: Path
) -> None:
    declared = declared_files(tiny_run.graph[name], RunContext(tiny_run.recipe, tiny_run.folder))
    for path in declared:
        if path.is_relative_to(tiny_run.folder):
            copy = tmp_path / path.relative_to(tiny_run.folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    graph: Graph = build_graph(tiny_run.recipe, tmp_path)
    stage = graph[name]
    stage.folder.mkdir(parents=True, exist_ok=True)
    stage.run(RunContext(tiny_run.recipe, tmp_path))
    outcome = {path.name: path.read_bytes() for path in stage.outputs.paths if path.is_file()}
    expected = {path.name: path for path in tiny_run.graph[name].outputs.paths if path.is_file()}
    assert outcome.keys() == expected.keys()
    for made in ("samples.jsonl", "preferences.parquet", "adapter_model.safetensors"):
        if made in outcome:
            assert outcome[made] == expected[made].read_bytes(), f"{made} depends on something else"
