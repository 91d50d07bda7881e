"""Files of regression tests: JSONL of ours, or promptfoo's YAML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlaif.data.records import RecordError, atomic_open
from rlaif.redteam.records import read_lines
from rlaif.redteam.regressions.promptfoo import promptfoo_yaml, read_promptfoo
from rlaif.redteam.regressions.records import Regression


def is_yaml(path: Path) -> bool:
    """Whether a file of tests is promptfoo's."""
    return path.suffix in (".yaml", ".yml")


def read_regressions(path: Path) -> list[Regression]:
    """The tests in a file, at least one, each with an id of its own.

    Raises RecordError naming file, line and field; never a text of a prompt.
    """
    found = read_promptfoo(path) if is_yaml(path) else _read_ours(path)
    if not found:
        raise RecordError(f"{path}: no tests in it; adopt some: rlaif redteam adopt")
    seen: set[str] = set()
    for each in found:
        if each.id in seen:
            raise RecordError(f"{path}: two tests have the id {each.id!r}; rename or delete one")
        seen.add(each.id)
    return found


def _read_ours(path: Path) -> list[Regression]:
    return read_lines(path, Regression, "redteam adopt", "correct or delete this line")


def write_regressions(path: Path, tests: Sequence[Regression]) -> None:
    """Write tests atomically, as promptfoo's YAML where the file's name says so.

    Raises RecordError as `atomic_open`, and for a text that YAML for promptfoo cannot hold.
    """
    lines = "".join(each.model_dump_json() + "\n" for each in tests)
    content = promptfoo_yaml(tests) if is_yaml(path) else lines
    with atomic_open(path) as out:
        out.write(content)
