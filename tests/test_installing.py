"""Installation hints in errors, and no command that installs the unrelated `rlaif` of PyPI.

PyPI's `rlaif` is not this project, so a command that names it would install someone else's code.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from constitution import errors
from constitution.errors import install_hint

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OURS = "rlaif"  # kept apart from "install" in this file, which is searched too


def commands(hint: str) -> list[list[str]]:
    """The arguments of each command in a hint, as a shell would split them."""
    return [shlex.split(command) for command in re.findall(r"`([^`]+)`", hint)]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose path contains a space; the package appears to be imported from it."""
    folder = tmp_path / "my projects"
    (folder / "constitution").mkdir(parents=True)
    shutil.copy(ROOT / "pyproject.toml", folder)
    monkeypatch.setattr(errors, "__file__", str(folder / "constitution" / "errors.py"))
    return folder


# ── the hint ─────────────────────────────────────────────────────────────────────────────────


def test_the_hint_in_a_checkout_can_be_pasted_anywhere(checkout: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "-e"]
    assert commands(install_hint("trace")) == [[*pip, f"{checkout}[trace]"]]
    assert commands(install_hint("vllm", "train")) == [
        [*pip, f"{checkout}[vllm,train]"],
        ["make", "-C", str(checkout), "install"],
    ]


@pytest.mark.parametrize(
    "beside", [None, "", "not TOML", '[project]\nname = "other"\n', "[tool.x]\n", "project = 1\n"]
)
def test_the_hint_outside_a_checkout_says_where_to_run_it(
    checkout: Path, beside: str | None
) -> None:
    if beside is None:
        (checkout / "pyproject.toml").unlink()
    else:
        (checkout / "pyproject.toml").write_text(beside, encoding="utf-8")
    hint = install_hint("track")
    assert commands(hint) == [[sys.executable, "-m", "pip", "install", ".[track]"]]
    assert hint.endswith("in the project's checkout")
    assert "`make install` in the project's checkout without one" in install_hint("vllm")


def test_every_extra_named_in_an_error_exists() -> None:
    named = {
        extra
        for package in ("constitution", "judge_service", "rlaif")
        for path in (ROOT / package).rglob("*.py")
        for call in re.findall(
            r"\b(?:install_hint\(|needs_extra=)((?:\"|')[^)]+)\)", path.read_text("utf-8")
        )
        for extra in re.findall(r"[\w-]+", call)
    }
    assert {"vllm", "train", "openai", "postgres", "trace", "track"} <= named
    assert named <= set(PROJECT["optional-dependencies"])
    assert re.search(r"^install: \$\(READY\)$", (ROOT / "Makefile").read_text("utf-8"), re.M)


# ── no line installs PyPI's package ──────────────────────────────────────────────────────────

JOINED = re.compile(r"""["']\s*\n\s*[frbFRB]{0,2}["']|\\\n|["'],\s*[frbFRB]{0,2}["']""")
"""Where a command continues: the next literal, line of a shell, or item of a list."""

INSTALLS = re.compile(
    r"""\b(?:pip[\d.]*\s+(?:install|download|wheel)|pipx\s+(?:install|run)|uvx|poetry\s+add
        |uv\s+(?:add|tool\s+(?:install|run))|(?:conda|mamba)\s+install)\b
        (?:(?:[ \t]+[^\s;&|#)`]+)*?[ \t]+|\s+(?:[#*>]|//)?[ \t]*)   # arguments, or a wrapped line
        ["'`]*rlaif(?![\w/-]|\.\w)""",
    re.VERBOSE | re.IGNORECASE,
)
WITH_EXTRAS = re.compile(r"(?<![\w./-])rlaif\\?\[[a-z]", re.IGNORECASE)


def installs_from_pypi(text: str) -> list[str]:
    """The commands in a text, joined over lines, that would install PyPI's `rlaif`."""
    text = JOINED.sub(lambda at: "" if "\n" in at[0] and "," not in at[0] else " ", text)
    return [match[0] for pattern in (INSTALLS, WITH_EXTRAS) for match in pattern.finditer(text)]


@pytest.mark.parametrize(
    "text",
    [
        f"pip install {OURS}",
        f"pip3 install {OURS}.",
        f"pip install '{OURS}[vllm]'",
        f'python -m pip install -U "{OURS}==0.1.0"',
        f"uv pip install --python .venv/bin/python --quiet '{OURS}[train]' torch",
        f"/opt/x/bin/uv pip install --no-cache \\\n        {OURS}",
        f"uv add {OURS}",
        f"uv tool install {OURS}",
        f"pipx install {OURS}",
        f"uvx {OURS}",
        f"pip download torch {OURS}>=0.1",
        f"The base install has it (`pip install {OURS}`: no torch).",
        f"It is installed by pip install\n    {OURS}.",
        f"# with pip install\n# {OURS}",
        f'"install it with: pip install "\n            f"{OURS}"',
        f'"vLLM is missing: pip "\n    "install {OURS}"',
        f'[python, "-m", "pip", "install", "--quiet", "{OURS}"]',
        f"or '{OURS}[vllm]' with an NVIDIA GPU",
        f"match=r'{OURS}\\[track\\]'",
        f"pip install {OURS.upper()}",
    ],
)
def test_a_command_that_installs_pypis_package_is_detected(text: str) -> None:
    assert installs_from_pypi(text)


@pytest.mark.parametrize(
    "text",
    [
        "pip install '.[vllm,train]'",
        f"pip install -e '/src/{OURS}[vllm]'",
        f"pip install .\n{OURS} serve --model m",
        f"pip install . && {OURS} models list",
        f"pip install .      # {OURS} and its client",
        f"/opt/{OURS}/bin/uv pip install --python /opt/{OURS}/bin/python '.[trace]'",
        f"podman build -t {OURS}-judge .",
        f"installing {OURS} with pip",
    ],
)
def test_a_command_that_installs_the_checkout_or_nothing_passes(text: str) -> None:
    assert installs_from_pypi(text) == []


def texts() -> dict[str, str]:
    """Every text file that git tracks, or would once it is added, by its path."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        result = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"git cannot list this checkout's files: {error}")
    contents = {}
    for name in result.stdout.split("\0"):
        if name and (ROOT / name).is_file():
            data = (ROOT / name).read_bytes()
            if b"\0" not in data:
                contents[name] = data.decode("utf-8", errors="replace")
    return contents


def test_no_file_of_this_project_installs_pypis_package() -> None:
    contents = texts()
    assert {"README.md", "pyproject.toml", "rlaif/cli/main.py", "deploy/Containerfile"} <= set(
        contents
    )
    # Extras that name the project's own extras: pip and uv resolve them to the project itself.
    for own in re.findall(rf'^[\w-]+ = \["{OURS}\[serve\]"', contents["pyproject.toml"], re.M):
        contents["pyproject.toml"] = contents["pyproject.toml"].replace(own, "")
    commands_by_file = {
        name: lines for name, text in contents.items() if (lines := installs_from_pypi(text))
    }
    assert commands_by_file == {}, "install from the checkout: pip install '.[EXTRA]'"
