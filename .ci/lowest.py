"""The lowest versions of gRPC and protobuf that pyproject.toml allows, for `make test-lowest`.

python .ci/lowest.py            print them, as requirements for pip
python .ci/lowest.py --check    fail unless Python imports exactly these
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
FAMILY = ("grpcio", "protobuf", "googleapis-common-protos")
TOOLS = "grpcio-tools"  # generates the stubs and is pinned; nothing imports it at run time


def lowest(project: Mapping[str, Any]) -> dict[str, str]:
    """Package → its lowest version, over the base install and every extra.

    Raises SystemExit for a requirement without a lower bound.
    """
    extras = project["optional-dependencies"].values()
    found: dict[str, str] = {}
    for requirement in [*project["dependencies"], *(each for extra in extras for each in extra)]:
        name = re.split(r"[^\w.-]", requirement)[0]
        if not name.startswith(FAMILY) or name == TOOLS:
            continue
        bound = re.search(r">=\s*([\d.]+)", requirement)
        if bound is None:
            raise SystemExit(f"error: no lower bound: {requirement}; write {name}>=VERSION")
        found[name] = bound[1]
    return found


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version, without zeros at its end: 1.71 is 1.71.0."""
    return tuple(int(part) for part in re.sub(r"(\.0)+$", "", version).split("."))


def others(wanted: Mapping[str, str]) -> list[str]:
    """The packages that are installed in another version than the wanted one."""
    versions = {name: metadata.version(name) for name in wanted}
    return [
        f"{name} {versions[name]} instead of {version}"
        for name, version in wanted.items()
        if release(versions[name]) != release(version)
    ]


def main(arguments: Sequence[str]) -> int:
    """The process's exit status."""
    wanted = lowest(tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"])
    if arguments != ["--check"]:
        print(*(f"{name}=={version}" for name, version in wanted.items()))
        return 0
    if wrong := others(wanted):
        print(f"error: not the lowest versions: {', '.join(wrong)}; set PYTHONPATH to their folder")
        return 1
    print("lowest versions:", *(f"{name} {version}" for name, version in wanted.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
