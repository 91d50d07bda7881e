"""`rlaif constitution lint --fix`: a text with all its certain repairs applied, and the diff."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from constitution.errors import ConstitutionError
from constitution.lint import Finding, Severity, lint_text
from constitution.lint.repairs import apply_edits
from constitution.schema import Constitution

_MOST_ROUNDS = 10  # a repair may make room for the next: a file that loads is checked further


@dataclass(frozen=True, slots=True)
class FixedText:
    """A text after its certain repairs, what they repaired, and what remains to be done."""

    text: str
    repaired: tuple[Finding, ...]
    remaining: tuple[Finding, ...]


def fix(text: str, source: str) -> FixedText:
    """Apply every certain repair; everything else of the text stays as it is, byte for byte."""
    repaired: list[Finding] = []
    findings = lint_text(text, source)
    for _ in range(_MOST_ROUNDS):
        chosen = _one_for_each_part(findings)
        if not chosen:
            break
        # Two errors of one value share their edits: each edit is applied once.
        edited = apply_edits(text, list(dict.fromkeys(e for f in chosen for e in f.edits)))
        after = lint_text(edited, source)
        if _loads(findings) and not _loads(after):
            break
        text, findings = edited, after
        repaired += chosen
    return FixedText(text, tuple(repaired), tuple(findings))


def _loads(findings: Sequence[Finding]) -> bool:
    return all(finding.severity is not Severity.ERROR for finding in findings)


def _one_for_each_part(findings: Sequence[Finding]) -> list[Finding]:
    """The repairable findings, but for each text only the first; the others wait a round."""
    repairable = [finding for finding in findings if finding.edits]
    first = {finding.path: finding for finding in reversed(repairable)}
    # Errors and spaces at line ends have no path; their edits touch no others.
    return [finding for finding in repairable if not finding.path or first[finding.path] is finding]


def texts_differ(before: str, after: str) -> bool:
    """Whether both load and have different digests: labels made by one are not by the other."""
    try:
        return Constitution.from_yaml(before).digest != Constitution.from_yaml(after).digest
    except ConstitutionError:
        return False


def diff(before: str, after: str, file: str) -> list[str]:
    """The lines of a unified diff, without line breaks; empty if nothing changed."""
    old, new = (text.splitlines(keepends=True) for text in (before, after))
    lines = difflib.unified_diff(old, new, file, f"{file} (repaired)")
    return [line.rstrip("\r\n") for line in lines]
