"""docs/glossary.md names definitions that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and "| word |" not in line]
DEFINITIONS = re.findall(r"^\| (.+?) \| .+ \| `(\w+)` in `(\S+)` \|$", PAGE, re.MULTILINE)


def test_every_word_has_a_definition() -> None:
    assert len(DEFINITIONS) == len(ROWS) > 40


def test_no_word_is_explained_twice() -> None:
    words = [word for word, _, _ in DEFINITIONS]
    assert len(words) == len(set(words))


@pytest.mark.parametrize(("word", "name", "path"), DEFINITIONS)
def test_the_definition_is_in_the_file_that_is_named(word: str, name: str, path: str) -> None:
    """A class, function, constant, field or setting of this name, or a key of a dictionary."""
    text = (ROOT / path).read_text(encoding="utf-8")
    defined = rf"^\s*(?:class|def) {name}\b|^\s*{name}\s*[:=]|^\s*from .* import .*\b{name}\b"
    assert re.search(rf"{defined}|\"{name}\"|\b{name}=|^\s+{name} ", text, re.MULTILINE), word
