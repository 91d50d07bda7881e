"""Findings as text, JSON and GitHub annotations; the exit codes of `rlaif constitution lint`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from constitution.lint import Edit, Finding, LintedText, Severity, lint_text
from constitution.lint.report import (
    as_diff,
    as_github,
    as_json,
    as_short_text,
    as_text,
    columns,
    in_color,
    summary,
)
from rlaif.cli.main import app
from tests.support.constitutions import comparing, constitution, principle

WARNING = Finding("vague-compare", Severity.WARNING, "a.yaml", 3, 7, "it is vague", "be clear")
ERROR = Finding("schema", Severity.ERROR, "b.yaml", 0, 0, "cannot be read", "")
ADVICE = Finding("no-thing", Severity.ADVICE, "a.yaml", 4, 1, "look", "again")


def test_short_text_has_a_line_for_each_finding_and_their_number() -> None:
    assert as_short_text("a.yaml", [WARNING, ADVICE, ADVICE]).splitlines() == [
        "a.yaml:3:7: warning [vague-compare] it is vague (be clear)",
        "a.yaml:4:1: advice [no-thing] look (again)",
        "a.yaml:4:1: advice [no-thing] look (again)",
        "a.yaml: 3 findings (1 warning, 2 advice)",
    ]
    assert as_short_text("hhh", []) == "hhh: no findings"
    assert summary([ERROR]) == "1 finding (1 error)"
    repairable = Finding("r", Severity.ADVICE, "a", 1, 1, "m", "", edits=(Edit(0, 1, ""),))
    assert summary([ERROR, repairable]) == (
        "2 findings (1 error, 1 advice); --fix repairs 1 of them"
    )


# --- text with source lines ----------------------------------------------------------------------


def shown(line: str, start: int, end: int, width: int | None = None) -> list[str]:
    """The rows of a finding about the characters from `start` to `end` of the third line."""
    place = {"line": 3, "column": start + 1, "end_line": 3, "end_column": end + 1}
    found = Finding("rule", Severity.WARNING, "a.yaml", message="m", remedy="r", **place)
    return as_text("a.yaml", LintedText("a.yaml", f"1\n2\n{line}\n", [found]), width=width).split(
        "\n"
    )


def test_a_finding_shows_its_source_line_with_carets_under_its_words() -> None:
    assert shown("compare: Prefer it.", 9, 15) == [
        "a.yaml:3:10: warning [rule] m",
        "   3 | compare: Prefer it.",
        "     |          ^^^^^^",
        "     = r",
        "a.yaml: 1 finding (1 warning)",
    ]


def test_carets_stand_under_wide_and_combining_characters() -> None:
    row, carets = shown("漢字 e\u0301 x 漢!", 6, 9)[1:3]
    assert row == "   3 | 漢字 e\u0301 x 漢!"
    assert carets == "     |        ^^^^"  # 漢字 take four columns, é one, 漢 two
    assert columns("漢e\u0301") == 3


def test_a_finding_that_goes_on_in_the_next_line_is_marked_to_the_end_of_its_first() -> None:
    found = Finding("r", Severity.ADVICE, "a", 1, 3, "m", "", end_line=2, end_column=2)
    rows = as_text("a", LintedText("a", "a: b c  \n  d\n", [found])).split("\n")
    assert rows[1:3] == ["   1 | a: b c  ", "     |   ^^^^"]


def test_an_empty_span_or_an_unknown_end_is_a_single_caret() -> None:
    found = Finding("r", Severity.ADVICE, "a", 1, 4, "m", "")
    rows = as_text("a", LintedText("a", "a: b", [found])).split("\n")
    assert rows[2] == "     |    ^"
    at_end = Finding("r", Severity.ADVICE, "a", 1, 5, "m", "", end_line=1, end_column=5)
    assert as_text("a", LintedText("a", "a: b", [at_end])).split("\n")[2] == "     |     ^"


@pytest.mark.parametrize("width", [20, 40, 80])
@pytest.mark.parametrize("start", [0, 30, 190])
@pytest.mark.parametrize("letter", ["x", "漢"])
def test_a_long_source_line_is_shown_around_what_is_marked(
    width: int, start: int, letter: str
) -> None:
    line = letter * start + "HERE" + letter * (196 - start)
    row, carets = (r for r in shown(line, start, start + 4, width) if "|" in r)
    assert columns(row) <= max(width, 27)
    at = carets.index("^")
    assert carets == f"     |{' ' * (at - 6)}^^^^"
    before = row[: row.index("HERE")]
    assert columns(before) == at
    assert ("…" in before) == (start > 0 and not before.endswith("| " + letter * start))


@pytest.mark.parametrize("width", [25, 40, 80])
def test_long_messages_are_wrapped_at_the_width_and_lose_no_word(width: int) -> None:
    message = " ".join(f"word{n}" for n in range(30))
    found = Finding("rule", Severity.WARNING, "a.yaml", 0, 0, message, message)
    text = as_text("a.yaml", LintedText("a.yaml", "", [found]), width=width)
    assert max(map(len, text.split("\n"))) <= width
    assert text.split().count("word29") == 2
    assert as_text("a.yaml", LintedText("a.yaml", "", [found])).count("\n") == 2


def test_colors_change_nothing_else_and_are_off_by_default() -> None:
    linted = LintedText("c.yaml", text := "name: [", lint_text(text, "c.yaml"))
    plain, painted = as_text("c.yaml", linted), as_text("c.yaml", linted, in_color)
    assert "\x1b" not in plain
    assert "\x1b[1;31merror [schema]\x1b[0m" in painted
    assert re.sub(r"\x1b\[[\d;]*m", "", painted) == plain


def test_control_characters_of_a_file_do_not_reach_the_terminal() -> None:
    text = "name: \x1b]0;title\x07 \u202e\n"
    shown_text = as_text("c.yaml", LintedText("c.yaml", text, lint_text(text, "c.yaml")))
    assert "invalid control character U+001B" in shown_text
    assert not {"\x1b", "\x07", "\u202e"} & set(shown_text)


def test_a_diff_is_green_and_red() -> None:
    assert as_diff(["@@", " a ", "-b", "+c"], in_color).split("\n") == [
        "\x1b[2m@@\x1b[0m", " a ", "\x1b[31m-b\x1b[0m", "\x1b[32m+c\x1b[0m",
    ]  # fmt: skip


def test_spaces_at_the_end_of_a_changed_line_can_be_seen() -> None:
    assert as_diff(["-b  "], in_color) == "\x1b[31m-b\x1b[0m\x1b[31;7m  \x1b[0m"
    assert as_diff(["-b  "]) == "-b  "


# --- JSON and GitHub -----------------------------------------------------------------------------


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
            "end_line": 0,
            "end_column": 0,
            "edits": [],
        }
    ]


def test_json_has_the_end_of_a_finding_and_the_edits_that_repair_it() -> None:
    (found,) = json.loads(as_json(lint_text("Name: x\nversion: 1.0.0\n", "c.yaml")[:1]))
    assert (found["line"], found["column"], found["end_line"], found["end_column"]) == (1, 1, 1, 5)
    assert found["edits"] == [{"start": 0, "end": 4, "text": "name"}]


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
    rows = run("weak.yaml", "hhh", "broken.yaml", "--format", "short")[1].splitlines()
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
