"""Positions in a YAML text: from the path of a part, or the words of a remark, to characters."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass

from constitution.strict_yaml import Path, Place, Tree

LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # YAML 1.1, production b-break
_BLOCK_HEADER = re.compile(r"[|>][^\r\n\x85\u2028\u2029]*")
_REST_OF_LINE = re.compile("[^\r\n\x85\u2028\u2029]*")


@dataclass(frozen=True, slots=True)
class TextSpan:
    """The characters from `start` to `end` of a text, counted from 0."""

    start: int
    end: int


class Locator:
    """Locates the parts of a YAML text, which must not start with a byte order mark."""

    def __init__(self, text: str, tree: Tree) -> None:
        self.text = text
        self.tree = tree
        self.starts = [0, *(match.end() for match in LINE_BREAK.finditer(text))]
        places = {*tree.keys.values(), *tree.values.values()}
        self.offsets = sorted({self.offset(place.line, place.column) for place in places})

    def offset(self, line: int, column: int) -> int:
        """The character at a position that counts from 1."""
        return self.starts[min(line, len(self.starts)) - 1] + column - 1

    def position(self, offset: int) -> tuple[int, int]:
        """The (line, column) of a character, both counted from 1."""
        line = bisect_right(self.starts, offset)
        return line, offset - self.starts[line - 1] + 1

    def words(self, path: Path, words: str) -> TextSpan:
        """The words inside the text at path, or the part as a whole if they are not found."""
        place = self._place(path)
        if not words:
            return self.part(path)
        # Search the value's own text only: from its start to the next key or value.
        start = self.offset(place.line, place.column)
        following = bisect_right(self.offsets, start)
        end = self.offsets[following] if following < len(self.offsets) else len(self.text)
        pattern = r"\s+".join(map(re.escape, words.split()))  # a text may be folded
        match = re.compile(pattern).search(self.text, start, end)
        if match is None:  # written with escapes, or broken inside a word
            return self.part(path)
        return TextSpan(*match.span())

    def part(self, path: Path) -> TextSpan:
        """A scalar's content, without the header of a block; the first line of anything else."""
        place = self._place(path)
        span = self.scalar(place)
        if span is None:
            start = self.offset(place.line, place.column)
            rest = _REST_OF_LINE.match(self.text, start)
            return TextSpan(start, start + len(rest[0].rstrip()) if rest else start)
        header = self.block_header(span)
        content = self.text[header.end : span.end]
        return TextSpan(span.end - len(content.lstrip()), span.end) if content.strip() else span

    def scalar(self, place: Place) -> TextSpan | None:
        """A scalar as it is written, quotes or block header included; None for other parts."""
        if not place.end_line:
            return None
        start = self.offset(place.line, place.column)
        end = self.offset(place.end_line, place.end_column)
        return TextSpan(start, start + len(self.text[start:end].rstrip()))

    def block_header(self, span: TextSpan) -> TextSpan:
        """The `|` or `>` of a block scalar with the rest of that line; empty for other scalars."""
        header = _BLOCK_HEADER.match(self.text, span.start, span.end)
        return TextSpan(span.start, header.end() if header else span.start)

    def _place(self, path: Path) -> Place:
        is_trait = len(path) == 2 and path[0] == "traits"
        return self.tree.keys[path] if is_trait else self.tree.place(path)
