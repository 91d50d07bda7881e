"""The weighted sum of several reward sources.

    score = Σ_i weight_i · score_i          None if any source has none
    score_i is standardized first where the source has no scale of its own (standardized.py)

Missing scores are counted by source and reason in `Reward.unscored`, and each reason is printed on
stderr once.
Left out: normalizing sources that have a scale; their weight is in score per unit of the source.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from constitution.schema import Message
from rlaif.rewards.base import RewardError, has_own_scale, reasons, reasons_since
from rlaif.rewards.folder import RewardFolder

if TYPE_CHECKING:
    from rlaif.models.backbone import Backbone
    from rlaif.models.reward_model import RewardFunction


class Reward:
    """The weighted sum of several sources, a RewardFunction.

    sources: (name, weight, function) each. identity: JSON values; a run resumes only if they are
    unchanged. `unscored` counts the responses without a score by the first source that had none,
    and its reason: {"judge:127.0.0.1:50051: timed out": 3}. Raises RewardError without sources.
    """

    def __init__(
        self, sources: Sequence[tuple[str, float, RewardFunction]], identity: Any = "callables"
    ) -> None:
        if not sources:
            raise RewardError("no reward is given; give at least one source")
        self._sources = tuple(sources)
        self.identity = identity
        self.unscored: Counter[str] = Counter()

    def __call__(
        self, conversations: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> list[float | None]:
        """Weighted sums, None where a source has none; later sources are not asked for those.

        Raises RewardError for a source that does not return a number or None per response.
        """
        return [
            None if raw is None else self.total(raw) for raw in self.raw(conversations, responses)
        ]

    def total(self, scores: Sequence[float]) -> float:
        """The weighted sum of one response's scores, one of each source."""
        weighted = zip(self._sources, scores, strict=True)
        return sum((weight * score for (_, weight, _), score in weighted), 0.0)

    def raw(
        self, conversations: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> list[tuple[float, ...] | None]:
        """Scores of each response, one of each source and without its weight, or None as above."""
        found: list[tuple[float, ...] | None] = [()] * len(responses)
        for name, _, function in self._sources:
            open_places = [i for i, scores in enumerate(found) if scores is not None]
            if not open_places:
                break
            known = reasons(function)
            scores = _checked(
                name,
                function(
                    [conversations[i] for i in open_places], [responses[i] for i in open_places]
                ),
                len(open_places),
            )
            for place, score in zip(open_places, scores, strict=True):
                before = found[place]
                assert before is not None
                found[place] = None if score is None else (*before, score)
            self._count(name, reasons_since(known, function, scores.count(None)))
        return found

    @property
    def scaled(self) -> list[tuple[str, bool]]:
        """(name, whether its scores have a scale of their own) of each source."""
        return [(name, has_own_scale(function)) for name, _, function in self._sources]

    @property
    def backbones(self) -> list[Backbone]:
        """The backbones that its reward models compute with."""
        from rlaif.models.reward_model import backbones_of

        return [each for _, _, function in self._sources for each in backbones_of(function)]

    def over(self, backbone: Backbone) -> Reward:
        """The same reward with its reward models opened.

        The first adapter becomes the role "reward" of the backbone; other adapters, and fully tuned
        models, are loaded separately. Raises RewardModelError for a folder that is not a reward
        model over this base.
        """
        opened: list[tuple[str, float, RewardFunction]] = []
        free = True  # the backbone's role
        for name, weight, function in self._sources:
            if isinstance(function, RewardFolder):
                opened.append((name, weight, function.over(backbone, free)))
                free = free and not function.is_adapter
            else:
                opened.append((name, weight, function))
        return Reward(opened, self.identity)

    def by_itself(self) -> Reward:
        """The same reward with each reward model opened over a base of its own.

        Raises RewardModelError for a folder that is not a reward model.
        """
        opened = [
            (name, weight, function.by_itself() if isinstance(function, RewardFolder) else function)
            for name, weight, function in self._sources
        ]
        return Reward(opened, self.identity)

    def _count(self, name: str, why: Counter[str]) -> None:
        counts = Counter({f"{name}: {reason}": n for reason, n in why.items()})
        for reason in counts.keys() - self.unscored.keys():
            print(
                f"left out, without a score: {reason} (shown once; counted as unscored)",
                file=sys.stderr,
            )
        self.unscored += counts


def mixed(sources: Sequence[tuple[float, RewardFunction]]) -> Reward:
    """Weighted sum of (weight, function) pairs. Example: `mixed([(1.0, f), (-0.1, length)])`."""
    return Reward([(f"source {i}", w, f) for i, (w, f) in enumerate(sources, start=1)])


def _checked(name: str, scores: Any, count: int) -> list[float | None]:
    """What a source returned, as one finite float or None per response. Raises RewardError."""
    if isinstance(scores, str) or not hasattr(scores, "__iter__"):
        raise RewardError(
            f"reward {name}: it returned {_short(scores)}, not a list; return one number or None "
            "per response"
        )
    values = list(scores)
    if len(values) != count:
        raise RewardError(
            f"reward {name}: it returned {len(values)} scores for {count} responses; return one "
            "number or None per response, in their order"
        )
    return [None if score is None else _number(name, score) for score in values]


def _number(name: str, score: Any) -> float:
    try:
        value = float(score)  # a 0-dimensional tensor or array is one too
    except (TypeError, ValueError):
        value = math.nan
    if isinstance(score, str) or not math.isfinite(value):
        raise RewardError(
            f"reward {name}: {_short(score)} is not a finite number; return None for a response "
            "that cannot be scored"
        )
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
