"""A judge service as a source: its rating of the response alone, in [-1, 1].

Training imports no judge service: the caller of `open_rewards` passes a function that opens one.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from rlaif.rewards.base import OpenJudge, RewardError, SourceKind

if TYPE_CHECKING:
    from rlaif.models.reward_model import RewardFunction

_PREFIX = "judge:"


def _recognize(text: str) -> str | None:
    return text.removeprefix(_PREFIX) if text.startswith(_PREFIX) else None


def _open(where: str, judge: OpenJudge | None) -> AbstractContextManager[RewardFunction]:
    if judge is None:
        raise RewardError(
            f"reward {_PREFIX}{where}: a judge is not available here; give a reward model's "
            "folder or module:function"
        )
    return judge(where)


JUDGE = SourceKind("judge:HOST:PORT", _recognize, _open)
