"""Findings as text, as JSON, or as annotations of GitHub checks.

An annotation is a line printed by a workflow; GitHub shows it beside the line of the file:
https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from constitution.lint import Finding, Severity

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.ADVICE: "notice"}


def as_text(name: str, findings: Sequence[Finding]) -> str:
    """One line per finding and a last line with their counts; `name` is what was linted."""
    return "\n".join([*map(str, findings), f"{name}: {summary(findings)}"])


def summary(findings: Sequence[Finding]) -> str:
    """The counts as text, such as "3 findings (1 error, 2 warnings)"."""
    counts = {s: sum(finding.severity == s for finding in findings) for s in Severity}
    plural = {Severity.ERROR: "errors", Severity.WARNING: "warnings", Severity.ADVICE: "advice"}
    parts = [f"{n} {s.value if n == 1 else plural[s]}" for s, n in counts.items() if n]
    number = f"{len(findings)} finding{'s' * (len(findings) != 1)}"
    return f"{number} ({', '.join(parts)})" if parts else "no findings"


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
