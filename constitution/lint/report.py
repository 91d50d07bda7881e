"""Findings as text, as JSON, or as annotations of GitHub checks.

As text, a finding shows its line of the file and points to what it is about:

    mine.yaml:8:14: warning [names-length] 'brief' asks for a length ('shorter reply'), which …
       8 |     compare: Prefer the shorter reply.
         |                         ^^^^^^^^^^^^^
         = say what the words are for: 'without padding', 'explains each step'

An annotation is a line printed by a workflow; GitHub shows it beside the line of the file:
https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

import json
import textwrap
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict

from constitution.lint import Finding, LintedText, Severity
from constitution.lint.locate import LINE_BREAK

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.ADVICE: "notice"}
_COLORS = {Severity.ERROR: "31", Severity.WARNING: "33", Severity.ADVICE: "36"}  # red, yellow, cyan
BOLD, DIM, REVERSE, GREEN, RED = "1", "2", "7", "32", "31"

Paint = Callable[[str, str], str]  # (text, ANSI codes such as BOLD) -> text


def in_color(text: str, codes: str) -> str:
    """The text with ANSI codes, such as "1;31" for bold red."""
    return f"\x1b[{codes}m{text}\x1b[0m" if codes and text else text


def without_color(text: str, codes: str) -> str:
    """The text as it is: for files, pipes and NO_COLOR."""
    return text


# ── text ─────────────────────────────────────────────────────────────────────────────────────


def as_text(
    name: str, linted: LintedText, paint: Paint = without_color, width: int | None = None
) -> str:
    """Each finding with its source line, and a last line with the counts; `name` was linted.

    width: of the terminal, in columns; None where long lines may stay as they are.
    """
    lines = LINE_BREAK.split(linted.text.removeprefix("\ufeff")) if linted.text else []
    shown = [_finding(finding, lines, paint, width) for finding in linted.findings]
    return "\n".join([*shown, *_wrapped(summary(linted.findings), width, f"{name}: ", "    ")])


def as_short_text(name: str, findings: Sequence[Finding]) -> str:
    """One line per finding and a last line with their counts, for grep and for editors."""
    return "\n".join([*map(str, findings), f"{name}: {summary(findings)}"])


def summary(findings: Sequence[Finding]) -> str:
    """The counts as text, such as "3 findings (1 error, 2 warnings)"."""
    counts = {s: sum(finding.severity == s for finding in findings) for s in Severity}
    plural = {Severity.ERROR: "errors", Severity.WARNING: "warnings", Severity.ADVICE: "advice"}
    parts = [f"{n} {s.value if n == 1 else plural[s]}" for s, n in counts.items() if n]
    number = f"{len(findings)} finding{'s' * (len(findings) != 1)}"
    repairable = sum(bool(finding.edits) for finding in findings)
    fix = f"; --fix repairs {repairable} of them" if repairable else ""
    return f"{number} ({', '.join(parts)}){fix}" if parts else "no findings"


def _finding(finding: Finding, lines: Sequence[str], paint: Paint, width: int | None) -> str:
    color = _COLORS[finding.severity]
    place = (
        f"{finding.file}:{finding.line}:{finding.column}:" if finding.line else f"{finding.file}:"
    )
    label = f"{finding.severity} [{finding.rule}]"
    # Wrapped before it is painted: color codes take no columns.
    head, message = f"{place} {label} ", _printable(finding.message)
    if width is None or len(head) + len(message.partition(" ")[0]) <= width:
        rows = _wrapped(message, width, head, "    ")
        rows[0] = f"{paint(place, BOLD)} {paint(label, f'{BOLD};{color}')} {rows[0][len(head) :]}"
    else:
        rows = [paint(place, BOLD), f"    {paint(label, f'{BOLD};{color}')}"]
        rows += _wrapped(message, width, "    ", "    ")
    if 0 < finding.line <= len(lines):  # a file that is not text has lines, but none to show
        rows += _snippet(finding, lines[finding.line - 1], paint, width)
    if finding.remedy:
        margin = " " * (_gutter(finding) + 1)
        rows += _wrapped(_printable(finding.remedy), width, f"{margin}= ", f"{margin}  ")
    return "\n".join(rows)


def _snippet(finding: Finding, line: str, paint: Paint, width: int | None) -> list[str]:
    """The source line and the carets under what the finding is about."""
    start = finding.column - 1
    same_line = finding.end_line == finding.line and finding.end_column > finding.column
    end = finding.end_column - 1 if same_line else len(line.rstrip()) if finding.end_line else start
    end = max(end, start + 1)
    gutter = _gutter(finding)
    if width is not None:
        line, start, end = _window(line, start, end, max(20, width - gutter - 4))
    shown, marked = _printable(line), _printable(line[start:end])
    before = " " * columns(_printable(line[:start]))
    carets = "^" * max(1, columns(marked))
    bar = paint("|", DIM)
    return [
        f"{paint(f'{finding.line:>{gutter}}', DIM)} {bar} {shown}",
        f"{' ' * gutter} {bar} {before}{paint(carets, f'{BOLD};{_COLORS[finding.severity]}')}",
    ]


def _gutter(finding: Finding) -> int:
    return max(4, len(str(finding.line)))


def _window(line: str, start: int, end: int, room: int) -> tuple[str, int, int]:
    """The part of a long line that shows what is marked, with … where it was cut."""
    if len(line) <= room and columns(line) <= room:
        return line, start, end
    first, last = max(0, start - room), min(len(line), start + room)
    end = min(end, last)
    # Cut the longer side, and what is marked only when nothing else is left.
    while columns(line[first:last]) > room - 2:
        if last > end and last - end >= start - first:
            last -= 1
        elif first < start:
            first += 1
        else:
            end = last = last - 1
    left, right = "…" if first else "", "…" if last < len(line) else ""
    moved = len(left) - first
    return f"{left}{line[first:last]}{right}", start + moved, end + moved


def _wrapped(text: str, width: int | None, first: str, indent: str) -> list[str]:
    """The lines of a text: `first` starts the first one, `indent` the others."""
    if width is None:
        return [first + text]
    wrapper = textwrap.TextWrapper(
        max(width, 20), initial_indent=first, subsequent_indent=indent,
        break_on_hyphens=False, break_long_words=False,
    )  # fmt: skip
    return wrapper.wrap(text)


def columns(text: str) -> int:
    """The columns of a text in a terminal: wide characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _printable(text: str) -> str:
    """The text without characters that would move the cursor or change what is shown."""
    return "".join(c if c.isprintable() else " " for c in text)


def as_diff(lines: Sequence[str], paint: Paint = without_color) -> str:
    """The lines of a unified diff: removed ones in red, added ones in green, spaces at the end of
    either on a background, since nobody would see them otherwise.
    """
    colors = {"-": RED, "+": GREEN, "@": DIM}
    rows = []
    for line in map(_printable, lines):
        color, seen = colors.get(line[:1], ""), line.rstrip()
        spaces = line[len(seen) :]
        rows.append(paint(seen, color) + (paint(spaces, f"{color};{REVERSE}") if color else spaces))
    return "\n".join(rows)


# ── JSON and GitHub ──────────────────────────────────────────────────────────────────────────


def as_json(findings: Sequence[Finding]) -> str:
    """A JSON list with one object per finding, holding the fields of `Finding`."""
    return json.dumps([asdict(finding) for finding in findings], ensure_ascii=False)


def as_github(findings: Sequence[Finding]) -> str:
    """One workflow command per finding, each on its own line; "" without findings."""
    return "\n".join(map(_annotation, findings))


def _annotation(finding: Finding) -> str:
    properties = {"file": finding.file}
    if finding.line:
        properties |= {"line": str(finding.line), "col": str(finding.column)}
    properties["title"] = finding.rule
    fields = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    remedy = f" ({finding.remedy})" if finding.remedy else ""
    return f"::{_COMMANDS[finding.severity]} {fields}::{_data(finding.message + remedy)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
