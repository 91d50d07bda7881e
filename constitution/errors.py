"""The tree of users' mistakes. Every package's own errors hang from `UserError`.

UserError (ValueError)      one readable message: what, where, the remedy; no traceback in the CLI
└─ ConstitutionError        a constitution file that cannot be read, with its diagnostics
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class UserError(ValueError):
    """Something the user can mend. Its text says what is wrong, where, and what to do."""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One problem in a file: where (1-based line and column), what, and the remedy.

    Line 0 means the file as a whole: it is absent, unreadable, too large.
    """

    source: str
    line: int
    column: int
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f" ({self.remedy})" if self.remedy else ""
        place = f":{self.line}:{self.column}" if self.line else ""
        return f"{self.source}{place}: {self.message}{remedy}"


class ConstitutionError(UserError):
    """A constitution that cannot be used; `diagnostics` holds every problem found."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n".join(str(d) for d in self.diagnostics))
