"""docs/recipes.md: its example is a recipe, and its table lists the kinds with their inputs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rlaif.pipeline.recipe import Recipe, RecipeError

graph = pytest.importorskip("rlaif.pipeline.graph", reason="recipes are not graphs yet")
kinds = pytest.importorskip("rlaif.pipeline.kinds")

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


def test_the_example_is_a_recipe_whose_stages_run_in_the_order_shown(example: str) -> None:
    built = graph.build_graph(Recipe.load(example), Path("run"))
    shown = re.findall(r"^  (\w+): +\{kind:", PAGE, re.MULTILINE)
    assert [stage.name for stage in built.stages] == shown


def test_a_reference_of_the_wrong_type_is_refused_as_the_page_says(example: str) -> None:
    recipe = Recipe.load(example, ["mild.labels=samples"])
    with pytest.raises(RecipeError, match="samples gives samples, not preferences; these would do"):
        graph.build_graph(recipe, Path("run"))


def test_the_table_lists_every_kind_with_its_inputs() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \| .+ \|$", PAGE, re.MULTILINE))
    assert kinds.KINDS.keys() - ADDED_BY_THE_GRAPH <= rows.keys()
    for name, kind in kinds.KINDS.items():
        if name not in ADDED_BY_THE_GRAPH:
            assert [slot for slot in kind.takes if f"`{slot}`" not in rows[name]] == [], name
