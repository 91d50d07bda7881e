"""Engine of fixed speed without a model, FOR TESTS AND LOAD BENCHMARKS OF THE SERVICE ONLY.

It processes `slots` requests at a time, each for `seconds`; the others wait, lower priority numbers
first, as in vLLM. Its answers are a hash of the prompt's tokens, the same in every process. It
stores nothing, so growing memory is the service's.

It never stands in for a judge.
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

OnRead = Callable[[Sequence[int], Sequence[int]], None]
"""Called at the start of every read with the prompt's ids and the labels'."""

_CONTROL = ("<|im_start|>", "<|im_end|>")
_PIECE = re.compile(r" ?\w+|\W")
_PIECE_OR_CONTROL = re.compile("|".join(map(re.escape, _CONTROL)) + r"| ?\w+|\W")


@lru_cache(maxsize=4096)
def _id(piece: str) -> int:
    return zlib.crc32(piece.encode()) + len(_CONTROL)


class SteadyTokenizer:
    """Words as tokens, their checksums as ids; stateless, so ids cannot be decoded.

    Words of up to four bytes have unique ids; longer ones very rarely collide.
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
    """Answers `slots / seconds` requests per second; without limit if `seconds` is 0.

    `running` and `waiting` count the current requests. loading: seconds that `start` takes.
    on_read: called at the start of every read.
    """

    def __init__(
        self,
        slots: int = 8,
        seconds: float = 0.0,
        *,
        loading: float = 0.0,
        on_read: OnRead | None = None,
    ) -> None:
        self.seconds = seconds
        self.running = 0
        self.most_waiting = 0
        self.begun = 0
        self._slots = slots
        self._loading = loading
        self._on_read = on_read
        self._alive = False
        self._tokenizer = SteadyTokenizer()
        self._queue: list[tuple[int, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()

    @property
    def waiting(self) -> int:
        return sum(not slot.done() for *_, slot in self._queue)

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
        if self._on_read is not None:
            self._on_read(prompt_ids, label_ids)
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
        slot = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, (priority, next(self._arrivals), slot))
        self.most_waiting = max(self.most_waiting, len(self._queue))
        try:
            await slot
        except asyncio.CancelledError:
            if slot.done() and not slot.cancelled():
                self._leave()  # the slot was assigned just as the request was cancelled
            raise

    def _leave(self) -> None:
        """Give the slot to the next in the queue, or free it."""
        while self._queue:
            *_, slot = heapq.heappop(self._queue)
            if not slot.done():
                slot.set_result(None)
                return
        self.running -= 1


def _answer(prompt_ids: Sequence[int], labels: int) -> tuple[float, ...]:
    """Log-probabilities that depend on the prompt: total 0.99; of two labels each above 1 %."""
    digest = zlib.crc32(b" ".join(b"%d" % i for i in prompt_ids))
    weights = [1 + (digest >> (3 * label)) % 64 for label in range(labels)]
    return tuple(math.log(0.99 * weight / sum(weights)) for weight in weights)
