"""The interface of a kind of reward source, and reasons for missing scores. Imports no torch.

A response without a score is None, never a number: PPO masks it, ReST leaves it out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from constitution.errors import UserError

if TYPE_CHECKING:
    from rlaif.models.reward_model import RewardFunction

# (HOST:PORT) → its scores, for as long as the block lasts (rlaif.feedback.client.judge_reward)
OpenJudge = Callable[[str], "AbstractContextManager[RewardFunction]"]


class RewardError(UserError):
    """A reward source that cannot be used; the message has the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class SourceKind:
    """One kind of source, an entry of SOURCES.

    form: how users write it, for help and errors: "judge:HOST:PORT".
    recognize: a user's text, without its weight → the source's place ("HOST:PORT"); None for a text
        of another kind.
    open: (place, function that opens a judge) → context of its reward function.
    identity: place → JSON values; a run resumes only if they are unchanged.
    require: place → None; raises RewardError for what is missing, as far as that shows without
        torch and without running the user's code.
    """

    form: str
    recognize: Callable[[str], str | None]
    open: Callable[[str, OpenJudge | None], AbstractContextManager[RewardFunction]]
    identity: Callable[[str], Any] = lambda where: None
    require: Callable[[str], None] = lambda where: None


def has_own_scale(function: RewardFunction) -> bool:
    """Whether a function's scores are used as they are: unless its `own_scale` is False.

    A reward model's scores are in standard deviations; whoever writes a callable sets its scale.
    """
    return bool(getattr(function, "own_scale", True))


def reasons(function: RewardFunction) -> Counter[str]:
    """Counts of a function's missing scores so far, by reason: its `unscored`, or nothing."""
    counts = getattr(function, "unscored", None)
    return Counter(counts) if isinstance(counts, Mapping) else Counter()


def reasons_since(known: Counter[str], function: RewardFunction, missing: int) -> Counter[str]:
    """Reasons of the `missing` scores since `reasons(function)` was `known`.

    Scores whose absence the function does not explain are counted as "gave None".
    """
    explained = reasons(function) - known
    unexplained = missing - explained.total()
    return explained + Counter({"gave None": unexplained})  # drops what is not above 0
