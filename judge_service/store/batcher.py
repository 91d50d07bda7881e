"""Dynamic batching in a thread: items that wait at the same time are answered together.

    first item arrives ─► take all that have arrived ─► answer_all(items) ─► one answer per item

The next batch fills while one is being answered, so load makes batches larger and transactions
fewer. There is no batching delay: a single item never waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
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
        self._queue: SimpleQueue[tuple[Item, Future[Answer]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    def submit(self, item: Item) -> Future[Answer]:
        """Queue an item; the future resolves with its batch."""
        future: Future[Answer] = Future()
        self._queue.put((item, future))
        return future

    def close(self) -> None:
        """Answer everything submitted before, then stop. Blocks; closing twice is harmless."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        last = False
        while not last:
            waiting = [self._queue.get()]
            while len(waiting) < self._max_batch and not self._queue.empty():
                waiting.append(self._queue.get())
            last = None in waiting
            if batch := [entry for entry in waiting if entry is not None]:
                self._answer(batch)

    def _answer(self, batch: list[tuple[Item, Future[Answer]]]) -> None:
        try:
            answers = self._answer_all([item for item, _ in batch])
        except Exception as error:
            for _, future in batch:
                if future.set_running_or_notify_cancel():
                    future.set_exception(error)
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.set_running_or_notify_cancel():
                future.set_result(answer)
