"""What makes a revision a bad lesson, told from its text alone. Pure functions.

    preamble    it talks about itself: "Here is the revised reply:", "Revised response: …"
    near copy   it hardly differs from its original, so that it teaches nothing
    cut text    it stops in the middle: at a comma, a colon, a conjunction, an open block of code

Left out: any language but English, but for open blocks of code. Rules of this kind miss some and
are seldom wrong: a false alarm costs one lesson, a miss teaches a policy to introduce its replies.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher

PREAMBLE, NEAR_COPY, CUT_TEXT = "preamble", "near copy", "cut text"

NEAR = 0.97
"""Similarity of words from which on a revision is a near copy."""

_TEXT = r"(?:reply|response|answer|version|message|text|draft)"
_MADE = r"(?:revised|rewritten|re-written|improved|updated|edited|corrected|new)"
_SURE = r"(?:(?:sure|certainly|of course|okay|ok)\b\W*)?"
_HERE = r"(?:(?:here(?:'s| is)|below is|this is)\s+)?(?:(?:the|a|an|my|your)\s+)?"
_PREAMBLE = re.compile(
    # "Sure! Here's a revised version of the reply that is kinder:", "The new reply is:"
    rf"\W*{_SURE}{_HERE}{_MADE}\s+{_TEXT}\b[^\n.!?:]{{0,80}}(?::|\n|$)"
    # "Here is a rewrite of the reply:", "Here is the reply, rewritten to be kinder:"
    rf"|\W*{_SURE}here(?:'s| is)\s[^\n.!?:]{{0,40}}\b(?:revision|rewrite|rewritten|revised)\b"
    r"[^\n.!?:]{0,80}(?::|\n|$)"
    # a heading of the judge's prompt, repeated
    r"|\W*(?:revised\s+)?(?:reply|response|revision|critique|assistant)\W{0,3}(?::|\])",
    re.IGNORECASE,
)
_OPEN_END = (",", ";", ":", "-", "\u2013", "\u2014", "(", "[", "{")
_OPEN_WORDS = {"a", "an", "the", "and", "or", "but", "because", "of", "your", "their", "our"}
_FENCE = "```"


def problem(original: str, revision: str) -> str:
    """The first of the three that a revision has; "" for none."""
    if has_preamble(revision):
        return PREAMBLE
    if similarity(original, revision) >= NEAR:
        return NEAR_COPY
    return CUT_TEXT if looks_cut(revision) else ""


def has_preamble(text: str) -> bool:
    """Whether a text begins by introducing itself as a revision.

    >>> has_preamble("Here is the revised reply:\\n\\nPlease see a dentist.")
    True
    >>> has_preamble("Here is a recipe: boil the eggs.")
    False
    """
    return _PREAMBLE.match(text.replace("\u2019", "'")) is not None


def similarity(one: str, other: str) -> float:
    """How alike two texts are: 2·M / T, with M the words in matching runs and T all words of both;
    1 for the same words, whatever their case and spacing.

    >>> similarity("Boil the eggs.", "boil  the eggs.")
    1.0
    """
    words = one.casefold().split(), other.casefold().split()
    return SequenceMatcher(None, *words, autojunk=False).ratio()


def looks_cut(text: str) -> bool:
    """Whether a text stops in the middle of a sentence, a list or a block of code.

    >>> looks_cut("You need flour, eggs and"), looks_cut("Flour, eggs and milk")
    (True, False)
    """
    ended = text.rstrip()
    last = ended.split()[-1].casefold() if ended else ""
    open_fence = sum(line.lstrip().startswith(_FENCE) for line in ended.splitlines()) % 2 == 1
    return open_fence or ended.endswith(_OPEN_END) or last in _OPEN_WORDS
