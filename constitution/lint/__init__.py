"""The constitution linter: findings with position and remedy, computed without a judge.

finding.py    Remark, what a check yields; Finding, a remark with its position; Edit, a repair
wording.py    checks of each compare text by itself
criteria.py   checks whether a compare text names anything that a judge can look for
pairs.py      checks of pairs of principles: near-duplicates, contradictions, confusable ids
examples.py   checks of the worked examples
weights.py    checks of traits and weights
tidiness.py   checks of typing slips: doubled spaces, final periods, spaces at line ends
locate.py     from paths and words to positions in the text
repairs.py    repairs that are certain, as edits of the text
fix.py        a text with all its repairs applied, and the diff
report.py     findings as text with source lines, JSON and GitHub annotations

    text -> tree -> constitution -> remarks (a path each) -> findings (a line and column each)

docs/constitution.md has the table of all rules. A false alarm costs more trust than a miss, so the
rules are narrow. They know English words only, and ignore texts in other languages. Whether a judge
follows a principle is what `rlaif constitution test` measures.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from constitution.errors import ConstitutionError, Diagnostic
from constitution.lint import examples, pairs, tidiness, weights, wording
from constitution.lint.finding import Edit, Finding, Remark, Severity
from constitution.lint.locate import Locator
from constitution.lint.repairs import Repair, certain, rewording, spelling_repairs
from constitution.loader import build, read_source
from constitution.schema import Constitution
from constitution.strict_yaml import parse

__all__ = ["Edit", "Finding", "LintedText", "Severity", "lint", "lint_source", "lint_text"]

_CHECKS: tuple[Callable[[Constitution], Iterator[Remark]], ...] = (
    weights.remarks,
    wording.remarks,
    tidiness.remarks,
    pairs.remarks,
    examples.remarks,
)
_BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True, slots=True)
class LintedText:
    """A constitution's text ("" if it cannot be read), the name of its file, and the findings."""

    source: str
    text: str
    findings: list[Finding]


def lint(target: Constitution | str | os.PathLike[str]) -> list[Finding]:
    """The findings about a constitution, a shipped name or a file, in the order of the text.

    A file that cannot be read or does not load yields findings of severity error, not an exception.
    """
    if isinstance(target, Constitution):
        return [_finding(remark, target.name) for remark in _remarks(target)]
    return lint_source(target).findings


def lint_source(name_or_path: str | os.PathLike[str]) -> LintedText:
    """The text of a shipped name or a file, with the findings about it."""
    try:
        text, source = read_source(name_or_path)
    except ConstitutionError as error:
        return LintedText(os.fspath(name_or_path), "", _load_errors(error.diagnostics, {}))
    return LintedText(source, text, lint_text(text, source))


def lint_text(text: str, source: str = "<text>") -> list[Finding]:
    """The findings about a YAML text, in its order; `source` is their file name."""
    try:
        tree = parse(text, source)
    except ConstitutionError as error:
        return _load_errors(error.diagnostics, {})
    locator = Locator(text.removeprefix(_BYTE_ORDER_MARK), tree)
    try:
        constitution = build(tree, Constitution)
    except ConstitutionError as error:
        findings = _load_errors(error.diagnostics, _certain_spellings(locator))
    else:
        findings = _findings(_remarks(constitution), locator, source)
    shift = len(text) - len(locator.text)
    return [replace(finding, edits=_shifted(finding.edits, shift)) for finding in findings]


def _remarks(constitution: Constitution) -> Iterator[Remark]:
    for check in _CHECKS:
        yield from check(constitution)


def _load_errors(
    diagnostics: Iterable[Diagnostic], repairs: dict[tuple[int, int], tuple[Edit, ...]]
) -> list[Finding]:
    return [
        Finding(
            "schema", Severity.ERROR, d.source, d.line, d.column, d.message, d.remedy,
            end_line=d.end_line, end_column=d.end_column,
            edits=repairs.get((d.line, d.column), ()),
        )
        for d in diagnostics
    ]  # fmt: skip


def _certain_spellings(locator: Locator) -> dict[tuple[int, int], tuple[Edit, ...]]:
    """The edits of the repairs that hold, by the (line, column) of what they repair."""
    proposed = [(place, repair) for place, repair in spelling_repairs(locator)]
    held = certain(locator, [repair for _, repair in proposed])
    return {(place.line, place.column): r.edits for place, r in proposed if r in held}


def _findings(remarks: Iterable[Remark], locator: Locator, source: str) -> list[Finding]:
    """The remarks with their positions and certain repairs, and the spaces at line ends."""
    found = [(remark, locator.words(remark.path, remark.words)) for remark in remarks]
    repairs: dict[int, Repair] = {
        number: repair
        for number, (remark, _) in enumerate(found)
        if remark.better and (repair := rewording(locator, remark.path, remark.better))
    }
    if spaces := tidiness.trailing_spaces(locator):
        repairs[len(found)] = Repair(tuple(Edit(span.start, span.end, "") for span in spaces))
        found.append((tidiness.about_trailing_spaces(len(spaces)), spaces[0]))
    held = certain(locator, list(repairs.values()))
    findings = []
    for number, (remark, span) in enumerate(found):
        repair = repairs.get(number)
        edits = repair.edits if repair and repair in held else ()
        start, end = locator.position(span.start), locator.position(span.end)
        findings.append(_finding(remark, source, start, end, edits))
    return sorted(findings, key=lambda finding: (finding.line, finding.column, finding.rule))


def _finding(
    remark: Remark,
    file: str,
    start: tuple[int, int] = (0, 0),
    end: tuple[int, int] = (0, 0),
    edits: tuple[Edit, ...] = (),
) -> Finding:
    return Finding(
        remark.rule, remark.severity, file, *start, remark.message, remark.remedy, remark.path,
        *end, edits,
    )  # fmt: skip


def _shifted(edits: tuple[Edit, ...], by: int) -> tuple[Edit, ...]:
    return tuple(Edit(edit.start + by, edit.end + by, edit.text) for edit in edits)
