"""Standardized rewards: sources without a scale of their own get one from the run's first scores.

    raw     what the sources say of a process's responses
    settle  the scores; while a scale is missing it is estimated on those of all processes

The scales are estimated on the first responses, of all processes, whose scores differ, and never
change after that; they are part of a checkpoint (`state`). Before, a score is 0 (all were equal).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from constitution.schema import Message
from rlaif.rewards.base import has_own_scale
from rlaif.rewards.mix import Reward
from rlaif.rewards.scale import Scale, estimate_scale

if TYPE_CHECKING:
    from rlaif.data.records import Prompt
    from rlaif.distributed.processes import ProcessGroup
    from rlaif.models.backbone import Backbone
    from rlaif.models.reward_model import RewardFunction

StandardizeScores = Literal["auto", "none"]

# scores of one response, one of each source; None without a score
Raw = tuple[float, ...] | None


class StandardizedReward:
    """A Reward, a part of whose sources is standardized; a RewardFunction once it has its scales.

    scales: by name of the source, those estimated so far.
    """

    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        self.scales: dict[str, Scale] = {}

    @property
    def missing(self) -> list[str]:
        """Names of the sources that have no scale yet."""
        return [name for name, own in self.reward.scaled if not own and name not in self.scales]

    @property
    def unscored(self) -> Counter[str]:
        """Responses without a score by source and reason."""
        return self.reward.unscored

    @property
    def backbones(self) -> list[Backbone]:
        """The backbones that its reward models compute with."""
        return self.reward.backbones

    def __call__(
        self, conversations: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> list[float | None]:
        """Weighted sums of standardized scores, None where a source has none."""
        assert not self.missing, "settle() estimates the scales first"
        return self.totals(self.reward.raw(conversations, responses))

    def totals(self, raws: Sequence[Raw]) -> list[float | None]:
        """Weighted sums of the standardized scores."""
        return [None if raw is None else self._total(raw) for raw in raws]

    def estimate(self, raws: Sequence[Raw]) -> None:
        """Estimate the missing scales on the scores of all processes' responses."""
        known = [raw for raw in raws if raw is not None]
        for place, (name, _) in enumerate(self.reward.scaled):
            if name in self.missing:
                scale = estimate_scale([raw[place] for raw in known])
                if scale is not None:
                    self.scales[name] = scale

    def _total(self, raw: Sequence[float]) -> float:
        missing = self.missing
        scores = [
            0.0
            if name in missing
            else self.scales[name].standardized(score)
            if name in self.scales
            else score
            for (name, _), score in zip(self.reward.scaled, raw, strict=True)
        ]
        return self.reward.total(scores)


def standardized(function: RewardFunction, standardize: StandardizeScores) -> RewardFunction:
    """The reward with its judges' scores standardized; itself with "none", or without a judge."""
    if standardize == "none":
        return function
    if isinstance(function, Reward):
        reward = function
    elif has_own_scale(function):
        return function
    else:
        reward = Reward([("reward", 1.0, function)])
    return StandardizedReward(reward) if not all(own for _, own in reward.scaled) else function


def raw_scores(
    function: RewardFunction, prompts: Sequence[Prompt], responses: Sequence[str], where: str
) -> list[Raw]:
    """This process's scores before standardization; errors as those of `checked_scores`."""
    from rlaif.models.reward_model import checked_scores, score_responses

    if isinstance(function, StandardizedReward):
        return score_responses(function.reward.raw, prompts, responses, where)
    scores = checked_scores(function, prompts, responses, where)
    return [None if score is None else (score,) for score in scores]


def settle(
    function: RewardFunction, raws: Sequence[Raw], workers: ProcessGroup
) -> list[float | None]:
    """The scores of this process's responses. Collective while a scale is missing."""
    if not isinstance(function, StandardizedReward):
        return [None if raw is None else raw[0] for raw in raws]
    if function.missing:
        before = function.missing
        shares = workers.gather([list(raws)])  # one of each process
        function.estimate([raw for share in shares for raw in share])
        for name in before:
            if name in function.scales and workers.is_main:
                scale = function.scales[name]
                print(
                    f"scores of {name} are standardized from here on: less {scale.mean:.3f}, over "
                    f"{scale.sd:.3f} (standardize_scores=none leaves them as they are)",
                    file=sys.stderr,
                )
    return function.totals(raws)


def scales_state(function: RewardFunction) -> dict[str, tuple[float, float]]:
    """(mean, sd) of the scales estimated so far, by source, for a checkpoint."""
    if not isinstance(function, StandardizedReward):
        return {}
    return {name: (scale.mean, scale.sd) for name, scale in function.scales.items()}


def load_scales(function: RewardFunction, state: dict[str, tuple[float, float]]) -> None:
    """Set the scales of a checkpoint."""
    if isinstance(function, StandardizedReward):
        function.scales = {name: Scale(*values) for name, values in state.items()}
