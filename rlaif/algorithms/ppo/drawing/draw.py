"""What an iteration samples, and the responses to it before they are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rlaif.algorithms.ppo.config import PPOConfig
from rlaif.algorithms.ppo.drawing.models import PPOModels
from rlaif.batching.encode import EncodedPrompt
from rlaif.data.cut_off import ResponseText
from rlaif.distributed.processes import ProcessGroup
from rlaif.generation.base import Generated, response_seed, response_text


@dataclass(frozen=True, slots=True)
class Drawn:
    """The responses to this process's prompts of one iteration, before they are scored."""

    generated: list[Generated]
    seconds: float  # weight sync and sampling
    staleness: int  # updates that the policy has made since


class Requests(NamedTuple):
    """What this process samples: a prompt and a seed for each response, group by group."""

    prompts: list[EncodedPrompt]
    seeds: list[int]


def own_requests(
    prompts: Sequence[EncodedPrompt], step: int, config: PPOConfig, workers: ProcessGroup
) -> Requests:
    """This process's share of an iteration's prompts.

    A response's seed does not depend on how prompts are shared out among processes.
    """
    own = workers.shard([(prompt, place) for place, prompt in enumerate(prompts)])
    n = config.group_size
    return Requests(
        [prompt for prompt, _ in own for _ in range(n)],
        [
            response_seed(config.seed, f"{prompt.prompt.id}@{step}", place * n + index)
            for prompt, place in own
            for index in range(n)
        ],
    )


def sample(
    models: PPOModels,
    prompts: Sequence[EncodedPrompt],
    seeds: Sequence[int],
    config: PPOConfig,
    workers: ProcessGroup,
) -> list[Generated]:
    """Sample one response of the current policy to each prompt, from its own seed.

    Collective, also for a process without prompts, which gathers a sharded model with the others.
    """
    ids = [prompt.ids for prompt in prompts]
    generated: list[Generated] = []
    with models.policy.unsharded(), workers.raise_together():
        if prompts:
            models.sampler.sync()
            generated = models.sampler.generate(
                ids, config.max_new_tokens, config.temperature, seeds
            )
    return generated


def decoded(models: PPOModels, generated: Sequence[Generated]) -> list[ResponseText]:
    """Texts of the sampled responses, without special tokens."""
    tokenizer = models.policy.tokenizer
    return [response_text(tokenizer, g) for g in generated]
