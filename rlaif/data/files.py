"""Digests of files, paths as a caller gives them, and the error of a file that cannot be read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from constitution.errors import UserError


class RecordError(UserError):
    """A record file that cannot be read: the message names the file, the line and the field."""


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file's content, read in constant memory. Raises OSError."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def as_path(value: object, name: str) -> Path:
    """A path that a caller gave as the argument `name`, with ~ expanded where that user exists.

    Raises UserError for what is neither text nor a path.
    """
    if not isinstance(value, str | os.PathLike):
        raise UserError(f"invalid {name}: {value!r}; give a path as text or pathlib.Path")
    return Path(os.path.expanduser(os.fspath(value)))  # Path.expanduser raises for unknown users
