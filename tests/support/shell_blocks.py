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
    """Each command by itself: continuations joined, comments after two spaces left out, a here
    document as part of its command."""
    found: list[str] = []
    end = ""  # of the here document that is open
    for line in re.sub(r"\s*\\\n\s*", " ", content).splitlines():
        if end:
            found[-1] += f"\n{line}"
            end = "" if line == end else end
            continue
        command = re.sub(r"(^|\s{2,})#.*", "", line).strip()
        if command:
            found.append(command)
            opened = re.search(r"<<'(\w+)'$", command)
            end = opened[1] if opened else ""
    return found
