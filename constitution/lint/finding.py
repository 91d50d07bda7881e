"""What the linter reports: remarks of the checks, and findings, which have a position as well."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from constitution.strict_yaml import Path


class Severity(StrEnum):
    """How much a finding matters."""

    ERROR = "error"  # the file does not load
    WARNING = "warning"  # it loads, and judges worse than it could
    ADVICE = "advice"  # worth a second look


@dataclass(frozen=True, slots=True)
class Remark:
    """A finding without a position: `path` locates the part, such as ("principles", 2, "id").

    `words` are the words of the text at `path` that the remark is about; "" for the whole text.
    `better` is the text at `path` as it should be, for the few rules whose repair is certain.
    """

    severity: Severity
    rule: str
    path: Path
    message: str
    remedy: str
    words: str = ""
    better: str = ""


@dataclass(frozen=True, slots=True)
class Edit:
    """Replaces the characters from `start` to `end` of a file's text, counted from 0."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A remark with its position. Line 0: about a whole file, or a constitution without a text.

    `rule` is a stable id, for filters; `path` locates the part: ("principles", 2, "compare"). The
    end is the position after the last character that the finding is about. `edits` repair it
    where the repair is certain (`rlaif constitution lint --fix`).
    """

    rule: str
    severity: Severity
    file: str
    line: int
    column: int
    message: str
    remedy: str
    path: Path = ()
    end_line: int = 0
    end_column: int = 0
    edits: tuple[Edit, ...] = ()

    def __str__(self) -> str:
        place = f":{self.line}:{self.column}" if self.line else ""
        remedy = f" ({self.remedy})" if self.remedy else ""
        return f"{self.file}{place}: {self.severity} [{self.rule}] {self.message}{remedy}"
