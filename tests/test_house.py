"""The layout of the repository: small folders, unique class names, complete lists of contents."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("constitution", "hardware", "judge_service", "rlaif")
GENERATED = PurePosixPath("judge_service/v1")
MAX_FILES = 12
FOLDERS_OF_VARIATIONS: frozenset[str] = frozenset()
"""Folders that may hold more files, because each file is one variation of the same thing."""


def listing(entries: Mapping[str, object]) -> str:
    return "".join(f"\n  {name}: {value}" for name, value in sorted(entries.items()))


@cache
def tracked_files() -> tuple[PurePosixPath, ...]:
    """Every file that git tracks, or would track once it is added."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"git cannot list the files of this checkout: {error}")
    names = filter(None, result.stdout.split("\0"))
    return tuple(PurePosixPath(name) for name in names if (ROOT / name).is_file())


def python_files() -> list[PurePosixPath]:
    """Every Python file but the generated ones."""
    return [
        path for path in tracked_files() if path.suffix == ".py" and GENERATED not in path.parents
    ]


def test_no_folder_holds_more_than_a_dozen_python_files() -> None:
    folders: dict[str, int] = defaultdict(int)
    for path in python_files():
        if path.parts[0] in (*PACKAGES, "tests", "benchmarks"):
            folders[str(path.parent)] += 1
    crowded = {
        folder: count
        for folder, count in folders.items()
        if count > MAX_FILES and folder not in FOLDERS_OF_VARIATIONS
    }
    assert not crowded, f"split the folders with over {MAX_FILES} Python files:{listing(crowded)}"


def test_class_names_are_unique() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in python_files():
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path}:{node.lineno}")
    duplicates = {name: where for name, where in places.items() if len(where) > 1}
    assert not duplicates, f"rename all but one class of each name:{listing(duplicates)}"


def layout(readme: str) -> list[str]:
    """The folders that the README's Layout section lists, one per line: `name/   what it is`."""
    section = re.search(r"^#+ Layout$(.*?)(?=^#+ |\Z)", readme, re.MULTILINE | re.DOTALL)
    assert section is not None, "README.md has no heading Layout"
    block = re.search(r"^```\w*\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
    assert block is not None, "the Layout section of README.md has no code block"
    return re.findall(r"^(\S+)/(?=\s)", block[1], re.MULTILINE)


def test_layout_reads_the_code_block_under_its_heading() -> None:
    readme = (
        "# x\n```\nno/  \n```\n## Layout\n```\na/   first\n  b/   nested\nc.md\nd/ last\n```\n# y\n"
    )
    assert layout(readme) == ["a", "d"]


def test_the_readme_lists_every_top_level_folder() -> None:
    listed = layout((ROOT / "README.md").read_text(encoding="utf-8"))
    folders = {path.parts[0] for path in tracked_files() if len(path.parts) > 1}
    assert sorted(listed) == sorted(name for name in folders if not name.startswith("."))


def contents(package: PurePosixPath) -> set[str]:
    """What the docstring of a package has to name: its modules, and its subpackages as `name/`."""
    names = set()
    for path in python_files():
        if path.parent == package and not path.stem.startswith("__"):
            names.add(path.name)
        elif path.parent.parent == package and path.name == "__init__.py":
            names.add(f"{path.parent.name}/")
    return names


def test_every_package_docstring_names_its_modules() -> None:
    missing = {}
    for path in python_files():
        if path.name != "__init__.py" or path.parts[0] not in PACKAGES:
            continue
        docstring = ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8"))) or ""
        words = {word.rstrip(".") for word in re.findall(r"[\w./]+", docstring)}
        if absent := contents(path.parent) - words:
            missing[str(path)] = sorted(absent)
    assert not missing, f"name these modules in the package docstring:{listing(missing)}"


NAMED_PATH = re.compile(
    r"(?<![\w/.-])((?:constitution|hardware|judge_service|rlaif|tests|benchmarks|docs|deploy)"
    r"/[\w./-]*\.(?:py|md|yaml|jsonl|j2))\b"
)


def test_every_path_that_code_and_docs_name_exists() -> None:
    """`mine.py` stands for a file that the reader writes; the log names files of its day."""
    missing = {}
    for path in tracked_files():
        if path.suffix in {".py", ".md", ".yaml"} and str(path) != "docs/log.md":
            named = set(NAMED_PATH.findall((ROOT / path).read_text(encoding="utf-8")))
            absent = {n for n in named if not (ROOT / n).exists() and not n.endswith("/mine.py")}
            if absent:
                missing[str(path)] = sorted(absent)
    assert not missing, f"these name files that do not exist:{listing(missing)}"
