"""The constitution linter: findings with position and remedy, computed without a judge.

finding.py    Remark, what a check yields, and its severity
wording.py    checks of each compare text by itself
pairs.py      checks of pairs of principles: near-duplicates, contradictions, confusable ids
examples.py   checks of the worked examples
weights.py    checks of traits and weights
report.py     findings as text, JSON and GitHub annotations

    text -> tree -> constitution -> remarks (a path each) -> findings (a line and column each)

docs/constitution.md has the table of all rules. A false alarm costs more trust than a miss, so the
rules are narrow. They know English words only, and ignore texts in other languages. Whether a judge
follows a principle is what `rlaif constitution test` measures.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from constitution.errors import ConstitutionError
from constitution.lint import examples, pairs, weights, wording
from constitution.lint.finding import Remark, Severity
from constitution.loader import build, read_source
from constitution.schema import Constitution
from constitution.strict_yaml import Path, Tree, parse

__all__ = ["Finding", "Severity", "lint", "lint_text"]

_CHECKS: tuple[Callable[[Constitution], Iterator[Remark]], ...] = (
    weights.remarks,
    wording.remarks,
    pairs.remarks,
    examples.remarks,
)
_LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # YAML 1.1, production b-break


@dataclass(frozen=True, slots=True)
class Finding:
    """A remark with its position. Line 0: about a whole file, or a constitution without a text.

    `rule` is a stable id, for filters; `path` locates the part: ("principles", 2, "compare").
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
    """The findings about a constitution, a shipped name or a file, in the order of the text.

    A file that cannot be read or does not load yields findings of severity error, not an exception.
    """
    if isinstance(target, Constitution):
        return [_finding(remark, target.name, 0, 0) for remark in _remarks(target)]
    try:
        text, source = read_source(target)
    except ConstitutionError as error:
        return _load_errors(error)
    return lint_text(text, source)


def lint_text(text: str, source: str = "<text>") -> list[Finding]:
    """The findings about a YAML text, in its order; `source` is their file name."""
    try:
        tree = parse(text, source)
        constitution = build(tree, Constitution)
    except ConstitutionError as error:
        return _load_errors(error)
    locator = _Locator(text.removeprefix("\ufeff"), tree)
    findings = [_finding(remark, source, *locator.of(remark)) for remark in _remarks(constitution)]
    return sorted(findings, key=lambda finding: (finding.line, finding.column, finding.rule))


def _remarks(constitution: Constitution) -> Iterator[Remark]:
    for check in _CHECKS:
        yield from check(constitution)


def _load_errors(error: ConstitutionError) -> list[Finding]:
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


class _Locator:
    """Locates remarks in a text: at their words if these can be found, else at the value."""

    def __init__(self, text: str, tree: Tree) -> None:
        self.text = text
        self.tree = tree
        self.starts = [0, *(match.end() for match in _LINE_BREAK.finditer(text))]
        places = {*tree.keys.values(), *tree.values.values()}
        self.offsets = sorted({self._offset(place.line, place.column) for place in places})

    def of(self, remark: Remark) -> tuple[int, int]:
        """The (line, column) of a remark, both counted from 1."""
        is_trait = len(remark.path) == 2 and remark.path[0] == "traits"
        place = self.tree.keys[remark.path] if is_trait else self.tree.place(remark.path)
        if not remark.words:
            return place.line, place.column
        # Search the value's own text only: from its start to the next key or value.
        start = self._offset(place.line, place.column)
        following = bisect_right(self.offsets, start)
        end = self.offsets[following] if following < len(self.offsets) else len(self.text)
        words = r"\s+".join(map(re.escape, remark.words.split()))  # a text may be folded
        match = re.compile(words).search(self.text, start, end)
        if match is None:  # written with escapes, or broken inside a word
            return place.line, place.column
        line = bisect_right(self.starts, match.start())
        return line, match.start() - self.starts[line - 1] + 1

    def _offset(self, line: int, column: int) -> int:
        return self.starts[min(line, len(self.starts)) - 1] + column - 1
