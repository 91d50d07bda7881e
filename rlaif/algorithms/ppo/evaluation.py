"""Evaluation during PPO: a judge compares the policy's responses to held-out prompts.

    judge_score = mean P(the policy's response is better than the start's)      ½ at the start

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
from rlaif.algorithms.ppo.rollout import PPOModels, decoded, sample
from rlaif.batching.encode import EncodedPrompt
from rlaif.data.records import Prompt
from rlaif.distributed.processes import ProcessGroup
from rlaif.generation.base import response_seed
from rlaif.training.config import TrainingError

# (held-out prompts, the policy's responses) → mean P(better than the start's); None: no score
HeldOutJudge = Callable[[Sequence[Prompt], Sequence[str]], float | None]


def split_off(
    prompts: Sequence[EncodedPrompt], count: int, seed: int
) -> tuple[list[EncodedPrompt], list[EncodedPrompt]]:
    """Split prompts at random, by the seed, into (training, `count` held out), each in order.

    Raises TrainingError when no prompt would be left to train on.
    """
    require_prompts_left(len(prompts), count)
    generator = torch.Generator().manual_seed(seed)
    heldout = set(torch.randperm(len(prompts), generator=generator)[:count].tolist())
    train = [prompt for i, prompt in enumerate(prompts) if i not in heldout]
    return train, [prompt for i, prompt in enumerate(prompts) if i in heldout]


@dataclass(frozen=True, slots=True)
class HeldOutEvaluation:
    """Compares the policy's responses to held-out prompts with the start's, by a judge."""

    judge: HeldOutJudge
    prompts: list[EncodedPrompt]

    def score(
        self, models: PPOModels, config: PPOConfig, workers: ProcessGroup, where: str
    ) -> float | None:
        """Mean P(the current policy's response is better than the start's), or None.

        Collective; every process gets the same value. where: names the iteration in errors.
        Raises TrainingError for a score that is not a probability, or when the judge raises.
        """
        own = workers.shard(self.prompts)
        seeds = [response_seed(config.seed, f"{p.prompt.id}@held-out", 0) for p in own]
        responses = workers.gather(decoded(models, sample(models, own, seeds, config)))
        # the main process queries the judge; a sum carries its answer to the others
        score = self._query_judge(responses, where) if workers.is_main else None
        totals = workers.all_reduce({"has_score": float(score is not None), "score": score or 0.0})
        return totals["score"] if totals["has_score"] else None

    def _query_judge(self, responses: Sequence[str], where: str) -> float | None:
        try:
            score = self.judge([p.prompt for p in self.prompts], responses)
        except UserError:
            raise
        except Exception as error:
            raise TrainingError(
                f"{where}: the judge of held-out responses raised {type(error).__name__}: {error}; "
                "the last checkpoint stays: fix the judge (it may return None for no score)"
            ) from error
        if score is not None and not (math.isfinite(score) and 0 <= score <= 1):
            raise TrainingError(
                f"{where}: the judge of held-out responses returned {score}; expected a "
                "probability in [0, 1], or None"
            )
        return score
