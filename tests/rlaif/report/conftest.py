"""Made-up runs and their pages, shared by the tests of the report."""

import shutil
from pathlib import Path

import pytest

from tests.rlaif.report.pages import render
from tests.support.made_up_run import GRAPH, made_up_run


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """A complete chain; use `copy` to change it."""
    return made_up_run(tmp_path_factory.mktemp("made-up") / "run")


@pytest.fixture(scope="session")
def whole_page(run) -> str:
    return render(run)


@pytest.fixture(scope="session")
def graph_page(tmp_path_factory) -> str:
    """Two label stages, two reward models, three DPO branches, two evaluations."""
    return render(made_up_run(tmp_path_factory.mktemp("made-up") / "graph", GRAPH))


@pytest.fixture
def copy(run, tmp_path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))
