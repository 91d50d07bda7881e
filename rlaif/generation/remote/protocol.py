"""How the trainer speaks to a worker: start it, ask it, stop it. Imports no torch.

A worker answers one request at a time. A request and its answer are JSON objects, so that a pipe,
a socket or a Ray actor can carry them alike.

    {"do": "draw", "version": v, "weights": file, …}    → {"version": v, "drawn": [[ids, …], …]}
    {"do": METHOD, …}                                   → {}     a step of a weight transfer

The first names the weights that are to draw. A worker that holds others loads them before, so a
worker that was started again needs no separate step to catch up.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from constitution.errors import UserError
from rlaif.generation.base import Generated, SamplingError

Transport = Literal["adapter", "files", "nccl"]
"""How the trainer's weights reach the workers."""


class DeadWorkerError(Exception):
    """A worker that is gone without having answered; the message says how it ended."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """All that a worker needs to open its sampler, as JSON values."""

    model: str  # folder or hub id of the base
    engine: str  # a name in SAMPLERS
    dtype: Literal["float32", "bfloat16"]  # of matrix products
    lora: dict[str, Any] | None  # fields of LoraConfig; None: the base itself trains
    max_tokens: int  # prompt and response together
    kv_cache_gib: float
    transport: Transport
    ends: list[int]  # ids of the tokens that end a response
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)


class Worker(Protocol):
    """A sampler in another process, or on another machine, seen from the trainer."""

    def start(self) -> bool:
        """Start it, or start it again; whether its log-probs are the trainer's own (`exact`).

        Raises SamplingError for what would fail again (a missing model), and DeadWorkerError.
        """

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request; blocks. Raises as `start`."""

    def stop(self) -> None:
        """End it at once; may be called again, and while another thread waits in `ask`."""


Launcher = Callable[[int, WorkerSpec], Worker]
"""(place among the workers, what it is to hold) → a worker that is not started yet."""


def answered(compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a worker answers: what it computes, or {"error": the reason}; a traceback in its log."""
    try:
        return compute()
    except Exception as error:
        traceback.print_exc()
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        return {"error": f"{kind}{error}"}


def draw_request(
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    settings: tuple[int, float, float],
    version: int,
    weights: str,
) -> dict[str, Any]:
    """A request to draw one response to each prompt. settings: max_new_tokens, temperature, top_p.

    weights: the file that holds `version`; "" for a worker that was sent them already.
    """
    max_new_tokens, temperature, top_p = settings
    return {
        "do": "draw", "prompts": [list(prompt) for prompt in prompts], "seeds": list(seeds),
        "max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p,
        "version": version, "weights": weights,
    }  # fmt: skip


def drawn_answer(drawn: Sequence[Generated], version: int) -> dict[str, Any]:
    """The answer to a request to draw; floats pass through JSON unchanged."""
    return {"version": version, "drawn": [[g.ids, g.logprobs, g.complete] for g in drawn]}


def read_drawn(answer: dict[str, Any], count: int, version: int) -> list[Generated]:
    """The `count` responses of an answer, each with the version that drew it.

    Raises SamplingError for responses drawn with other weights than `version`.
    """
    drew, drawn = answer["version"], answer["drawn"]
    if drew != version:
        raise SamplingError(
            f"a rollout worker answered with version {drew} of the weights, where {version} was "
            "asked for; its responses are of another policy: stop the run, and start it again"
        )
    if len(drawn) != count:
        raise SamplingError(
            f"a rollout worker answered {len(drawn)} of {count} requests; stop the run, and start "
            "it again"
        )
    return [Generated(ids, logprobs, complete, drew) for ids, logprobs, complete in drawn]
