"""Rollouts one step off-policy: iteration k+1 is drawn by the rollout workers while k trains.

    weights after the updates of    k-1                k
    the trainer makes those of      k                  k+1
    the workers draw for            k+1                k+2        so that staleness is 1

The sampler's policy is then not the one before the updates. Log π_old is computed again with the
present weights, so that w = min(π_old / sampler, importance_cap) corrects for both the sampler's
kernels and the update in between, and the clipped ratio bounds the step from the present policy
(Hilton et al. 2021, arXiv:2110.00641: the proximal policy need not be the behavior policy).
What is drawn is in checkpoints, so that a resumed run trains on the same responses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlaif.algorithms.ppo.config import PPOConfig
from rlaif.algorithms.ppo.drawing.draw import Drawn, own_requests
from rlaif.algorithms.ppo.drawing.models import PPOModels
from rlaif.batching.encode import EncodedPrompt, in_groups
from rlaif.distributed.processes import ProcessGroup
from rlaif.generation.base import Generated
from rlaif.generation.remote.sampler import Ongoing, RemoteSampler

Batch = Callable[[int], Sequence[EncodedPrompt]]
"""Iteration, from 1 → its prompts."""


class AheadOfTraining:
    """Draws the next iteration's responses while this one trains; without off_policy_steps nothing.

    All methods are collective. batch: the prompts of an iteration.
    """

    def __init__(
        self, models: PPOModels, batch: Batch, config: PPOConfig, workers: ProcessGroup
    ) -> None:
        self._models, self._batch, self._config, self._workers = models, batch, config, workers
        self._step = 0  # whose responses are drawn
        self._ongoing: Ongoing | None = None
        self._drawn: Drawn | None = None

    def start(self, step: int) -> None:
        """Begin to draw for iteration `step`, with the present weights."""
        if not self._config.off_policy_steps or step > self._config.iterations:
            return
        sampler, config = self._models.sampler, self._config
        assert isinstance(sampler, RemoteSampler), "off_policy_steps needs rollout workers"
        asked = own_requests(self._batch(step), step, config, self._workers)
        with self._models.policy.unsharded(), self._workers.raise_together():
            if asked.prompts:
                sampler.sync()
                ids = [prompt.ids for prompt in asked.prompts]
                self._ongoing = sampler.begin(
                    ids, config.max_new_tokens, config.temperature, asked.seeds
                )
        self._step = step

    def finish(self) -> None:
        """Wait until they are drawn."""
        if not self._step or self._drawn is not None:
            return
        ongoing, self._ongoing = self._ongoing, None
        with self._workers.raise_together():
            generated = ongoing.result() if ongoing else []
        self._drawn = Drawn(generated, ongoing.seconds if ongoing else 0.0, 1)

    def take(self, step: int) -> Drawn | None:
        """What was drawn for iteration `step`; None where it has to be drawn now."""
        drawn = self._drawn if self._step == step else None
        self.drop()
        return drawn

    def drop(self) -> None:
        """Forget what was drawn: the policy went back to other weights, or it is used."""
        self._step, self._ongoing, self._drawn = 0, None, None

    def state(self) -> dict[str, Any]:
        """What was drawn, of all processes, for a checkpoint; after `finish`."""
        if self._drawn is None:
            return {}
        rows = [[g.ids, g.logprobs, g.complete, g.version] for g in self._drawn.generated]
        groups = self._workers.gather(list(in_groups(rows, self._config.group_size)))
        return {"step": self._step, "groups": groups, "seconds": self._drawn.seconds}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what a checkpoint holds, whatever the number of processes."""
        if state:
            own = self._workers.shard(state["groups"])
            generated = [Generated(*row) for group in own for row in group]
            self._step, self._drawn = state["step"], Drawn(generated, state["seconds"], 1)
