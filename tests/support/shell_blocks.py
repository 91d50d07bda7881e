"""The shell blocks of a Markdown page, as commands that can be run one after the other."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class ShellBlock:
    """A block of a page: its place, and its commands without comments."""

    page: str
    line: int
    commands: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def fences(text: str) -> list[tuple[str, int, str]]:
    """(language, line, content) of every fenced block."""
    return [
        (match[1], text[: match.start()].count("\n") + 1, match[2])
        for match in _FENCE.finditer(text)
    ]


def shell_blocks(page: str, text: str) -> list[ShellBlock]:
    """The blocks of language `sh`, in order."""
    return [
        ShellBlock(page, line, tuple(commands(content)))
        for language, line, content in fences(text)
        if language == "sh"
    ]


def commands(content: str) -> list[str]:
    """Each command on one line: continuations joined, comments after two spaces left out."""
    joined = re.sub(r"\s*\\\n\s*", " ", content)
    lines = (re.sub(r"(^|\s{2,})#.*", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if line]
