"""docs/recipes.md: its example is a recipe, and its table lists the kinds with their inputs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rlaif.pipeline.drawing import as_text
from rlaif.pipeline.graph import build_graph
from rlaif.pipeline.kinds import KINDS
from rlaif.pipeline.recipe import Recipe, RecipeError

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
ADDED_BY_THE_GRAPH = {"merge"}


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page's example as a file, in a folder with the labels that it names."""
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "two_branches.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "extra.parquet").touch()
    monkeypatch.chdir(tmp_path)
    return "two_branches.yaml"


def test_the_graph_shown_is_that_of_the_example(example: str) -> None:
    (shown,) = re.findall(r"^```text\n(.*?)\n```$", PAGE, re.MULTILINE | re.DOTALL)
    assert as_text(build_graph(Recipe.load(example), Path("run"))) == shown


def test_a_reference_of_the_wrong_type_is_refused_as_the_page_says(example: str) -> None:
    recipe = Recipe.load(example, ["mild.labels=samples"])
    with pytest.raises(RecipeError, match="samples gives samples, not preferences; these would do"):
        build_graph(recipe, Path("run"))


def test_the_table_lists_every_kind_with_its_inputs_options_and_outcome() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+ \| .+ \|)$", PAGE, re.MULTILINE))
    assert KINDS.keys() - ADDED_BY_THE_GRAPH <= rows.keys()
    for name in KINDS.keys() - ADDED_BY_THE_GRAPH:
        kind = KINDS[name]
        keys = [*kind.takes, *kind.options_class.model_fields]
        assert [key for key in keys if f"`{key}`" not in rows[name]] == [], name
        gives = "the page" if name == "report" else str(kind.gives.value)
        assert rows[name].endswith(f"| {gives} |"), name
