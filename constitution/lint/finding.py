"""What a linter check yields: a remark with the path of the part it is about."""

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
    """

    severity: Severity
    rule: str
    path: Path
    message: str
    remedy: str
    words: str = ""
