"""A thread that answers together what waits at the same time.

    first item arrives ─► take what else has arrived ─► answer_all(items) ─► each its own answer

While one batch is answered the next one gathers: the busier, the larger the batches, and the fewer
the transactions. Nobody sets a delay, so a lone item never waits.
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
    """answer_all is called in the thread, with at most `most` items in the order of their arrival,
    and returns an answer for each; what it raises reaches all who wait for the batch.

    An item is carried out though its caller went away.
    """

    def __init__(
        self, answer_all: Callable[[Sequence[Item]], Sequence[Answer]], *, most: int
    ) -> None:
        self._answer_all = answer_all
        self._most = most
        self._queue: SimpleQueue[tuple[Item, Future[Answer]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    def submit(self, item: Item) -> Future[Answer]:
        future: Future[Answer] = Future()
        self._queue.put((item, future))
        return future

    def close(self) -> None:
        """Answer what was submitted before, then end. Blocks; closing twice is harmless."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        last = False
        while not last:
            waiting = [self._queue.get()]
            while len(waiting) < self._most and not self._queue.empty():
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
