"""Now and then during PPO: the policy answers prompts set aside, and a judge says how well.

    judge_score = mean P(the policy's response is better than the start's)      ½ at the start

The responses are drawn as in rollouts, with the same seeds every time, so that two evaluations
differ by the policy and not by its luck. What follows from the score is decided in guard.py.
The prompts set aside are part of the prompts to train on, not of those a policy is reported on: a
checkpoint chosen by their score is a little overrated on them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from constitution.errors import UserError
from rlaif.algorithms.ppo.config import PPOConfig
from rlaif.algorithms.ppo.rollout import PPOModels, decoded, sample
from rlaif.batching.encode import EncodedPrompt
from rlaif.data.records import Prompt
from rlaif.distributed.processes import ProcessGroup
from rlaif.generation.offline import response_seed
from rlaif.training.config import TrainingError

# (held-out prompts, the policy's responses) → mean P(better than the start's); None: cannot say
HeldOutJudge = Callable[[Sequence[Prompt], Sequence[str]], float | None]


def split_off(
    prompts: Sequence[EncodedPrompt], count: int, seed: int
) -> tuple[list[EncodedPrompt], list[EncodedPrompt]]:
    """(to train on, `count` to be judged), a seeded choice; both in the order of `prompts`.

    Raises TrainingError when nothing would be left to train on.
    """
    if count >= len(prompts):
        raise TrainingError(
            f"eval_prompts={count} of {len(prompts)} usable prompts leaves none to train on; lower "
            "eval_prompts or give more prompts"
        )
    generator = torch.Generator().manual_seed(seed)
    aside = set(torch.randperm(len(prompts), generator=generator)[:count].tolist())
    kept = [prompt for i, prompt in enumerate(prompts) if i not in aside]
    return kept, [prompt for i, prompt in enumerate(prompts) if i in aside]


@dataclass(frozen=True, slots=True)
class HeldOutEvaluation:
    """A judge, and the prompts it is shown responses to."""

    judge: HeldOutJudge
    prompts: list[EncodedPrompt]

    def score(
        self, actors: PPOModels, config: PPOConfig, workers: ProcessGroup, where: str
    ) -> float | None:
        """What the judge says of the present policy; the same in every process.

        Raises TrainingError for what is no probability, or when the judge raises.
        """
        mine = workers.shard(self.prompts)
        seeds = [response_seed(config.seed, f"{p.prompt.id}@held-out", 0) for p in mine]
        texts = workers.gather(decoded(actors, sample(actors, mine, seeds, config)))
        said = self._ask(texts, where) if workers.is_main else None
        told = workers.all_reduce({"known": float(said is not None), "score": said or 0.0})
        return told["score"] if told["known"] else None

    def _ask(self, texts: Sequence[str], where: str) -> float | None:
        try:
            said = self.judge([p.prompt for p in self.prompts], texts)
        except UserError:
            raise
        except Exception as error:
            raise TrainingError(
                f"{where}: the judge of held-out responses raised {type(error).__name__}: {error}; "
                "the last checkpoint stays: mend it (let it return None for what it cannot say)"
            ) from error
        if said is not None and not (math.isfinite(said) and 0 <= said <= 1):
            raise TrainingError(
                f"{where}: the judge of held-out responses said {said}; it must say a probability "
                "in [0, 1], or None"
            )
        return said
