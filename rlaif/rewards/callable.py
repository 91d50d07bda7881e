"""A Python callable as a source: (conversations, responses) → numbers or None."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaif.rewards.base import OpenJudge, RewardError, SourceKind

if TYPE_CHECKING:
    from rlaif.models.reward_model import RewardFunction

_FORM = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def load_callable(where: str) -> RewardFunction:
    """Import the function "package.module:name", also from the working directory.

    Raises RewardError if the module cannot be imported, or has no such callable.
    """
    module_name, _, path = where.partition(":")
    here = str(Path.cwd())
    searched = sys.path.copy()
    if here not in (str(Path(p).resolve()) for p in sys.path):
        sys.path.insert(0, here)
    try:
        value: Any = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises while it is imported
        raise RewardError(
            f"reward {where!r}: module {module_name!r} cannot be imported "
            f"({type(error).__name__}: {error}); is it installed, or in this folder?"
        ) from error
    finally:
        sys.path[:] = searched
    for part in path.split("."):
        if not hasattr(value, part):
            raise RewardError(
                f"reward {where!r}: {module_name!r} has no {path!r}; name a function of it that "
                "takes (conversations, responses) and returns one number or None per response"
            )
        value = getattr(value, part)
    if not callable(value):
        raise RewardError(
            f"reward {where!r} is a {type(value).__name__}, not a function; it must take "
            "(conversations, responses) and return one number or None per response"
        )
    function: RewardFunction = value
    return function


def source_file(where: str) -> Path | None:
    """The file of the module in "package.module:name", found as `load_callable` finds it, without
    importing it; None where there is none, as for "judge:HOST:PORT" or a built-in module."""
    if not _FORM.fullmatch(where):
        return None
    search: list[str] | None = [str(Path.cwd()), *sys.path]
    origin: str | None = None
    for part in where.partition(":")[0].split("."):
        spec = PathFinder.find_spec(part, search)
        if spec is None:
            return None
        origin, search = spec.origin, list(spec.submodule_search_locations or ())
    file = Path(origin) if origin else None
    return file if file is not None and file.is_file() else None


def _require(where: str) -> None:
    """The module is not imported, only looked for: it may be slow, or need torch."""
    package = where.partition(":")[0].partition(".")[0]
    if package in sys.modules or importlib.util.find_spec(package) is not None:
        return
    if PathFinder.find_spec(package, [str(Path.cwd())]) is None:
        raise RewardError(
            f"reward {where!r}: no module named {package!r} is installed, or in this folder; give "
            "module:function"
        )


def _recognize(text: str) -> str | None:
    return text if _FORM.fullmatch(text) else None


@contextmanager
def _open(where: str, judge: OpenJudge | None) -> Iterator[RewardFunction]:
    yield load_callable(where)


CALLABLE = SourceKind("module:function", _recognize, _open, require=_require)
