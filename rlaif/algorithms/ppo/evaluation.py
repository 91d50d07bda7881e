"""Evaluation during PPO: a judge compares the policy's responses to held-out prompts.

    judge_score = mean P(the policy's response is better than the start's)      ½ at the start
    (over the prompts that the judge gave a probability)

The responses are sampled as in rollouts, with the same seeds every time, so that two evaluations
differ by the policy and not by chance. guards.py decides what follows from the score. The held-out
prompts are a part of those given for training, not of those a policy is reported on: a checkpoint
chosen by their score is a little overrated on them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from constitution.errors import UserError
from rlaif.algorithms.ppo.config import PPOConfig, require_prompts_left
from rlaif.algorithms.ppo.drawing.draw import decoded, sample
from rlaif.algorithms.ppo.drawing.models import PPOModels
from rlaif.batching.encode import EncodedPrompt
from rlaif.data.prompt_split import text_of
from rlaif.data.records import Prompt
from rlaif.distributed.processes import ProcessGroup
from rlaif.generation.base import response_seed
from rlaif.training.config import TrainingError

# (held-out prompts, the policy's responses) → P(better than the start's) of each; None: no score
HeldOutJudge = Callable[[Sequence[Prompt], Sequence[str]], Sequence[float | None]]


def split_off(
    prompts: Sequence[EncodedPrompt], count: int, seed: int
) -> tuple[list[EncodedPrompt], list[EncodedPrompt]]:
    """Split prompts at random, by the seed, into (training, `count` held out), each in order.

    Of prompts with equal text (`text_of`) one may be held out; the others are then on no side.
    Raises TrainingError when no prompt would be left to train on.
    """
    texts = [text_of(prompt.prompt) for prompt in prompts]
    require_prompts_left(len(set(texts)), count)
    generator = torch.Generator().manual_seed(seed)
    heldout: dict[str, int] = {}  # text → its place
    for place in torch.randperm(len(prompts), generator=generator).tolist():
        if len(heldout) < count:
            heldout.setdefault(texts[place], place)
    train = [prompt for prompt, text in zip(prompts, texts, strict=True) if text not in heldout]
    return train, [prompts[place] for place in sorted(heldout.values())]


@dataclass(frozen=True, slots=True)
class HeldOutEvaluation:
    """Compares the policy's responses to held-out prompts with the start's, by a judge."""

    judge: HeldOutJudge
    prompts: list[EncodedPrompt]

    def scores(
        self, models: PPOModels, config: PPOConfig, workers: ProcessGroup, where: str
    ) -> list[float | None]:
        """P(the current policy's response is better than the start's) for every prompt, or None.

        Collective; every process gets the same value. where: names the iteration in errors.
        Raises TrainingError for a score that is not a probability, or when the judge raises.
        """
        own = workers.shard(self.prompts)
        seeds = [response_seed(config.seed, f"{p.prompt.id}@held-out", 0) for p in own]
        responses = workers.gather(decoded(models, sample(models, own, seeds, config, workers)))
        # The main process queries the judge; a sum carries its answers to the others.
        with workers.raise_together():
            scores = self._query_judge(responses, where) if workers.is_main else []
        sums: dict[str, float] = {}
        for i in range(len(self.prompts)):
            score = scores[i] if scores else None
            sums |= {f"known/{i}": float(score is not None), f"score/{i}": score or 0.0}
        totals = workers.all_reduce(sums)
        return [
            totals[f"score/{i}"] if totals[f"known/{i}"] else None for i in range(len(self.prompts))
        ]

    def _query_judge(self, responses: Sequence[str], where: str) -> list[float | None]:
        try:
            scores = self.judge([p.prompt for p in self.prompts], responses)
        except UserError:
            raise
        except Exception as error:
            raise TrainingError(
                f"{where}: the judge of held-out responses raised {type(error).__name__}: {error}; "
                "the last checkpoint stays: fix the judge (it may return None for no score)"
            ) from error
        if not isinstance(scores, Sequence) or len(scores) != len(responses):
            raise TrainingError(
                f"{where}: the judge of held-out responses returned {scores!r}; expected one "
                f"probability or None for each of {len(responses)} responses"
            )
        for score in scores:
            if score is not None and not (math.isfinite(score) and 0 <= score <= 1):
                raise TrainingError(
                    f"{where}: the judge of held-out responses returned {score}; expected a "
                    "probability in [0, 1], or None"
                )
        return list(scores)
