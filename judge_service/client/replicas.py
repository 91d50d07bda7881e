"""Several servers that are used as one judge: they must be the same judge.

The same in the model (weights, tokenizer, dtype, engine), the prompt's template, the constitutions
in their order, the calibrations, and in accepting inline constitutions. Limits may differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from judge_service.errors import JudgeRequestError
from judge_service.server_info import ServerInfo, ServerState

_SAME = {
    "model": "model",
    "template_version": "prompt template",
    "constitutions": "constitutions",
    "calibrations": "calibrations",
    "inline_constitutions": "acceptance of inline constitutions",
}
_KNOWN_WITH_THE_MODEL = ("model", "template_version", "calibrations")


def one_judge(infos: Mapping[str, ServerInfo]) -> ServerInfo:
    """The info of all these servers together, of which there is one at least.

    It is that of the first that serves, else of the first. infos: by address. Raises
    JudgeRequestError for two servers that are not the same judge, with both addresses and what
    differs.
    """
    known: dict[str, ServerInfo] = {}
    for address, info in infos.items():
        require_same(known, address, info)
        known[address] = info
    serving = (info for info in infos.values() if info.state is ServerState.SERVING)
    return next(serving, next(iter(infos.values())))


def require_same(known: Mapping[str, ServerInfo], address: str, info: ServerInfo) -> None:
    """Raise JudgeRequestError where the server at `address` is not the same judge as those known.

    What a server does not know while it loads is not compared.
    """
    for other, its in known.items():
        for field, what in _SAME.items():
            unknown = info.model is None or its.model is None
            if field in _KNOWN_WITH_THE_MODEL and unknown:
                continue
            theirs, ours = getattr(its, field), getattr(info, field)
            if theirs != ours:
                raise JudgeRequestError(
                    f"the servers {other} and {address} are not the same judge: the {what} "
                    f"differ{'' if what.endswith('s') else 's'}: {_difference(theirs, ours)}; "
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
