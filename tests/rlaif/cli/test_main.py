"""The command line: fast help, readable errors, exit codes."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from constitution.errors import UserError
from rlaif.cli.main import OUR_PACKAGES, app
from rlaif.cli.version import version_text
from rlaif.pipeline.recipe import Recipe, shipped_recipes
from rlaif.settings import configured, merge_settings

ROOT = Path(__file__).resolve().parents[3]

BROKEN = """\
name: shop
version: "1.0.0"
traits: {kind: {description: kindness}}
principles:
  - id: polite
    trait: kind
    compair: Prefer the politer reply.
    critique: Find rudeness.
    revise: Make it polite.
"""


def rlaif(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rlaif", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from rlaif.cli.main import app; "
        "print([m for m in ('pydantic', 'torch', 'transformers', 'vllm', 'grpc', 'datasets') "
        "if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_module_missing_from_our_own_packages_is_not_blamed_on_the_install() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(OUR_PACKAGES) == set(
        project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    )


@pytest.mark.parametrize(
    "command",
    [
        "serve", "top", "store stats", "store gc", "store export", "token new",
        "judge compare", "judge rank", "judge score", "judge critique", "judge revise",
        "judge preview", "constitution show", "constitution lint",
        "constitution test", "constitution diff", "constitution ablate", "constitution try",
        "models fetch", "models list", "sample", "label", "labels show", "labels stats",
        "labels verify", "labels export", "train sft", "train reward", "train dpo", "train ppo",
        "train rest", "reward weigh", "reward compare", "models merge", "revise", "evaluate",
        "report", "run", "doctor", "redteam", "redteam attack", "redteam adopt",
        "redteam check", "redteam convert",
    ],
)  # fmt: skip
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_a_user_error_is_one_message_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(BROKEN)
    result = rlaif("constitution", "show", str(tmp_path / "shop.yaml"))
    assert result.returncode == 1
    assert "shop.yaml:7:5" in result.stderr
    assert "compare" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_extra_is_named_before_the_run_starts(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['peft'] = None; sys.argv = ['rlaif', 'run', 'quickstart']; "
        "from rlaif.cli.main import main; main()"
    )
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert not (tmp_path / "runs").exists()
    assert result.stderr.startswith("error: this command needs the package 'peft'")
    assert "[vllm,train,report]'" in result.stderr


def test_wrong_usage_exits_with_2() -> None:
    assert rlaif("run").returncode == 2
    assert rlaif("run", "quickstart", "--dry").returncode == 2


def test_an_unreachable_server_is_reported_with_the_remedy() -> None:
    result = rlaif("judge", "compare", "a", "b", "c", "--server", "127.0.0.1:1")
    assert result.returncode == 1
    assert "127.0.0.1:1" in result.stderr
    assert "rlaif serve" in result.stderr


def test_a_folder_without_a_model_is_reported_with_the_missing_file(tmp_path: Path) -> None:
    result = rlaif("serve", "--model", str(tmp_path))
    assert result.returncode == 1
    assert "config.json" in result.stderr


def test_a_constitution_shows_as_json() -> None:
    result = CliRunner().invoke(app, ["constitution", "show", "hhh", "--json"])
    assert len(json.loads(result.output)["digest"]) == 64


def test_lint_exits_with_1_on_errors_only(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(BROKEN)
    assert CliRunner().invoke(app, ["constitution", "lint", str(tmp_path / "shop.yaml")]).exit_code
    assert CliRunner().invoke(app, ["constitution", "lint", "hhh"]).exit_code == 0


def test_run_draws_the_graph_as_text_and_in_mermaid(tmp_path: Path) -> None:
    result = rlaif("run", "quickstart", "--graph", "dpo=null", "--out", str(tmp_path / "run"))
    assert result.returncode == 0
    text, mermaid = result.stdout.split("\n\n")
    assert text.splitlines()[0] == "samples     sample    model: policy"
    assert mermaid.startswith("```mermaid\nflowchart LR\n")
    assert "dpo" not in result.stdout
    assert not (tmp_path / "run").exists()


def test_recipes_lists_those_that_ship_with_a_line_each_and_prints_one_to_copy(
    tmp_path: Path,
) -> None:
    listed = CliRunner().invoke(app, ["recipes"])
    assert [line.split()[0] for line in listed.output.splitlines()] == list(shipped_recipes())
    copy = tmp_path / "copy.yaml"
    copy.write_text(CliRunner().invoke(app, ["recipes", "quickstart"]).output)
    assert Recipe.load(str(copy)) == Recipe.load("quickstart")
    assert "did you mean 'quickstart'" in rlaif("recipes", "quikstart").stderr


def test_merging_settings_does_not_modify_the_base() -> None:
    base = {"ppo": {"iterations": 1}}
    assert merge_settings(base, ["ppo.iterations=2"]) == {"ppo": {"iterations": 2}}
    assert base == {"ppo": {"iterations": 1}}


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(UserError, match="stages: missing setting"):
        configured(
            Recipe, [], {"name": "x", "models": {"p": "a/b"}, "constitution": "c", "prompts": "q"}
        )


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = CliRunner().invoke(app, ["run", "quickstart", "--dry-run", "--out", str(out)])
    assert result.exit_code == 0
    assert "8/8 report" in result.output
    assert not out.exists()


def test_the_version_names_python_and_the_engines_without_importing_them() -> None:
    script = (
        "import sys; sys.argv = ['rlaif', '--version']\n"
        "from rlaif.cli.main import main\n"
        "try: main()\n"
        "finally: print([m for m in ('torch', 'transformers', 'vllm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *lines, imported = done.stdout.splitlines()
    assert imported == "[]"
    shown = dict(line.rsplit(" ", 1) for line in lines)
    assert shown["rlaif"] == metadata.version("rlaif")
    assert shown["Python"] == platform.python_version()
    assert shown["torch"] == metadata.version("torch")
    assert shown["transformers"] == metadata.version("transformers")


def test_packages_that_are_not_installed_are_left_out_of_the_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("rlaif.cli.version.metadata.version", absent)
    assert version_text() == (
        f"rlaif of a checkout that is not installed\nPython {platform.python_version()}"
    )
