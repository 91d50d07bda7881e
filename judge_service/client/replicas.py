"""Several servers that are used as one judge: they must be the same judge.

The same in the model (weights, tokenizer, dtype, engine), the prompt's template, the constitutions
in their order, the calibrations, and in accepting inline constitutions. Limits may differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from itertools import combinations
from typing import Any

from judge_service.errors import JudgeRequestError
from judge_service.server_info import ServerInfo, ServerState

_SAME = {
    "model": "model",
    "template_version": "prompt template",
    "constitutions": "constitutions",
    "calibrations": "calibrations",
    "inline_constitutions": "allow_inline_constitutions",
}
_KNOWN_WITH_THE_MODEL = ("model", "template_version", "calibrations")


def one_judge(infos: Mapping[str, ServerInfo]) -> ServerInfo:
    """The info of all these servers together, of which there is one at least.

    It is that of the first that serves, else of the first. infos: by address. Raises
    JudgeRequestError for two servers that are not the same judge, with both addresses and what
    differs.
    """
    for one, other in combinations(infos.items(), 2):
        _require_same(one, other)
    serving = (info for info in infos.values() if info.state is ServerState.SERVING)
    return next(serving, next(iter(infos.values())))


def _require_same(one: tuple[str, ServerInfo], other: tuple[str, ServerInfo]) -> None:
    """What a server does not know while it loads is not compared."""
    (address, info), (second, its) = one, other
    unknown = info.model is None or its.model is None
    for field, what in _SAME.items():
        if field in _KNOWN_WITH_THE_MODEL and unknown:
            continue
        mine, theirs = getattr(info, field), getattr(its, field)
        if mine != theirs:
            raise JudgeRequestError(
                f"the servers {address} and {second} are not the same judge: they differ in their "
                f"{what}, {_difference(mine, theirs)}; "
                "start both with the same model and constitutions, or give one of them"
            )


def _difference(one: Any, other: Any) -> str:
    """Both values, as briefly as shows that they differ."""
    if is_dataclass(one) and is_dataclass(other):
        mine, its = asdict(one), asdict(other)  # type: ignore[arg-type]
        return ", ".join(
            f"{name} {_short(mine[name])} against {_short(its[name])}"
            for name in mine
            if mine[name] != its[name]
        )
    if isinstance(one, tuple) and isinstance(other, tuple):
        return f"{_listed(one)} against {_listed(other)}"
    return f"{_short(one)} against {_short(other)}"


def _listed(values: tuple[Any, ...]) -> str:
    shown = [" ".join(_short(part) for part in asdict(value).values()) for value in values]
    return ", ".join(shown) or "none"


def _short(value: Any) -> str:
    """A digest by its first twelve characters, anything else as it is."""
    text = str(value)
    is_digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:12] if is_digest else text
