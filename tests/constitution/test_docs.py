"""docs/constitution.md shows the real output and explains every key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from constitution import Constitution, ConstitutionError
from constitution.lint import LintedText, lint_text
from constitution.lint.report import as_text

PAGE = (Path(__file__).parents[2] / "docs" / "constitution.md").read_text(encoding="utf-8")
GOOD, BROKEN = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
ERRORS, REMARKS = re.findall(r"```text\n(.*?)\n```", PAGE, re.DOTALL)


def test_the_example_file_loads_without_remarks() -> None:
    assert lint_text(GOOD, "mine.yaml") == []


def test_the_errors_shown_are_the_errors_raised() -> None:
    with pytest.raises(ConstitutionError) as caught:
        Constitution.from_yaml(BROKEN, "mine.yaml")
    assert str(caught.value) == ERRORS


def test_the_findings_shown_are_the_findings_of_the_linter() -> None:
    vague = GOOD.replace(
        "Prefer the comment that speaks about the code and not about its author.",
        "Prefer the better and more appropriate reply.",
    )
    linted = LintedText("mine.yaml", vague, lint_text(vague, "mine.yaml"))
    assert as_text("mine.yaml", linted) == REMARKS


def test_every_key_is_explained() -> None:
    keys = set(Constitution.model_json_schema()["properties"])
    for part in Constitution.model_json_schema()["$defs"].values():
        keys |= set(part["properties"])
    assert [key for key in sorted(keys) if f"`{key}`" not in PAGE and f".{key}`" not in PAGE] == []
