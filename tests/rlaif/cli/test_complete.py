"""Shell completion: of commands and flags by Typer, of names and of serve's flags by us."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from judge_service.settings_flags import OTHER_FLAGS, setting_flags
from rlaif.cli import complete

RLAIF = "import sys; sys.argv[0] = 'rlaif'; from rlaif.cli.main import main; main()"
HEAVY = ("torch", "transformers", "vllm", "grpc", "datasets")


def completed(line: str) -> list[str]:
    """What bash is offered for the last word of a command line, which may be empty."""
    words = line.split(" ")
    environment = os.environ | {
        "_RLAIF_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", RLAIF], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rlaif const", ["constitution"]),
        ("rlaif train d", ["dpo"]),
        ("rlaif label x --upd", ["--update"]),
        ("rlaif label x --tok", ["--token"]),
        ("rlaif label x --judge smol", ["smollm2-135m"]),
        ("rlaif judge compare a b c -c h", ["harmless", "hhh"]),
        ("rlaif constitution lint over", []),
        ("rlaif sample qui", ["quickstart"]),
        ("rlaif train dpo x --model q", ["qwen2.5-coder-1.5b"]),
        ("rlaif models fetch s", ["smollm2-135m"]),
        ("rlaif serve --max-ca", ["--max-candidates"]),
        ("rlaif serve --model ", ["smollm2-135m", "qwen2.5-coder-1.5b"]),
        ("rlaif serve --model x -c ov", ["overall"]),
        ("rlaif serve --model x --insecure --log-format ", ["text", "json"]),
        ("rlaif serve --engine o", ["openai"]),
        ("rlaif serve --tokens /", []),
    ],
)
def test_the_shell_is_offered(line: str, expected: list[str]) -> None:
    assert completed(line) == expected


def test_every_flag_of_serve_is_completed_with_its_help() -> None:
    offered = {each.value: each.help for each in complete.serve([], "--")}
    flags = {name: flag for flag in setting_flags() for name in flag.names if name[:2] == "--"}
    assert set(OTHER_FLAGS) | set(flags) <= set(offered)
    assert {"--no-store", "--no-reflection"} <= set(offered)
    assert all(offered.values())


def test_the_shipped_recipes_are_completed() -> None:
    assert complete.recipes("quick") == [("quickstart", "")]
    assert {name for name, _ in complete.recipes("")} >= {"quickstart", "cpu_study"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_to_install_is_shown(shell: str) -> None:
    environment = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RLAIF, "--show-completion", shell],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "_RLAIF_COMPLETE" in done.stdout


@pytest.mark.parametrize("name", ["models", "constitutions", "recipes", "prompts"])
def test_completing_a_name_imports_nothing_heavy(name: str) -> None:
    script = (
        f"import sys; from rlaif.cli import complete; complete.{name}('')\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
