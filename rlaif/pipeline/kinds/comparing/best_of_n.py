"""best_of_n: of n responses of a model, the one that a reward model scores highest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from rlaif.data.records import Prompt, Sample, write_json, write_jsonl
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.kinds.respond import RespondConfig, SamplerStage
from rlaif.pipeline.stage import ArtifactType, Files, model_files, one
from rlaif.settings import SettingsModel

if TYPE_CHECKING:
    from rlaif.models.reward_model import RewardModel


class BestOfNConfig(SettingsModel):
    """Settings of best-of-n."""

    n: int = Field(default=8, ge=2, description="responses drawn for each one that is given (ours)")
    seed: int = Field(default=0, description="seed that they are drawn from (ours)")


class BestOfNStage(SamplerStage):
    """Answers by drawing n responses of a model and keeping the best by a reward model. It trains
    nothing: the price is paid with every answer."""

    kind = "best_of_n"
    takes = {
        "model": one(ArtifactType.MODEL, "what answers"),
        "reward": one(ArtifactType.REWARD_MODEL, "what picks"),
    }
    settings_class = BestOfNConfig

    def does(self, context: RunContext) -> str:
        return f"{self.source('reward').title} will pick one of {self.settings.n} responses"

    def run(self, context: RunContext) -> None:
        write_json(self._file, {"n": self.settings.n, "kl_most": kl_bound(self.settings.n)})

    @property
    def _file(self) -> Path:
        return self.folder / "best_of_n.json"

    @property
    def outputs(self) -> Files:
        """What an answer depends on besides the model: the settings and the reward model."""
        reward = self.source("reward").stage
        weights = model_files(reward.folder).paths if reward is not None else ()
        return Files((self._file, *weights))

    def answer(self, prompts: Sequence[Prompt], out: Path, settings: RespondConfig) -> None:
        from rlaif.generation.offline import sample
        from rlaif.models.reward_model import RewardModel

        drawn = out.with_name(f"{out.stem}.drawn.jsonl")
        more = {"n": settings.n * self.settings.n, "seed": self.settings.seed}
        model = self.source("model").model
        samples = sample(model, prompts, drawn, settings.model_copy(update=more))
        reward = self.source("reward").stage
        assert reward is not None
        assert reward.base is not None
        scorer = RewardModel.load(reward.base.model, reward.folder)
        write_jsonl(out, best_of(samples, _scores(scorer, samples), self.settings.n))
        speed = drawn.with_suffix(".speed.json").read_bytes()  # that of drawing, not of answering
        out.with_suffix(".speed.json").write_bytes(speed)


def _scores(scorer: RewardModel, samples: Sequence[Sample]) -> list[float | None]:
    from rlaif.data.cut_off import ResponseText

    texts = [ResponseText(s.response, s.complete, s.end_token) for s in samples]
    return scorer.overall_scores([s.prompt.messages for s in samples], texts)


def best_of(samples: Sequence[Sample], scores: Sequence[float | None], n: int) -> list[Sample]:
    """The best of every n samples in order, the first of equals; a response without a score comes
    last. Indices count the answers to each prompt anew.

    samples: a multiple of n for each prompt, those of a prompt one after another.
    """
    chosen: list[Sample] = []
    counts: dict[str, int] = {}
    for start in range(0, len(samples), n):
        places = range(start, start + n)
        best = max(places, key=lambda place: _rank(scores[place]))
        prompt = samples[best].prompt.id
        counts[prompt] = counts.get(prompt, -1) + 1
        chosen.append(samples[best].model_copy(update={"index": counts[prompt]}))
    return chosen


def _rank(score: float | None) -> float:
    return -math.inf if score is None else score


def kl_bound(n: int) -> float:
    """The most that best-of-n can be from its model, KL in nats per response: ln n - (n-1)/n
    (arXiv:2401.01879)."""
    return math.log(n) - (n - 1) / n
