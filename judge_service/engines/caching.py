"""Read-through cache around an engine; concurrent identical requests are computed once.

    read: in flight? -> wait with the others; else in the store? -> answer; else compute, commit,
    answer

Look-up, computation and commit are one flight, registered under its key from beginning to end, so
that there is no gap in which the same read could be computed again (single flight).

Accounting: the first caller that takes a flight's computed answer gets stored=False and the
engine's usage; all others get stored=True, since nothing was computed for them. So the reads that
callers count as computed are those of the engine, unless every caller was cancelled. A caller that
joins a flight waits at that flight's priority, also an interactive one that joins a bulk read: it
is queued already.

Not stored: a read that is not finite, and writing that was cut by anything but its own limit, such
as a smaller context.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

from judge_service.engine import ChatTokenizer, Engine, EngineError, LabelLogprobs, Written
from judge_service.observability.metrics import NO_METRICS, NoMetrics
from judge_service.observability.tracing import span
from judge_service.security.caller import current_caller
from judge_service.store.base import Store, StoreError, StoreUnavailable, read_key, write_key
from judge_service.types import ModelIdentity

Answer = TypeVar("Answer", LabelLogprobs, Written)
_Find = Callable[[bytes], Awaitable[Answer | None]]
_Compute = Callable[[], Awaitable[Answer]]
_Keep = Callable[[bytes, Answer], Awaitable[Answer]]
T = TypeVar("T")

_log = logging.getLogger("judge_service")


class CachingEngine:
    """An `Engine` around another one, with a store that it owns and closes.

    Cancelling a caller leaves the computation to the others that wait for it; with the last one
    the engine's request is aborted. A failure reaches all waiters, and nothing is stored. So does
    the failure of the store, as StoreUnavailable: every answer given out can be looked up later.
    Cause and remedy are in the log, for the operator. metrics: counts reads and engine requests.
    by_caller: each caller is answered from its own reads alone.
    """

    def __init__(
        self,
        engine: Engine,
        store: Store,
        metrics: NoMetrics = NO_METRICS,
        *,
        by_caller: bool = False,
    ) -> None:
        self._by_caller = by_caller
        self._engine = engine
        self._store = store
        self._metrics = metrics
        self._lookups = _StoreMonitor("lookups")
        self._commits = _StoreMonitor("commits")
        self._flights: dict[bytes, _InFlight[Any]] = {}

    @property
    def identity(self) -> ModelIdentity:
        """That of the engine inside: it is part of every key."""
        return self._engine.identity

    @property
    def tokenizer(self) -> ChatTokenizer:
        """That of the engine inside."""
        return self._engine.tokenizer

    @property
    def max_context_tokens(self) -> int:
        """That of the engine inside."""
        return self._engine.max_context_tokens

    @property
    def alive(self) -> bool:
        """Whether the engine inside is alive; a store that fails does not count."""
        return self._engine.alive

    @property
    def recovers(self) -> bool:
        """As the engine inside."""
        return self._engine.recovers

    @property
    def alarms(self) -> tuple[str, ...]:
        """`store-damaged` once a damaged row or file was met; its reads are computed again."""
        return ("store-damaged",) if self._store.damaged else ()

    async def start(self) -> None:
        """Start the engine inside, then report the store's size and damage to the metrics."""
        await self._engine.start()
        self._metrics.watch_store(self._store.stats, lambda: self._store.damaged)

    async def read(
        self,
        prompt_ids: Sequence[int],
        label_ids: Sequence[int],
        *,
        priority: int = 0,
        use_store: bool = True,
    ) -> LabelLogprobs:
        """As `Engine.read`. use_store=False computes it for this caller alone, not stored."""

        # Metrics and spans cover only what the engine computes.
        async def compute() -> LabelLogprobs:
            with (
                self._metrics.in_engine("read"),
                span("engine.read", prompt_tokens=len(prompt_ids), priority=priority) as step,
            ):
                answer = await self._engine.read(prompt_ids, label_ids, priority=priority)
                step.set(cached_tokens=answer.cached_tokens)
                return answer

        # A damaged row may have lost labels without a trace.
        async def find(key: bytes) -> LabelLogprobs | None:
            found = await self._store.find_read(key)
            return found if found and len(found.logprobs) == len(label_ids) else None

        if use_store:
            key = read_key(self.identity, prompt_ids, label_ids)
            answer = await self._share(key, find, compute, self._keep_read)
        else:
            answer = await compute()
        self._metrics.read_done(answer)
        return answer

    async def write(
        self,
        prompt_ids: Sequence[int],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        priority: int = 0,
        use_store: bool = True,
    ) -> Written:
        """As `Engine.write`; seeded writing is stored like greedy writing."""

        # As in `read`: metrics and spans cover only what the engine computes.
        async def compute() -> Written:
            with (
                self._metrics.in_engine("write"),
                span("engine.write", prompt_tokens=len(prompt_ids), priority=priority) as step,
            ):
                written = await self._engine.write(
                    prompt_ids,
                    max_tokens=max_tokens,
                    temperature=temperature,
                    seed=seed,
                    priority=priority,
                )
                step.set(output_tokens=len(written.token_ids))
                return written

        # A text cut by a smaller context would be wrong for a later server with a larger one.
        async def keep(key: bytes, written: Written) -> Written:
            at_its_bound = len(written.token_ids) >= max_tokens
            if written.complete or at_its_bound:
                return await self._commits.watch(self._store.put_writing(key, written))
            return written

        if not use_store:
            return await compute()
        key = write_key(
            self.identity, prompt_ids, max_tokens=max_tokens, temperature=temperature, seed=seed
        )
        return await self._share(key, self._store.find_writing, compute, keep)

    async def close(self) -> None:
        """Close the engine, let computed answers be committed, close the store."""
        await self._engine.close()
        for flight in list(self._flights.values()):
            flight.abort()
        await self._store.close()

    async def _keep_read(self, key: bytes, answer: LabelLogprobs) -> LabelLogprobs:
        if all(math.isfinite(logprob) for logprob in answer.logprobs):
            kept = await self._commits.watch(self._store.put_read(key, answer))
            return kept if len(kept.logprobs) == len(answer.logprobs) else answer
        return answer

    async def _share(
        self, key: bytes, find: _Find[Answer], compute: _Compute[Answer], keep: _Keep[Answer]
    ) -> Answer:
        """The answer for this key, from the flight in progress or from a new one."""

        if self._by_caller:
            key = hashlib.sha256(key + current_caller().name.encode()).digest()

        async def look_up(key: bytes) -> Answer | None:
            return await self._lookups.watch(find(key))

        flight: _InFlight[Answer] | None = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _InFlight(key, look_up, compute, keep, self._flights)
        return await flight.wait()


class _StoreMonitor:
    """Logs when one kind of work on the store begins to fail, and when it works again.

    Lookups and commits have one each: a full disk or a standby fails commits alone.
    """

    def __init__(self, work: str) -> None:
        self._work = work
        self._failing = False

    async def watch(self, work: Awaitable[T]) -> T:
        """The result of the work. Raises StoreUnavailable, which does not name the store."""
        try:
            result = await work
        except StoreError as error:
            if not self._failing:
                _log.warning("%s in the store fail; reads are refused: %s", self._work, error)
            self._failing = True
            raise StoreUnavailable(
                "the store of reads cannot be used; the server's log has the cause"
            ) from error
        if self._failing:
            _log.warning("%s in the store work again", self._work)
        self._failing = False
        return result


class _InFlight(Generic[Answer]):
    """One look-up, computation and commit, with its number of waiters.

    It is in `flights` under its key until it ends or is aborted.
    """

    def __init__(
        self,
        key: bytes,
        find: _Find[Answer],
        compute: _Compute[Answer],
        keep: _Keep[Answer],
        flights: dict[bytes, _InFlight[Any]],
    ) -> None:
        self._key = key
        self._flights = flights
        self._waiters = 0
        self._computed = False
        self._paid = False
        self._task: asyncio.Task[Answer] = asyncio.create_task(self._run(find, compute, keep))

    async def wait(self) -> Answer:
        """The answer. Cancelling the last waiter aborts the flight."""
        self._waiters += 1
        try:
            await asyncio.wait((self._task,))
        finally:
            self._waiters -= 1
            if not self._waiters:
                self.abort()
        if self._task.cancelled():
            raise EngineError("the engine was closed before it answered; start the server again")
        answer = self._task.result()
        if self._paid:
            return replace(answer, cached_tokens=0, stored=True)
        self._paid = True
        return answer

    def abort(self) -> None:
        """Cancel the computation, unless it is done: then the commit goes on and can be joined."""
        if not self._computed:
            self._task.cancel()
            self._leave()

    async def _run(
        self, find: _Find[Answer], compute: _Compute[Answer], keep: _Keep[Answer]
    ) -> Answer:
        try:
            stored = await find(self._key)
            if stored is not None:
                return stored
            answer = await compute()
            self._computed = True
            return await keep(self._key, answer)
        finally:
            self._leave()

    def _leave(self) -> None:
        if self._flights.get(self._key) is self:
            del self._flights[self._key]
