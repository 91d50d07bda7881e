"""YAML as plain data, for recipes and settings: whatever cannot be read is a YAMLError."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import yaml
from yaml.constructor import ConstructorError

_SHOWN = 40  # characters of a value in a message


def load_yaml(text: str) -> Any:
    """The data of one YAML document.

    Raises yaml.YAMLError, with the line where there is one: also for a key that is given twice, a
    number or date that cannot exist, and text that is nested too deeply to be read.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply; check its brackets") from None


class _Loader(yaml.SafeLoader):
    """Refuses repeated keys, of which the first would be lost silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        for key, place in _repeated(node):
            raise ConstructorError(
                problem=f"{key} is given twice; rename or remove one", problem_mark=place
            )
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As the base class, whose numbers and dates raise ValueError, such as month 13."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError) as error:
            written = str(node.value)
            shown = written if len(written) <= _SHOWN else f"{written[:_SHOWN]}..."
            raise ConstructorError(
                problem=f"{shown} is not a value that can be read; correct it, or quote it if it "
                "is text",
                problem_mark=node.start_mark,
            ) from error


def _repeated(node: yaml.MappingNode) -> Iterable[tuple[str, yaml.Mark]]:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key.value, str):  # a list or mapping as a key: the base class refuses it
            continue
        if key.value in seen:
            yield key.value, key.start_mark
        seen.add(key.value)
