"""`rlaif constitution new | show | lint` on files, pipes and terminals."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from constitution import Constitution
from constitution.lint import lint
from constitution.loader import read_source
from rlaif.cli.main import app

MESSY = """\
# My rules.
name: mine
version: 1.0.0
traits:
  kind: {description: Kindness}
principles:
  - id: calm
    trait: kind
    compare: Prefer the reply that  stays calm under blame
    critique: Find anger.
    revise: Remove it.
    examples:
      - {prompt: Hi, response_a: A longer greeting., response_b: Hello., preferred: B}
      - {prompt: Hey, response_a: A longer greeting., response_b: Hello., preferred: A}
"""
REPAIRED = MESSY.replace("that  stays calm under blame", "that stays calm under blame.")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(MESSY)
    return file


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["constitution", *map(str, arguments)])


# ── new ──────────────────────────────────────────────────────────────────────────────────────


def test_new_writes_a_file_and_names_the_next_commands() -> None:
    found = run("new", "mine", "--from", "customer_support")
    assert found.exit_code == 0, found.output
    assert Constitution.load("mine.yaml").name == "mine"
    assert lint("mine.yaml") == []
    assert "wrote mine.yaml: copied from customer_support, 9 principles" in found.output
    for command in ("lint mine.yaml", "test mine.yaml --judge", "try mine.yaml --judge"):
        assert f"rlaif constitution {command}" in found.output


def test_new_does_not_overwrite() -> None:
    Path("mine.yaml").write_text("precious")
    Path("dangling.yaml").symlink_to("nowhere.yaml")
    for out in ("mine.yaml", "dangling.yaml"):
        found = run("new", "mine", "--out", out)
        assert f"file exists: {out}; delete it, or give another --out" in str(found.exception)
    assert Path("mine.yaml").read_text() == "precious"
    assert not Path("nowhere.yaml").exists()


def test_the_commands_that_new_names_take_the_path_as_it_was_given() -> None:
    found = run("new", "mine", "--out", "sub folder/rules")
    assert "rlaif constitution lint 'sub folder/rules'" in found.output
    found = run("new", "mine", "--out", "rules")  # a bare word would be a shipped name
    assert "rlaif constitution lint ./rules" in found.output
    assert lint("./rules") == []


def test_new_has_help_with_an_example() -> None:
    shown = run("new", "--help").output
    assert "Usage" in shown
    assert "Example: rlaif constitution new my_rules --from customer_support" in shown


def test_a_wrong_name_or_origin_writes_nothing() -> None:
    assert "invalid name" in str(run("new", "My Rules").exception)
    assert "did you mean 'hhh'" in str(run("new", "mine", "--from", "hhhh").exception)
    assert list(Path().iterdir()) == []


# ── show ─────────────────────────────────────────────────────────────────────────────────────


def test_show_yaml_prints_the_file_as_it_is(tmp_path: Path) -> None:
    assert run("show", "hhh", "--yaml").stdout_bytes == read_source("hhh")[0].encode()
    data = ("\ufeff" + MESSY + "# é\n").replace("\n", "\r\n").encode()
    (tmp_path / "odd.yaml").write_bytes(data)
    assert run("show", tmp_path / "odd.yaml", "--yaml").stdout_bytes == data


def test_show_yaml_needs_a_name_and_excludes_json() -> None:
    assert run("show", "--yaml").exit_code == 2
    assert run("show", "hhh", "--yaml", "--json").exit_code == 2


def test_show_cuts_no_identifier_and_reads_brackets_as_text() -> None:
    name = "a-very-long-identifier-of-a-principle-that-goes-on-and-on-to-its-end"[:64]
    text = MESSY.replace("id: calm", f"id: {name}").replace("under blame", "[b]under[/b] blame")
    Path("long.yaml").write_text(text)
    shown = run("show", "long.yaml").output
    assert "…" not in shown
    assert "[b]under[/b]" in shown
    first_column = "".join(row.split("│")[1].strip() for row in shown.splitlines() if "│" in row)
    assert first_column == name


# ── lint ─────────────────────────────────────────────────────────────────────────────────────


def test_lint_shows_the_source_line_and_points_to_the_words(messy: Path) -> None:
    rows = run("lint", "mine.yaml").output.splitlines()
    at = rows.index("   9 |     compare: Prefer the reply that  stays calm under blame")
    assert rows[at - 1].startswith("mine.yaml:9:31: advice [doubled-space] ")
    assert rows[at + 1] == "     |                               ^^^^^^^^^^^"
    assert rows[at + 2] == "     = write one space"
    assert rows[-1] == "mine.yaml: 2 findings (2 advice); --fix repairs 2 of them"


def test_lint_of_a_file_that_is_not_text_says_where(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"name: x\nversion: \xff\n")
    found = run("lint", "binary.yaml")
    assert found.exit_code == 1
    assert found.output.startswith("binary.yaml:2:10: error [schema] not UTF-8 text")


def test_lint_colors_on_demand_and_never_against_no_color(
    messy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "\x1b[" not in run("lint", "mine.yaml").output
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[1;36madvice [doubled-space]\x1b[0m" in run("lint", "mine.yaml").output
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in run("lint", "mine.yaml").output


def test_fix_repairs_the_file_and_shows_what_changed(messy: Path) -> None:
    found = run("lint", "mine.yaml", "--fix", "--strict")
    assert found.exit_code == 0
    assert messy.read_text() == REPAIRED
    rows = found.output.splitlines()
    assert "-    compare: Prefer the reply that  stays calm under blame" in rows
    assert "+    compare: Prefer the reply that stays calm under blame." in rows
    assert "mine.yaml: repaired 2 of 2 findings" in rows
    assert "rlaif label --update" in found.output  # labels depend on the text
    assert rows[-1] == "mine.yaml: no findings"
    again = run("lint", "mine.yaml", "--fix")
    assert again.output == "mine.yaml: no findings\n"


def test_fix_keeps_links_and_permissions_and_leaves_no_other_file(messy: Path) -> None:
    messy.chmod(0o640)
    Path("link.yaml").symlink_to("mine.yaml")
    run("lint", "link.yaml", "--fix")
    assert Path("link.yaml").is_symlink()
    assert messy.read_text() == REPAIRED
    assert stat.S_IMODE(messy.stat().st_mode) == 0o640
    assert sorted(os.listdir()) == ["link.yaml", "mine.yaml"]


def test_fix_does_not_touch_a_file_without_certain_repairs(messy: Path) -> None:
    messy.write_text(REPAIRED.replace("critique:", "critque:"))
    before = messy.stat().st_mtime_ns, messy.stat().st_ino
    found = run("lint", "mine.yaml", "--fix")
    assert found.exit_code == 1
    assert "did you mean 'critique'?" in found.output
    assert (messy.stat().st_mtime_ns, messy.stat().st_ino) == before
    assert run("lint", "absent.yaml", "--fix").exit_code == 1


def test_fix_with_json_prints_the_remaining_findings_only(messy: Path) -> None:
    messy.write_text(MESSY.replace("critique:", "critque:").replace("1.0.0", "1.0"))
    found = run("lint", "mine.yaml", "--fix", "--json")
    assert [finding["line"] for finding in json.loads(found.stdout)] == [10]
    assert 'version: "1.0.0"' in messy.read_text()


def test_fix_refuses_a_shipped_constitution_before_it_repairs_another(messy: Path) -> None:
    found = run("lint", "mine.yaml", "hhh", "--fix")
    assert "rlaif constitution new my_rules --from hhh" in str(found.exception)
    assert messy.read_text() == MESSY
