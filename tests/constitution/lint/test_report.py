"""Findings as text, JSON and GitHub annotations; the exit codes of `rlaif constitution lint`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from constitution.lint import Finding, Severity
from constitution.lint.report import as_github, as_json, as_text, summary
from rlaif.cli.main import app
from tests.support.constitutions import comparing, constitution, principle

WARNING = Finding("vague-compare", Severity.WARNING, "a.yaml", 3, 7, "it is vague", "be clear")
ERROR = Finding("schema", Severity.ERROR, "b.yaml", 0, 0, "cannot be read", "")
ADVICE = Finding("no-thing", Severity.ADVICE, "a.yaml", 4, 1, "look", "again")


def test_text_has_a_line_for_each_finding_and_their_number() -> None:
    assert as_text("a.yaml", [WARNING, ADVICE, ADVICE]).splitlines() == [
        "a.yaml:3:7: warning [vague-compare] it is vague (be clear)",
        "a.yaml:4:1: advice [no-thing] look (again)",
        "a.yaml:4:1: advice [no-thing] look (again)",
        "a.yaml: 3 findings (1 warning, 2 advice)",
    ]
    assert as_text("hhh", []) == "hhh: no findings"
    assert summary([ERROR]) == "1 finding (1 error)"


def test_json_has_every_field() -> None:
    assert json.loads(as_json([ERROR])) == [
        {
            "rule": "schema",
            "severity": "error",
            "file": "b.yaml",
            "line": 0,
            "column": 0,
            "message": "cannot be read",
            "remedy": "",
            "path": [],
        }
    ]


def test_each_severity_is_a_github_command_with_its_position() -> None:
    assert as_github([WARNING, ERROR, ADVICE]).splitlines() == [
        "::warning file=a.yaml,line=3,col=7,title=vague-compare::it is vague (be clear)",
        "::error file=b.yaml,title=schema::cannot be read",  # the file as a whole
        "::notice file=a.yaml,line=4,col=1,title=no-thing::look (again)",
    ]


def test_special_characters_are_escaped_for_github() -> None:
    """%, CR and LF everywhere; : and , in properties only, where they end a value."""
    odd = Finding("r", Severity.ERROR, "C:a,b%.yaml", 1, 1, "50%: a,\r\nb::error::", "")
    (line,) = as_github([odd]).splitlines()
    assert line == (
        "::error file=C%3Aa%2Cb%25.yaml,line=1,col=1,title=r::50%25: a,%0D%0Ab::error::"
    )


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    constitutions = {
        "good": constitution(),
        "weak": comparing("Prefer the best."),
        "advice": constitution(principle(), traits={"kind": {}}),
    }
    for name, target in constitutions.items():
        data = target.model_dump(mode="json", exclude_none=True)
        Path(f"{name}.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    Path("broken.yaml").write_text("name: [", encoding="utf-8")
    Path("binary.yaml").write_bytes(b"\xff\xfe")


def run(*arguments: str) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["constitution", "lint", *arguments])
    return found.exit_code, found.output


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["good.yaml"], 0),
        (["weak.yaml"], 0),
        (["weak.yaml", "--strict"], 1),
        (["advice.yaml", "--strict"], 0),
        (["broken.yaml"], 1),
        (["absent.yaml"], 1),
        (["binary.yaml"], 1),
        (["no_such_name"], 1),
        (["good.yaml", "broken.yaml", "--format", "github"], 1),
        (["good.yaml", "hhh", "--strict"], 0),
    ],
)
def test_exits_with_1_on_errors_and_when_strict_on_warnings(
    arguments: list[str], code: int
) -> None:
    assert run(*arguments)[0] == code


@pytest.mark.usefixtures("files")
def test_several_files_are_reported_one_after_the_other() -> None:
    rows = run("weak.yaml", "hhh", "broken.yaml")[1].splitlines()
    assert [row.split(":")[0] for row in rows] == [
        "weak.yaml", "weak.yaml", "hhh", "broken.yaml", "broken.yaml",
    ]  # fmt: skip


@pytest.mark.usefixtures("files")
def test_json_of_several_files_is_one_list() -> None:
    for flags in (["--json"], ["--format", "json"]):
        found = json.loads(run("weak.yaml", "broken.yaml", *flags)[1])
        assert [f["file"] for f in found] == ["weak.yaml", "broken.yaml"]
    assert json.loads(run("good.yaml", "--json")[1]) == []


@pytest.mark.usefixtures("files")
def test_github_prints_annotations_only() -> None:
    assert run("good.yaml", "--format", "github") == (0, "")
    (line,) = run("weak.yaml", "--format", "github")[1].splitlines()
    assert line.startswith("::warning file=weak.yaml,line=")
