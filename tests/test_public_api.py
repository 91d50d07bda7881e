"""The public API of `import rlaif` and `import judge_service`: light, typed, documented."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
import tomllib
import typing
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import judge_service
import rlaif

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
PACKAGES = (rlaif, judge_service)
HEAVY = ("torch", "transformers", "vllm", "pydantic", "grpc", "numpy", "typer")


def table(package: str) -> list[tuple[str, str, str]]:
    """(name, what it is, example) of the rows under the heading of a package in docs/api.md."""
    section = PAGE.partition(f"\n## {package}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \| (.+?) \| `(.+)` \|$", section, re.MULTILINE)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.__name__)
def test_the_page_names_exactly_the_public_names(package: ModuleType) -> None:
    assert sorted(name for name, _, _ in table(package.__name__)) == sorted(package.__all__)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.__name__)
def test_every_example_of_the_page_is_python(package: ModuleType) -> None:
    for name, _, example in table(package.__name__):
        code = f"try: pass\n{example}" if example.startswith("except") else example
        compile(code, f"docs/api.md, {name}", "exec")
        assert not [n for n in re.findall(r"\brlaif\.(\w+)", example) if n not in rlaif.__all__]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.__name__)
def test_every_public_name_is_there_and_explains_itself(package: ModuleType) -> None:
    for name in package.__all__:
        value = getattr(package, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), name
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="has no attribute 'trian_dpo'"):
        _ = package.trian_dpo


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.__name__)
def test_importing_loads_nothing_heavy(package: ModuleType) -> None:
    code = (
        f"import sys, {package.__name__}; print([n for n in {HEAVY!r} if n in sys.modules], "
        f"sum(n.partition('.')[0] in ('rlaif', 'judge_service') for n in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] 1", "none of these, and of ours the package alone"


def test_using_a_function_s_checks_imports_no_torch() -> None:
    code = """
import sys, rlaif
try:
    rlaif.train_ppo("missing.jsonl", model="smollm", reward="nowhere", iteratons=3)
except rlaif.RefusedError as error:
    print(len(error.problems), "torch" in sys.modules, "transformers" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "4 False False"


def test_type_checkers_see_the_same_names() -> None:
    """What a package imports under TYPE_CHECKING is what it exports, from where it takes it."""
    for package in PACKAGES:
        source = Path(str(package.__file__)).read_text(encoding="utf-8")
        block = source.partition("if TYPE_CHECKING:\n")[2].partition("\n__all__")[0]
        found = {
            name: module
            for module, names in re.findall(r"from ([\w.]+) import (\([^)]*\)|[^\n]*)", block)
            for name in re.findall(r"\w+", names)
        }
        assert set(found) == set(package.__all__) - {"__version__"}
        for name, module in found.items():
            assert getattr(import_module(module), name) is getattr(package, name), name


# ── versions and types ───────────────────────────────────────────────────────────────────────


def test_the_version_is_the_installed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    monkeypatch.setattr(metadata, "version", lambda name: {"rlaif": project["version"]}[name])
    assert rlaif.__version__ == project["version"]


def test_a_checkout_that_was_never_installed_has_a_version_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert rlaif.__version__ == "0+checkout"


def test_every_package_of_the_wheel_ships_its_type_marker() -> None:
    """Hatch takes every file of these folders that git does not ignore; see also
    tests/test_base_install.py, which looks at the installed packages."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    markers = [f"{name}/py.typed" for name in
               config["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]  # fmt: skip
    assert len(markers) == 4
    assert not [marker for marker in markers if not (ROOT / marker).is_file()]
    ignored = subprocess.run(
        ["git", "check-ignore", *markers], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert not ignored.stdout


def types_in(hint: Any) -> Iterator[type]:
    if inspect.isclass(hint) and not typing.get_args(hint):
        yield hint
    for inner in typing.get_args(hint):
        yield from types_in(inner)


def hints_of(value: Any) -> Iterator[Any]:
    """Type hints of a class's public methods, or of a dataclass's fields."""
    if dataclasses.is_dataclass(value):
        yield from typing.get_type_hints(value).values()
        return
    for name, method in inspect.getmembers(value, inspect.isfunction):
        if not name.startswith("_"):
            yield from typing.get_type_hints(method).values()


@pytest.mark.parametrize("client", ["JudgeClient", "AsyncJudgeClient"])
def test_the_types_of_every_argument_and_result_of_a_client_are_public(client: str) -> None:
    public = {getattr(judge_service, name) for name in judge_service.__all__}
    waiting, seen = [getattr(judge_service, client)], set[type]()
    while waiting:
        for hint in hints_of(waiting.pop()):
            for found in types_in(hint):
                ours = found.__module__.partition(".")[0] in ("judge_service", "constitution")
                if ours and found not in seen:
                    seen.add(found)
                    waiting += [found] if dataclasses.is_dataclass(found) else []
    assert len(seen) > 20
    assert not {found.__name__ for found in seen - public}
