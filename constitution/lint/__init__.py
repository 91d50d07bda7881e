"""What a careful editor would say of a constitution, each remark with its place and remedy.

    text -> tree -> constitution -> remarks (a path each) -> findings (a line and column each)

error     it does not load
warning   it loads, and judges worse than it could
advice    worth a second look

The rules live beside this file: `lint_wording` reads each compare text by itself, `lint_pairs`
holds principles against each other, `lint_examples` and `lint_weights` do what their names say;
docs/constitution.md has the table of all rules. A false alarm costs more trust than a miss, so the
rules are narrow. They know English words only, and are silent on texts in other languages. What a
judge makes of a principle is not asked here: `rlaif constitution test` does that.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from constitution.errors import ConstitutionError
from constitution.lint import examples as lint_examples
from constitution.lint import pairs as lint_pairs
from constitution.lint import weights as lint_weights
from constitution.lint import wording as lint_wording
from constitution.lint.finding import Remark, Severity
from constitution.loader import build, read_source
from constitution.schema import Constitution
from constitution.strict_yaml import Path, Tree, parse

__all__ = ["Finding", "Severity", "lint", "lint_text"]

_CHECKS: tuple[Callable[[Constitution], Iterator[Remark]], ...] = (
    lint_weights.remarks,
    lint_wording.remarks,
    lint_pairs.remarks,
    lint_examples.remarks,
)
_LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # YAML 1.1, production b-break


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark. Line 0: of a file as a whole, or of a constitution not read from a text.

    `rule` is stable, for filters; `path` leads to the part, such as ("principles", 2, "compare").
    """

    rule: str
    severity: Severity
    file: str
    line: int
    column: int
    message: str
    remedy: str
    path: Path = ()

    def __str__(self) -> str:
        place = f":{self.line}:{self.column}" if self.line else ""
        remedy = f" ({self.remedy})" if self.remedy else ""
        return f"{self.file}{place}: {self.severity} [{self.rule}] {self.message}{remedy}"


def lint(target: Constitution | str | os.PathLike[str]) -> list[Finding]:
    """Findings about a constitution, a shipped name or a file, in the order of the text.

    A file that cannot be read or does not load gives findings of severity error, no exception.
    """
    if isinstance(target, Constitution):
        return [_finding(remark, target.name, 0, 0) for remark in _remarks(target)]
    try:
        text, source = read_source(target)
    except ConstitutionError as error:
        return _refused(error)
    return lint_text(text, source)


def lint_text(text: str, source: str = "<text>") -> list[Finding]:
    """Findings about a YAML text, in its order; `source` names it in them."""
    try:
        tree = parse(text, source)
        constitution = build(tree)
    except ConstitutionError as error:
        return _refused(error)
    spots = _Spots(text.removeprefix("\ufeff"), tree)
    found = [_finding(remark, source, *spots.of(remark)) for remark in _remarks(constitution)]
    return sorted(found, key=lambda finding: (finding.line, finding.column, finding.rule))


def _remarks(constitution: Constitution) -> Iterator[Remark]:
    for check in _CHECKS:
        yield from check(constitution)


def _refused(error: ConstitutionError) -> list[Finding]:
    return [
        Finding("schema", Severity.ERROR, d.source, d.line, d.column, d.message, d.remedy)
        for d in error.diagnostics
    ]


def _finding(remark: Remark, file: str, line: int, column: int) -> Finding:
    return Finding(
        remark.rule,
        remark.severity,
        file,
        line,
        column,
        remark.message,
        remark.remedy,
        remark.path,
    )


class _Spots:
    """Where remarks belong in a text: at their words when these can be found, else at the value."""

    def __init__(self, text: str, tree: Tree) -> None:
        self.text = text
        self.tree = tree
        self.starts = [0, *(found.end() for found in _LINE_BREAK.finditer(text))]
        places = {*tree.keys.values(), *tree.values.values()}
        self.offsets = sorted({self._offset(place.line, place.column) for place in places})

    def of(self, remark: Remark) -> tuple[int, int]:
        """(line, column), both from 1."""
        is_trait = len(remark.path) == 2 and remark.path[0] == "traits"
        place = self.tree.keys[remark.path] if is_trait else self.tree.place(remark.path)
        if not remark.words:
            return place.line, place.column
        start = self._offset(place.line, place.column)
        following = bisect_right(self.offsets, start)
        end = self.offsets[following] if following < len(self.offsets) else len(self.text)
        spelled = r"\s+".join(map(re.escape, remark.words.split()))  # a text may be folded
        found = re.compile(spelled).search(self.text, start, end)
        if found is None:  # spelled with escapes, or broken inside a word
            return place.line, place.column
        line = bisect_right(self.starts, found.start())
        return line, found.start() - self.starts[line - 1] + 1

    def _offset(self, line: int, column: int) -> int:
        return self.starts[min(line, len(self.starts)) - 1] + column - 1
