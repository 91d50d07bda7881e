"""An engine of fixed speed without a model, FOR TESTS AND LOAD BENCHMARKS OF THE SERVICE ONLY.

It works on `slots` requests at a time, each for `seconds`; the others wait, lower priority numbers
first, as in vLLM. What it answers is a function of the prompt's tokens, the same in every process.
It keeps nothing, so memory that grows is the service's.

It never stands in for a judge: its numbers are those of a hash.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import re
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache

from judge_service.engine import LabelLogprobs, Written
from judge_service.types import ModelIdentity

Seen = Callable[[Sequence[int], Sequence[int]], None]
"""Told of every read as it begins: the prompt's ids and the labels'."""

_CONTROL = ("<|im_start|>", "<|im_end|>")
_PIECE = re.compile(r" ?\w+|\W")
_PIECE_OR_CONTROL = re.compile("|".join(map(re.escape, _CONTROL)) + r"| ?\w+|\W")


@lru_cache(maxsize=4096)
def _id(piece: str) -> int:
    return zlib.crc32(piece.encode()) + len(_CONTROL)


class SteadyTokenizer:
    """Words as tokens, their checksums as ids: nothing is remembered, so nothing is spelled back.

    Words of up to four bytes have ids of their own; longer ones may share one, very seldom.
    """

    def encode_template(self, text: str) -> list[int]:
        pieces = _PIECE_OR_CONTROL.findall(text)
        return [_CONTROL.index(p) if p in _CONTROL else _id(p) for p in pieces]

    def encode_data(self, text: str) -> list[int]:
        return [_id(piece) for piece in _PIECE.findall(text)]

    def render_chat(self, messages: Sequence[tuple[str, str]]) -> str:
        turns = (f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in messages)
        return "".join(turns) + "<|im_start|>assistant\n"

    def spell(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))


class SteadyEngine:
    """`slots / seconds` requests a second; without bound where `seconds` is 0.

    `running` and `waiting` count what it has in hand now. loading: seconds that `start` takes.
    """

    def __init__(
        self,
        slots: int = 8,
        seconds: float = 0.0,
        *,
        loading: float = 0.0,
        seen: Seen | None = None,
    ) -> None:
        self.seconds = seconds
        self.running = 0
        self.most_waiting = 0
        self.begun = 0
        self._slots = slots
        self._loading = loading
        self._seen = seen
        self._alive = False
        self._tokenizer = SteadyTokenizer()
        self._queue: list[tuple[int, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()

    @property
    def waiting(self) -> int:
        return sum(not turn.done() for *_, turn in self._queue)

    @property
    def identity(self) -> ModelIdentity:
        return ModelIdentity("steady", "0" * 64, "1" * 64, "float32", "no model: for tests")

    @property
    def tokenizer(self) -> SteadyTokenizer:
        return self._tokenizer

    @property
    def max_context_tokens(self) -> int:
        return 4096

    @property
    def alive(self) -> bool:
        return self._alive

    @property
    def recovers(self) -> bool:
        return False

    async def start(self) -> None:
        await asyncio.sleep(self._loading)
        self._alive = True

    async def read(
        self,
        prompt_ids: Sequence[int],
        label_ids: Sequence[int],
        *,
        priority: int = 0,
        use_store: bool = True,
    ) -> LabelLogprobs:
        if self._seen is not None:
            self._seen(prompt_ids, label_ids)
        await self._work(priority)
        return LabelLogprobs(_answer(prompt_ids, len(label_ids)), len(prompt_ids), 0)

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
        await self._work(priority)
        return Written("an answer", (1, 2)[:max_tokens], max_tokens >= 2, len(prompt_ids), 0)

    async def close(self) -> None:
        self._alive = False

    async def _work(self, priority: int) -> None:
        await self._enter(priority)
        try:
            self.begun += 1
            await asyncio.sleep(self.seconds)
        finally:
            self._leave()

    async def _enter(self, priority: int) -> None:
        if self.running < self._slots:
            self.running += 1
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, (priority, next(self._arrivals), turn))
        self.most_waiting = max(self.most_waiting, len(self._queue))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()  # the turn came in the very moment in which nobody wanted it any more
            raise

    def _leave(self) -> None:
        """Hand the place to the next in the queue, or leave it free."""
        while self._queue:
            *_, turn = heapq.heappop(self._queue)
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1


def _answer(prompt_ids: Sequence[int], labels: int) -> tuple[float, ...]:
    """Log-probabilities that the prompt decides, 0.99 in all, none below 1 %."""
    digest = zlib.crc32(b" ".join(b"%d" % i for i in prompt_ids))
    weights = [1 + (digest >> (3 * label)) % 64 for label in range(labels)]
    return tuple(math.log(0.99 * weight / sum(weights)) for weight in weights)
