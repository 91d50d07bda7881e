"""A new constitution to edit: a commented copy of another one, or a short annotated starter.

The copy keeps the texts, comments and layout of what it is made from, except for its name, its
version and the comment at its start.
"""

from __future__ import annotations

import re
from importlib import resources

from constitution.consistency import is_slug
from constitution.errors import UserError
from constitution.lint.finding import Edit
from constitution.lint.locate import Locator
from constitution.lint.repairs import Repair, apply_edits, certain
from constitution.loader import library_names, read_source
from constitution.schema import Constitution
from constitution.strict_yaml import parse

FIRST_VERSION = "1.0.0"
_LEADING_COMMENT = re.compile(r"\A\ufeff?(?:#[^\n]*\n)+")
_STARTER_HEADER = """\
# {name}: two principles to replace with yours. docs/constitution.md explains every key.

"""
_COPY_HEADER = """\
# {name}: a copy of {original}.
#
# For each principle, the judge reads `compare` beside a prompt and two replies; `rlaif revise` asks
# for `critique` and `revise`. The judge does not see the examples: `rlaif constitution test` checks
# them. docs/constitution.md explains every key. Raise `version` when you change what a rule means.
"""


def new_constitution(name: str, origin: str = "") -> str:
    """The YAML text of a constitution called `name`, at version 1.0.0.

    origin: a shipped name or a file to copy; "" for the starter. Raises UserError for a name that
    cannot be used, and ConstitutionError if `origin` cannot be loaded.
    """
    _require_new_name(name)
    if not origin:
        text = (resources.files("constitution") / "starter.yaml").read_text(encoding="utf-8")
        return _STARTER_HEADER.format(name=name) + _named(text, name)
    text, source = read_source(origin)
    original = Constitution.from_yaml(text, source)
    if origin in library_names():  # its first comment is about the shipped file
        text = _LEADING_COMMENT.sub("", text)
    header = _COPY_HEADER.format(name=name, original=f"{original.name} {original.version}")
    copied = _named(text.removeprefix("\ufeff"), name)
    return (header.replace("\n", "\r\n") if "\r\n" in text else header) + copied


def _require_new_name(name: str) -> None:
    if not is_slug(name):
        words = re.sub("[^a-z0-9]+", "_", name.lower().removesuffix(".yaml").removesuffix(".yml"))
        suggested = words.strip("_")
        remedy = f"write {suggested}, for example" if is_slug(suggested) else "write my_rules"
        raise UserError(
            f"invalid name of a constitution: {name!r}; use a lower-case letter followed by "
            f"lower-case letters, digits, '_' or '-' ({remedy})"
        )
    if name in library_names():
        raise UserError(f"name of a shipped constitution: {name}; choose another name for yours")


def _named(text: str, name: str) -> str:
    """The text with this name and the first version; all else of it stays as it is."""
    locator = Locator(text, parse(text, name))
    edits: list[Edit] = []
    for key, value in (("name", name), ("version", FIRST_VERSION)):
        span = locator.scalar(locator.tree.place((key,)))
        assert span is not None  # the text has been loaded: both are texts
        # In quotes only where YAML would read the word as something else, such as `no`.
        plain, quoted = (
            Repair((Edit(span.start, span.end, written),), (key,), value)
            for written in (value, f'"{value}"')
        )
        edits += (plain if certain(locator, [plain]) else quoted).edits
    return apply_edits(text, edits)
