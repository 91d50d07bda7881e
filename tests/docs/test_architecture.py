"""docs/architecture.md lists the packages, and names tables and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
TREE = re.search(r"## Packages\n\n```\n(.*?)```", PAGE, re.DOTALL)
TABLES = {
    "LOSSES": "rlaif/algorithms/dpo/losses/__init__.py",
    "ESTIMATORS": "rlaif/algorithms/ppo/estimators.py",
    "ENGINES": "judge_service/engines/__init__.py",
    "SAMPLERS": "rlaif/generation/engines.py",
    "SOURCES": "rlaif/rewards/sources.py",
    "KINDS": "rlaif/pipeline/kinds/__init__.py",
    "RPCS": "judge_service/rpc.py",
    "_CHECKS": "constitution/lint/__init__.py",
    "_PATTERNS": "constitution/lint/wording.py",
}
SECTIONS = re.findall(r"^### … (.+?)\n\n(.*?)(?=\n###|\n## )", PAGE, re.MULTILINE | re.DOTALL)


def listed() -> list[str]:
    """The packages of the tree, as paths: a name without an indent holds those below it."""
    assert TREE is not None
    top, paths = "", []
    for indent, name in re.findall(r"^( *)(\w+)/", TREE[1], re.MULTILINE):
        top = top if indent else name
        paths.append(f"{top}/{name}" if indent else name)
    return paths


def test_the_tree_lists_every_package() -> None:
    tops = ("constitution", "hardware", "judge_service", "rlaif")
    packages = {
        str(init.parent.relative_to(ROOT))
        for top in tops
        for init in (ROOT / top).rglob("__init__.py")
        if len(init.relative_to(ROOT).parts) <= 3
    }
    assert packages - {*listed(), "constitution/library"} == set()
    assert [path for path in listed() if not (ROOT / path).is_dir()] == []


@pytest.mark.parametrize(("table", "path"), TABLES.items())
def test_a_table_that_is_named_exists(table: str, path: str) -> None:
    assert f"`{table}`" in PAGE
    assert re.search(rf"^{table}\b.* = ", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)


def test_what_can_be_added_is_explained_in_five_steps_at_most() -> None:
    steps = {name: re.findall(r"^\d\. ", text, re.MULTILINE) for name, text in SECTIONS}
    wanted = {"DPO loss", "reward source", "kind of stage", "RPC", "field of a principle"}
    assert wanted | {"lint rule", "way to sample from a policy"} <= steps.keys()
    assert {name for name, found in steps.items() if len(found) > 5} == set()
