"""Sentences of a text, by punctuation and line breaks.

Limits. An abbreviation with a point ("e.g. this") ends a sentence, and text without punctuation is
one sentence per line. A point inside a number or an address ("3.5", "rlaif.org") does not end one.
"""

from __future__ import annotations

import re

_END = re.compile(r"(?<=[.!?\u2026])[\"')\]]*\s+|\n+")
_LIST_MARK = re.compile(r"^(?:[-*\u2022]|\(?\d{1,2}[.)])\s+")


def sentences(text: str) -> list[str]:
    """The sentences in order, without the marks of lists; parts without a letter or digit are none.

    >>> sentences("Sorry! Two things:\\n1. Restart it.\\n2. Wait 5.5 minutes.")
    ['Sorry!', 'Two things:', 'Restart it.', 'Wait 5.5 minutes.']
    """
    lines = (_LIST_MARK.sub("", line.strip()) for line in text.splitlines())
    parts = (part.strip() for line in lines for part in _END.split(line))
    return [part for part in parts if any(character.isalnum() for character in part)]
