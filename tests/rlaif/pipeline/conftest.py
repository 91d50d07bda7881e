"""Graphs of small recipes, and stages whose trainers are stand-ins."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rlaif.models import catalog
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.graph import Graph, build_graph
from tests.support.feedback.scripted_judge import ScriptedJudge
from tests.support.training.recipes import a_recipe
from tests.support.training.workshop import TRAINERS, WorkShop


@pytest.fixture
def graph_of(tmp_path: Path) -> Callable[..., Graph]:
    """graph_of(stages, **changes) → the graph of such a recipe, in tmp_path / "run"."""

    def build(stages: dict[str, Any] | None = None, **changes: Any) -> Graph:
        return build_graph(a_recipe(stages, **changes), tmp_path / "run")

    return build


@pytest.fixture
def work(tmp_path, monkeypatch):
    shop = WorkShop(tmp_path)
    monkeypatch.setattr(catalog, "resolve", lambda name: f"/models/{name}")
    for name, train in TRAINERS.items():
        monkeypatch.setattr(train, shop.trainer(name))

    def merge(base, adapter, out, dtype):
        shop.merged.append((base, adapter.name))
        out.mkdir(exist_ok=True)
        return out

    monkeypatch.setattr("rlaif.models.merge.merge_adapter", merge)

    @contextmanager
    def judge_client(self, judge, constitution, log):
        yield ScriptedJudge()

    monkeypatch.setattr(RunContext, "judge_client", judge_client)
    return shop
