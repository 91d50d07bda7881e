"""Parsing and opening of the reward sources that a user names.

    runs/reward            a reward model's folder
    judge:HOST:PORT        a judge service
    package.module:name    a Python callable
    0.5*runs/reward        any of them with a weight, which may be negative; without one it is 1

A new kind is a file beside judge.py and a line in SOURCES.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from constitution.errors import nearest
from rlaif.rewards.base import OpenJudge, RewardError, SourceKind
from rlaif.rewards.callable import CALLABLE
from rlaif.rewards.folder import FOLDER
from rlaif.rewards.judge import JUDGE
from rlaif.rewards.mix import Reward
from rlaif.settings import parse_weighted

# Recognized from the last to the first: a new kind comes after the general ones. A callable is
# any word:word, so a kind with a prefix must stand behind it.
SOURCES: dict[str, SourceKind] = {"callable": CALLABLE, "folder": FOLDER, "judge": JUDGE}


@dataclass(frozen=True, slots=True)
class RewardSource:
    """One source as the user named it."""

    kind: str  # a key of SOURCES
    where: str  # its place, such as HOST:PORT
    weight: float
    name: str  # the user's text, without the weight


def parse_source(text: str) -> RewardSource:
    """Parse a source such as "0.5*runs/reward". Raises RewardError for an unknown one."""
    weight, name = parse_weighted(text, "reward", "SOURCE", negative=True, error=RewardError)
    for kind, source in reversed(SOURCES.items()):
        where = source.recognize(name)
        if where is not None:
            return RewardSource(kind, where, weight, name)
    near = nearest(name.partition(":")[0], (kind for kind in SOURCES if f"{kind}:" in _forms()))
    hint = f"; {near}" if near else ""
    raise RewardError(f"reward {text!r}: unknown source {name!r}; give {_forms()}{hint}")


def require_source(text: str) -> None:
    """Raises RewardError for a source that cannot be read or opened, without importing torch."""
    source = parse_source(text)
    SOURCES[source.kind].require(source.where)


@contextmanager
def open_rewards(texts: Sequence[str], judge: OpenJudge | None = None) -> Iterator[Reward]:
    """Yield the weighted sum of the sources that `texts` name; they are closed after the block.

    Trainers open its reward models over their own backbone (`Reward.over`), without a second base
    in memory. judge: opens the scores of a judge service, and is required to name one. Raises
    RewardError, or RewardModelError for a folder that is not a reward model.
    """
    if not texts:
        raise RewardError(f"no reward is given; give {_forms()}")
    sources = [parse_source(text) for text in texts]
    with ExitStack() as stack:
        opened = [
            (
                source.name,
                source.weight,
                stack.enter_context(SOURCES[source.kind].open(source.where, judge)),
            )
            for source in sources
        ]
        identity = [
            [text, SOURCES[source.kind].identity(source.where)]
            for text, source in zip(texts, sources, strict=True)
        ]
        yield Reward(opened, identity)


def _forms() -> str:
    *most, last = (source.form for source in reversed(SOURCES.values()))
    return f"{', '.join(most)}, or {last}"
