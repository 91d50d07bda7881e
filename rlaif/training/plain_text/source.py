"""The held-out plain text that `text_eval` names: the one that ships, or a file. No torch."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from constitution.errors import UserError

SHIPPED = "shipped"
"""The name of held_out.txt: short passages of many kinds, 2 500 tokens or so, written for this
project (its license is the project's), so that no model has learned them by heart."""

# Only the beginning of a long file is read: 4 096 tokens (score.py) are shorter than this.
MOST_CHARACTERS = 65_536


class HeldOutTextError(UserError):
    """A text that cannot be scored; the message has the remedy. Settings are refused with it."""


def text_file(name: str) -> Path | None:
    """The file that a setting names; None for the text that ships."""
    return None if name == SHIPPED else Path(os.path.expanduser(name))


def read_text(name: str) -> str:
    """The beginning of the text that a setting names, at most MOST_CHARACTERS.

    Raises HeldOutTextError for a file that cannot be read or is empty.
    """
    path = text_file(name)
    if path is None:
        return (resources.files(__package__) / "held_out.txt").read_text(encoding="utf-8")
    remedy = f"give a file of plain text (UTF-8), {SHIPPED}, or null"
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST_CHARACTERS)
    except OSError as error:
        raise HeldOutTextError(f"{name}: cannot be read ({error.strerror}); {remedy}") from error
    except UnicodeDecodeError as error:
        raise HeldOutTextError(f"{name}: not plain text ({error.reason}); {remedy}") from error
    if not text.strip():
        raise HeldOutTextError(f"{name}: the text is empty; {remedy}")
    return text
