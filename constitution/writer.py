"""Writing constitutions as YAML: the inverse of `Constitution.from_yaml`.

    Constitution.from_yaml(to_yaml(constitution)).digest == constitution.digest

Defaults and empty parts are omitted; comments of the original file are not kept.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from constitution.schema import Constitution

_NEEDS_ESCAPES = re.compile(  # control characters, and characters that YAML reads as line breaks
    "[^\n\x20-\x7e\xa0-\u2027\u202a-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)


def to_yaml(constitution: Constitution) -> str:
    """The constitution as block-style YAML, for people to read and edit."""
    data = constitution.model_dump(mode="json", exclude_defaults=True)
    text: str = yaml.dump(
        data,
        Dumper=_Dumper,
        allow_unicode=True,
        sort_keys=False,
        default_flow_style=False,
        width=88,
    )
    return text


class _Dumper(yaml.SafeDumper):
    """No anchors; lists indented under their key; long or multi-line texts as blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    block = "|" if "\n" in text else ">" if len(text) > 80 else None
    style = '"' if _NEEDS_ESCAPES.search(text) else block
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _represent_text)
