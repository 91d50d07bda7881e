"""Scores for PPO and ReST, from the reward models and other sources that a stage names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from constitution.errors import UserError
from rlaif.pipeline.stage import ArtifactType, Files, Slot, Source, is_model
from rlaif.rewards.callable import source_file
from rlaif.rewards.sources import require_source

if TYPE_CHECKING:
    from rlaif.models.reward_model import RewardFunction

REWARD_SLOT = Slot(
    (ArtifactType.REWARD_MODEL,),
    "what scores responses; several are added up by their weights",
    many=True,
    weighted=True,
    negative=True,
    files=True,
    folders=True,
    texts=("judge:HOST:PORT", "module:function"),
)


def refused_rewards(sources: Sequence[Source]) -> Iterator[tuple[str, str]]:
    """("reward", what is wrong) of each folder and text that cannot be a reward."""
    for source in sources:
        if source.stage is None:
            try:
                require_source(source.text)
            except UserError as error:
                yield "reward", str(error)


def code_of(sources: Sequence[Source]) -> dict[str, Files]:
    """The files of the modules of `module:function` rewards, as a part of a stage's inputs."""
    found = (source_file(s.origin) for s in sources if isinstance(s.origin, str))
    files = tuple(file for file in found if file is not None)
    return {"reward_code": Files(files)} if files else {}


@contextmanager
def open_scores(sources: Sequence[Source], policy: Source) -> Iterator[Path | RewardFunction]:
    """The reward for training `policy`: the folder of a reward model where that is the only source
    and was trained over the same base, of which it becomes a role; otherwise a function."""
    if len(sources) == 1 and sources[0].fixed_weight == 1 and _shares_base(sources[0], policy):
        yield folder_of(sources[0])
        return
    from rlaif.rewards.mix import Reward

    with ExitStack() as stack:
        functions = [stack.enter_context(_open(each, policy)) for each in sources]
        opened = [(s.text, s.fixed_weight, f) for s, f in zip(sources, functions, strict=True)]
        yield Reward(opened, [[s.text, s.fixed_weight] for s in sources])


def folder_of(source: Source) -> Path:
    """The folder of a reward model."""
    if source.stage is not None:
        return source.stage.folder
    assert isinstance(source.origin, Path)
    return source.origin


def _shares_base(source: Source, policy: Source) -> bool:
    """Whether a source is an adapter over the model that the policy begins from. A folder from
    elsewhere is taken to be; the trainer refuses it if it is not."""
    if isinstance(source.origin, str) or is_model(folder_of(source)):
        return False
    base = source.stage.base if source.stage else None
    return base is None or base.model == policy.model


@contextmanager
def _open(source: Source, policy: Source) -> Iterator[RewardFunction]:
    if isinstance(source.origin, str):
        from rlaif.feedback.client import judge_reward
        from rlaif.rewards.sources import open_rewards

        with open_rewards([source.origin], judge_reward) as score:
            yield score
        return
    folder = folder_of(source)
    if _shares_base(source, policy):
        from rlaif.rewards.folder import RewardFolder

        yield RewardFolder(folder)
        return
    from rlaif.models.reward_model import ModelScores, RewardModel

    base = source.stage.base if source.stage else None
    yield ModelScores(RewardModel.load(base.model if base else policy.model, folder))
