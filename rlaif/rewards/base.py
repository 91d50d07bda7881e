"""What a kind of reward source is, and why responses got no score. Imports no torch.

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
    """A source of scores that cannot be used: which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class SourceKind:
    """One kind of source, a value of SOURCES.

    form: how users write it, for help and errors: "judge:HOST:PORT".
    recognize: the text that a user gave, without its weight → where the source is ("HOST:PORT"),
        None where the text is of another kind.
    open: (where, what opens a judge) → its scores, for as long as the block lasts.
    require: where → None; raises RewardError for what is missing, as far as that shows without
        torch and without running the user's code.
    identity: where → what a resumed run must find unchanged, as JSON values.
    """

    form: str
    recognize: Callable[[str], str | None]
    open: Callable[[str, OpenJudge | None], AbstractContextManager[RewardFunction]]
    identity: Callable[[str], Any] = lambda where: None
    require: Callable[[str], None] = lambda where: None


def reasons(function: RewardFunction) -> Counter[str]:
    """How often the function gave None so far, by reason: its mapping `unscored`, if it has one."""
    counts = getattr(function, "unscored", None)
    return Counter(counts) if isinstance(counts, Mapping) else Counter()


def reasons_since(known: Counter[str], function: RewardFunction, missing: int) -> Counter[str]:
    """Why `missing` responses got no score since `reasons` were `known`; those that the function
    does not explain count as "gave None"."""
    explained = reasons(function) - known
    unexplained = missing - explained.total()
    return explained + Counter({"gave None": unexplained})  # drops what is not above 0
