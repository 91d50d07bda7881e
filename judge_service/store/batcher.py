"""Dynamic batching in a thread: items that wait at the same time are answered together.

    first item arrives ─► take all that have arrived ─► answer_all(items) ─► one answer per item

The next batch fills while one is being answered, so load makes batches larger and transactions
fewer. There is no batching delay: a single item never waits. Between event loop and thread go
messages of many items: those of one turn of the loop together, and the answers of a batch.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """Batches items for `answer_all`, which runs in the batcher's own thread.

    answer_all: gets at most `max_batch` items in order of arrival and returns one answer for each;
    an exception reaches every caller of the batch. An item whose caller was cancelled still runs.
    """

    def __init__(
        self, answer_all: Callable[[Sequence[Item]], Sequence[Answer]], *, max_batch: int
    ) -> None:
        self._answer_all = answer_all
        self._max_batch = max_batch
        self._sending = threading.Lock()
        self._unsent: list[tuple[Item, asyncio.Future[Answer]]] = []  # of this turn of the loop
        self._queue: SimpleQueue[list[tuple[Item, asyncio.Future[Answer]]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    async def ask(self, item: Item) -> Answer:
        """The answer to an item, with its batch."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._unsent.append((item, future))
        if len(self._unsent) == 1:
            loop.call_soon(self._send)
        return await future

    def close(self) -> None:
        """Answer everything asked before, then stop. Blocks; closing twice is harmless."""
        self._send()
        self._queue.put(None)
        self._thread.join()

    def _send(self) -> None:
        with self._sending:
            unsent, self._unsent = self._unsent, []
            if unsent:
                self._queue.put(unsent)

    def _run(self) -> None:
        last = False
        while not last:
            arrived = [self._queue.get()]
            while not self._queue.empty():
                arrived.append(self._queue.get())
            last = None in arrived
            waiting = [entry for entries in arrived if entries is not None for entry in entries]
            for start in range(0, len(waiting), self._max_batch):
                self._answer(waiting[start : start + self._max_batch])

    def _answer(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        failure: Exception | None = None
        answers: Sequence[Answer] = ()
        try:
            answers = self._answer_all([item for item, _ in batch])
        except Exception as error:
            failure = error

        # Almost always one loop; a store may have been used by several, one after the other.
        for loop in {future.get_loop() for _, future in batch}:

            def resolve(loop: asyncio.AbstractEventLoop = loop) -> None:
                for n, (_, future) in enumerate(batch):
                    if future.get_loop() is not loop or future.done():  # cancelled
                        continue
                    if failure is not None:
                        future.set_exception(failure)
                    else:
                        future.set_result(answers[n])

            with suppress(RuntimeError):  # the loop is closed, and with it whoever asked
                loop.call_soon_threadsafe(resolve)
