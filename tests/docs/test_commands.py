"""Commands on the pages: the real parsers accept them, and the recipes that they name exist.

Nothing is run here; tests/docs/test_path_by_hand.py runs those of README.md and getting_started.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlaif.pipeline.recipe import Recipe
from tests.support.deploy.command_lines import mistake, words_of
from tests.support.shell_blocks import commands, fences

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
OURS = re.compile(r"(?:\$ )?((?:\w+=\S* )*(?:rlaif [a-z]|accelerate launch ).*)", re.DOTALL)
"""Not `rlaif --version` and the like: the parser itself does what such an option asks for."""

ABRIDGED = re.compile(r"…|(?<!\w)\.\.\.")


def commands_of(text: str) -> Iterator[str]:
    """The commands of a page's shell blocks that start `rlaif`, those with an ellipsis left out."""
    for language, _, content in fences(text):
        for command in commands(content) if language in ("", "sh", "bash") else ():
            found = OURS.fullmatch(command)
            if found and not ABRIDGED.search(command):
                yield found[1]


def test_a_mistake_is_found_in_options_settings_and_launches() -> None:
    assert mistake(words_of("A=1 rlaif label in --part 1/2 --out x | tee log")) == ""
    assert mistake(words_of("rlaif serve --model m --port 1 &")) == ""
    assert "--parts" in mistake(words_of("rlaif label in --parts 1/2"))
    assert mistake(words_of("rlaif serve --model m --prot 1")) == "exits with 2"
    assert "betta" in mistake(words_of("rlaif train dpo in --model m --out x betta=1"))
    assert mistake(words_of("accelerate launch --num_processes 2 -m rlaif label in")) == ""
    assert "--wrong" in mistake(words_of("accelerate launch -m rlaif label in --wrong"))
    assert "accelerate" in mistake(words_of("accelerate launch --num_prcesses 2 -m rlaif label in"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_can_be_parsed(page: Path) -> None:
    wrong = {}
    for command in commands_of(page.read_text(encoding="utf-8")):
        if problem := mistake(words_of(command)):
            wrong[command] = problem
    assert wrong == {}


def test_commands_are_found_in_every_form_that_pages_use() -> None:
    text = (
        "```sh\nA=1 rlaif a   # x\nrlaif b … c\n```\n```\n$ rlaif d\nrlaif --version\nmake\n```\n"
    )
    assert list(commands_of(text)) == ["A=1 rlaif a", "rlaif d"]
    found = [c for page in PAGES for c in commands_of(page.read_text(encoding="utf-8"))]
    assert len(found) > 100


def test_every_recipe_that_a_page_names_ships_or_is_a_file() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"\brlaif (?:run|recipes|compare) ([a-z]\w*)(?![\w./])", text))
    assert {"quickstart", "constitutional", "iterative_dpo"} <= named
    for name in named:
        Recipe.load(name)
