"""Graphs of small recipes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlaif.pipeline.graph import Graph, build_graph
from tests.support.training.recipes import a_recipe


@pytest.fixture
def graph_of(tmp_path: Path) -> Callable[..., Graph]:
    """graph_of(stages, **changes) → the graph of such a recipe, in tmp_path / "run"."""

    def build(stages: dict[str, Any] | None = None, **changes: Any) -> Graph:
        return build_graph(a_recipe(stages, **changes), tmp_path / "run")

    return build
