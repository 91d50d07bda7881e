"""The sampler of PPO and ReST over rollout workers.

    sync()       the policy's weights become the next version: a file, or sent (nccl)
    generate()   the requests, cut into one part per worker; a response has its own seed, so that it
                 does not matter which worker draws it

Two things are checked. The version of the weights comes with every answer and must be the one that
was asked for. And after every sync, and for every worker that was started again, log-probs of
CHECKED responses of each worker are computed again here: version numbers would not show weights
that were read but not used (a head with a copy of its own, a cache of old keys and values).
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import torch

from rlaif.batching.encode import Row, pad
from rlaif.generation.base import Generated, SamplingError
from rlaif.generation.remote.pool import WorkerAnswer, WorkerPool
from rlaif.generation.remote.protocol import Transport, draw_request, read_drawn
from rlaif.generation.remote.weights import forget_weights, write_weights
from rlaif.models.backbone import Backbone

CHECKED = 2  # responses of each worker after each sync
PROBE_TOKENS = 8  # of each of them, where they are drawn for the check alone

# Nats per token, mean over the checked responses (ours). Other batch shapes and kernels round: by
# 4e-5 in float32, 0.01 to 0.05 in bfloat16. Stale heads and caches were 0.7 to 2 (weight_sync.py).
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 0.1}


class Sender(Protocol):
    """Sends weights to the workers without a file (nccl.py)."""

    def send(self, version: int) -> None:
        """Send the policy's present weights, also to workers that were started again."""

    def close(self) -> None:
        """Leave the group."""


@dataclass(frozen=True, slots=True)
class _AskedRollout:
    """What one `generate` asked for."""

    prompts: Sequence[Sequence[int]]
    seeds: Sequence[int]
    settings: tuple[int, float, float]  # max_new_tokens, temperature, top_p


class Ongoing:
    """Responses that are being drawn in a thread, and how long it took."""

    def __init__(self, draw: Callable[[], list[Generated]]) -> None:
        self._drawn: list[Generated] = []
        self._error: BaseException | None = None
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._run, args=(draw,), daemon=True)
        self._thread.start()

    def result(self) -> list[Generated]:
        """The responses, once they are drawn. Raises as `RemoteSampler.generate`."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._drawn

    def _run(self, draw: Callable[[], list[Generated]]) -> None:
        begin = time.perf_counter()
        try:
            self._drawn = draw()
        except BaseException as error:  # raised by `result`, in the trainer's thread
            self._error = error
        self.seconds = time.perf_counter() - begin


class RemoteSampler:
    """A `Sampler` whose responses are drawn by workers; opened by `open_rollout_workers`.

    folder: of the weights' files and the workers' logs, which the workers read too. sender: for
    transport=nccl.
    """

    def __init__(
        self,
        backbone: Backbone,
        pool: WorkerPool,
        transport: Transport,
        folder: Path,
        sender: Sender | None = None,
    ) -> None:
        self._backbone, self._pool, self._transport = backbone, pool, transport
        self._folder, self._sender = folder, sender
        self._version, self._weights = 0, ""
        self._checked: set[tuple[int, int]] = set()  # (worker, its life) at this version
        self.exact = pool.exact
        self.largest_gap = 0.0  # nats per token, in the checks since the last sync

    @property
    def version(self) -> int:
        """Of the weights that `generate` draws with; counts syncs."""
        return self._version

    @property
    def restarts(self) -> int:
        """Workers started again so far."""
        return self._pool.restarts

    def sync(self) -> None:
        """Make the policy's present weights the next version."""
        self._version += 1
        if self._sender is not None:
            self._sender.send(self._version)
        else:
            path = write_weights(self._backbone, self._transport, self._version, self._folder)
            self._weights = str(path.resolve())
        self._checked.clear()
        self.largest_gap = 0.0

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float,
        seeds: Sequence[int],
        top_p: float = 1.0,
    ) -> list[Generated]:
        """Sample as `Sampler.generate`; `sync` must have been called before.

        Raises SamplingError for workers that cannot be started again, requests that end every
        worker, and log-probs that are not those of the policy's weights.
        """
        return self._draw(
            _AskedRollout(prompts, seeds, (max_new_tokens, temperature, top_p)), check=True
        )

    def begin(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float,
        seeds: Sequence[int],
    ) -> Ongoing:
        """As `generate`, without waiting: the policy may be trained meanwhile.

        The workers take over the weights of the last `sync`, and are checked by a few tokens of
        their own, before this returns. Of a worker that has to be started again afterwards only
        the version is checked.
        """
        settings = (min(max_new_tokens, PROBE_TOKENS), temperature, 1.0)
        probe = _AskedRollout(prompts[:CHECKED], seeds[:CHECKED], settings)
        every = range(len(probe.prompts))
        for answered in self._pool.everyone(self._request(probe, every), "a probe"):
            drawn = read_drawn(answered.answer, len(every), self._version)
            self._check(probe, every, drawn, answered)
        asked = _AskedRollout(prompts, seeds, (max_new_tokens, temperature, 1.0))
        return Ongoing(lambda: self._draw(asked, check=False))

    def _draw(self, asked: _AskedRollout, check: bool) -> list[Generated]:
        assert self._version, "sync() comes before generate(): the workers hold the bare base"
        prompts = asked.prompts
        shares = even_shares(prompts, len(self._pool.workers))
        answers = self._pool.map(
            [self._request(asked, share) for share in shares],
            [_named(share, prompts) for share in shares],
        )
        responses: dict[int, Generated] = {}
        for share, answered in zip(shares, answers, strict=True):
            drawn = read_drawn(answered.answer, len(share), self._version)
            responses.update(zip(share, drawn, strict=True))
            if check:
                self._check(asked, share, drawn, answered)
        return [responses[place] for place in range(len(prompts))]

    def close(self) -> None:
        """Stop the workers, and delete the weights; logs stay where a worker died."""
        if self._sender is not None:
            self._sender.close()
        self._pool.close()
        forget_weights(self._folder)
        if not self._pool.restarts and sys.exc_info()[0] is None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _request(self, asked: _AskedRollout, share: Sequence[int]) -> dict[str, object]:
        prompts, seeds = [asked.prompts[i] for i in share], [asked.seeds[i] for i in share]
        return draw_request(prompts, seeds, asked.settings, self._version, self._weights)

    def _check(
        self,
        asked: _AskedRollout,
        share: Sequence[int],
        drawn: Sequence[Generated],
        by: WorkerAnswer,
    ) -> None:
        """Compare log-probs with the policy's, once for each worker and version."""
        _, temperature, top_p = asked.settings
        if (by.worker, by.life) in self._checked or temperature == 0 or top_p != 1:
            return
        self._checked.add((by.worker, by.life))
        some = list(zip(share, drawn, strict=True))[:CHECKED]
        rows = [Row("", (*asked.prompts[i], *g.ids), len(asked.prompts[i])) for i, g in some]
        gap = policy_gap(self._backbone, rows, [g for _, g in some], temperature)
        self.largest_gap = max(self.largest_gap, gap)
        most = TOLERANCE[self._backbone.dtype]
        if not gap <= most:
            raise SamplingError(
                f"rollout worker {by.worker} draws from another policy than the trainer's: its "
                f"log-probs are {gap:.3g} nats per token from those of version {self._version} of "
                f"the weights (at most {most:g} is rounding); its weights did not arrive with "
                f"rollout_weights={self._transport}: choose another transport"
            )


@torch.no_grad()
def policy_gap(
    backbone: Backbone, rows: Sequence[Row], drawn: Sequence[Generated], temperature: float
) -> float:
    """Mean |log-prob of the sampler - that of the policy's present weights|, nats per token.

    The policy is folded into the base, as the sampler has it: in bfloat16 folding rounds, too.
    """
    batch = pad(rows, backbone.device)
    with backbone.merged("policy"):
        own = backbone.logprobs("policy", batch, temperature)[batch.response_mask].cpu()  # (N,)
    theirs = torch.tensor([value for g in drawn for value in g.logprobs])  # (N,)
    return float((own - theirs).abs().mean())


def even_shares(prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """Places of the prompts in at most `count` shares of nearly equal size; none is empty.

    Prompts of similar length come together, and equal ones, whose keys and values are computed
    once.
    """
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), list(prompts[i])))
    count = min(count, len(order))
    ends = [len(order) * n // count for n in range(count + 1)] if count else []
    return [order[start:end] for start, end in pairwise(ends)]


def _named(share: Sequence[int], prompts: Sequence[Sequence[int]]) -> str:
    longest = max(len(prompts[i]) for i in share)
    return f"the same {len(share)} responses, to prompts of at most {longest} tokens"
