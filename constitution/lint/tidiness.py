"""Checks of typing slips in what the judge reads, and of spaces at line ends; all are repairable.

The judge's own question follows a compare text on the same line, so a text without a final period
runs into it. Quoted wording and two spaces after a sentence are left alone, and so are texts in
scripts that do not end a sentence with a period.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from constitution.lint.finding import Remark, Severity
from constitution.lint.locate import Locator, TextSpan
from constitution.schema import Constitution
from constitution.strict_yaml import shorten

DOUBLED_SPACE = re.compile(r"(?<=[^\s.!?:])[ \t]{2,}(?=\S)")
_QUOTED = re.compile(r'"[^"]*"|\u201c[^\u201c\u201d]*\u201d')
_LINE_END = re.compile("[ \t]+(?=[\r\n\x85\u2028\u2029]|\\Z)")
_WITH_PERIODS = ("LATIN ", "CYRILLIC ", "GREEK ", "DIGIT ")  # as Unicode names their characters
_FEWEST_WORDS = 3  # of a sentence
_READ_TEXTS = ("compare", "critique", "revise")
_READ_CHARACTERS = 10_000  # of each text; nothing is repaired in a longer one


def remarks(constitution: Constitution) -> Iterator[Remark]:
    """Remarks on doubled spaces and missing final periods in the texts that the judge reads."""
    for index, principle in enumerate(constitution.principles):
        for key in _READ_TEXTS:
            text: str = getattr(principle, key)
            path = ("principles", index, key)
            if len(text) > _READ_CHARACTERS:
                continue
            # Spaces inside quotes may be what the principle is about.
            outside = _QUOTED.sub(lambda quoted: "x" * len(quoted[0]), text)
            if doubled := [match.span() for match in DOUBLED_SPACE.finditer(outside)]:
                yield Remark(
                    Severity.ADVICE,
                    "doubled-space",
                    path,
                    f"the {key} text of '{principle.id}' has several spaces in a row",
                    "write one space",
                    _around(text, doubled[0]),
                    _with_single_spaces(text, doubled),
                )
            # The last two words locate the end of the text: the last alone may occur before.
            if _lacks_period(text):
                yield Remark(
                    Severity.ADVICE,
                    "no-final-period",
                    path,
                    f"the {key} text of '{principle.id}' has no period after "
                    f"'{shorten(text.split()[-1])}', and runs into what the judge is asked next",
                    "end it with a period",
                    " ".join(text.split()[-2:]),
                    f"{text}.",
                )


def _around(text: str, gap: tuple[int, int]) -> str:
    """The words before and after a gap."""
    return f"{text[: gap[0]].split()[-1]} {text[gap[1] :].split()[0]}"


def _with_single_spaces(text: str, gaps: list[tuple[int, int]]) -> str:
    for start, end in reversed(gaps):
        text = f"{text[:start]} {text[end:]}"
    return text


def _lacks_period(text: str) -> bool:
    if len(text.split()) < _FEWEST_WORDS or "\n" in text:  # a list may end without one
        return False
    return unicodedata.name(text[-1], "").startswith(_WITH_PERIODS)


def trailing_spaces(locator: Locator) -> list[TextSpan]:
    """Spaces and tabs at line ends, except in block scalars, where they may be content."""
    blocks = [
        (header.end, span.end)
        for place in locator.tree.values.values()
        if (span := locator.scalar(place))
        and (header := locator.block_header(span)).end > span.start
    ]
    found = (TextSpan(*match.span()) for match in _LINE_END.finditer(locator.text))
    ends = iter([*sorted(blocks), (len(locator.text) + 1, 0)])
    start, end = next(ends)
    outside = []
    for span in found:  # both in the order of the text
        while span.start >= end and start <= span.start:
            start, end = next(ends)
        if span.start < start:
            outside.append(span)
    return outside


def about_trailing_spaces(lines: int) -> Remark:
    """The remark on spaces at the ends of so many lines."""
    where = "this line" if lines == 1 else f"{lines} lines, this one the first"
    return Remark(
        Severity.ADVICE,
        "trailing-space",
        (),
        f"spaces at the end of {where}",
        "delete them: they show up in diffs and mean nothing",
    )
