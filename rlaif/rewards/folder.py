"""A trained reward model as a source.

Its score is in standard deviations from the mean of its training responses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from constitution.schema import Message
from hardware.model_folder import inspect_model_folder
from rlaif.models.reward.weights import read_facts
from rlaif.rewards.base import OpenJudge, RewardError, SourceKind

if TYPE_CHECKING:
    from rlaif.models.backbone import Backbone
    from rlaif.models.reward_model import RewardFunction


@dataclass(frozen=True, slots=True)
class RewardFolder:
    """A reward model's folder, to be opened over a backbone (`Reward.over`) before it can score."""

    path: Path

    @property
    def is_adapter(self) -> bool:
        """Whether it is a LoRA adapter rather than a full model."""
        return inspect_model_folder(self.path).is_adapter

    def over(self, backbone: Backbone, free: bool) -> RewardFunction:
        """Open the reward model, as the backbone's role "reward" if it can be, else separately.

        free: whether the backbone has no such role yet. Raises RewardModelError or BackboneError.
        """
        from rlaif.models.reward_model import ModelScores, RewardModel

        if self.is_adapter and free:
            return ModelScores(RewardModel.attach(backbone, self.path))
        return ModelScores(RewardModel.load(backbone.name, self.path, workers=backbone.workers))

    def by_itself(self) -> RewardFunction:
        """Open the reward model over its own base. Raises RewardModelError or BackboneError."""
        from rlaif.models.catalog import resolve
        from rlaif.models.reward_model import ModelScores, RewardModel

        return ModelScores(RewardModel.load(resolve(read_facts(self.path)["base_name"]), self.path))

    def __call__(
        self, conversations: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> list[float | None]:
        """Fail: the folder has not been opened (`over`)."""
        raise AssertionError(f"{self.path}: Reward.over(backbone) comes first")


def _recognize(text: str) -> str | None:
    return text if Path(text).is_dir() else None


@contextmanager
def _open(where: str, judge: OpenJudge | None) -> Iterator[RewardFunction]:
    yield RewardFolder(Path(where))


def _require(where: str) -> None:
    folder = Path(where)
    if not (folder / "reward.json").is_file():
        raise RewardError(
            f"{folder}: not a reward model (reward.json is missing); make one with `rlaif train "
            "reward`"
        )
    read_facts(folder)  # raises for one of an earlier version


def _identity(where: str) -> Any:
    from rlaif.models.reward_model import reward_identity

    return reward_identity(Path(where))


FOLDER = SourceKind("a reward model's folder", _recognize, _open, _identity, _require)
