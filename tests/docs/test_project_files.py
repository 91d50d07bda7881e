"""Workflow, hooks, templates, and the pages for contributors: they load, and name what exists."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
FORM_TYPES = {"markdown", "textarea", "input", "dropdown", "checkboxes"}
WITH_COMMANDS = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/getting_started.md",
    ".github/PULL_REQUEST_TEMPLATE.md",
    ".github/workflows/check.yml",
)


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def workflow() -> Any:
    return loaded(ROOT / ".github" / "workflows" / "check.yml")


# ── the workflow ─────────────────────────────────────────────────────────────────────────────


def test_the_workflow_runs_on_pushes_and_pull_requests(workflow: Any) -> None:
    assert workflow[True].keys() == {"push", "pull_request"}  # YAML 1.1 reads `on` as true


def test_the_workflow_may_only_read(workflow: Any) -> None:
    assert workflow["permissions"] == {"contents": "read"}


def test_the_workflow_runs_make_check(workflow: Any) -> None:
    (job,) = workflow["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["make install", "make check"]
    assert {command.removeprefix("make ") for command in commands} <= TARGETS


def test_the_workflow_tests_the_oldest_python_that_is_supported(workflow: Any) -> None:
    (job,) = workflow["jobs"].values()
    versions = job["strategy"]["matrix"]["python"]
    assert all(isinstance(version, str) for version in versions), "3.10 would be read as 3.1"
    assert PROJECT["requires-python"] == f">={versions[0]}"
    assert versions == sorted(versions, key=lambda v: [int(part) for part in v.split(".")])
    assert "${{ matrix.python }}" in str(job["steps"])


# ── hooks ────────────────────────────────────────────────────────────────────────────────────


def test_hooks_are_local_and_run_the_tools_of_the_environment() -> None:
    (repo,) = loaded(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repo["repo"] == "local"
    assert [hook["id"] for hook in repo["hooks"]] == ["ruff-format", "ruff-check", "mypy"]
    for hook in repo["hooks"]:
        python, *arguments = hook["entry"].split()
        assert python == ".venv/bin/python"
        assert hook["language"] == "system"
        done = subprocess.run(
            [sys.executable, *arguments, "--help"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


# ── templates ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_an_issue_form_has_what_github_requires(path: Path) -> None:
    form = loaded(path)
    if path.name == "config.yml":
        assert form == {"blank_issues_enabled": True}
        return
    assert form.keys() == {"name", "description", "labels", "body"}
    assert {item["type"] for item in form["body"]} <= FORM_TYPES
    ids = [item["id"] for item in form["body"]]
    assert len(ids) == len(set(ids))
    assert all(item["attributes"]["label"] for item in form["body"])


def test_there_are_forms_for_bugs_and_wishes() -> None:
    assert [path.name for path in TEMPLATES] == ["bug.yml", "config.yml", "feature.yml"]


# ── what the pages name ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_every_make_target_that_is_named_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`|run: )make ([a-z][a-z-]*)", text, re.MULTILINE))
    assert named
    assert named <= TARGETS


def test_make_help_names_every_target_but_itself() -> None:
    helped = set(re.findall(r'@echo "make ([a-z-]+)', MAKEFILE))
    assert helped == TARGETS - {"help"}
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == TARGETS


def test_the_security_page_is_true_of_the_servers_defaults() -> None:
    from judge_service.settings import ServerSettings

    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    defaults = ServerSettings(model="any")
    assert f"Listens on {defaults.host}, without TLS and tokens" in page
    assert not defaults.with_tls
    assert not defaults.authenticates
    assert not defaults.allow_inline_constitutions
    assert not defaults.insecure
    assert defaults.metrics_port is None
    assert defaults.reflection is None
