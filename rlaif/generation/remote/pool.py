"""Requests spread over workers that may die.

A thread per worker takes one part of the work after another. A worker that died is started again,
and its part goes to whoever is free first. Both are counted:

    a part that ended TRIES workers    an error that names it: it would end every other one
    a worker that died TRIES times     is given up until the next call; when all are, an error
    in a row

An error that a worker reports itself is raised here and not tried again.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from rlaif.generation.base import SamplingError
from rlaif.generation.remote.protocol import DeadWorkerError, Worker

TRIES = 3  # deaths of one part's workers, or of one worker in a row


@dataclass
class _Part:
    """A request, and what became of it."""

    request: dict[str, Any]
    name: str  # for errors
    deaths: int = 0
    answered: WorkerAnswer | None = None


@dataclass(frozen=True, slots=True)
class WorkerAnswer:
    """The answer to a request, and who gave it."""

    answer: dict[str, Any]
    worker: int  # its place
    life: int  # how many times it had been started before


@dataclass
class WorkerPool:
    """Workers that are asked together. Use `open` before, and `close` at the end."""

    workers: Sequence[Worker]
    heals: bool = True  # whether a worker is started again at once; else by `revive`
    exact: bool = False  # whether all have log-probs that are the trainer's own
    restarts: int = 0  # workers started again so far
    lives: list[int] = field(default_factory=list)  # of each worker, how often started again
    after: Callable[[], object] = lambda: None  # called when all are stopped
    _closed: bool = False

    def open(self) -> None:
        """Start all workers, at the same time. Raises SamplingError, with none left running."""
        found: list[bool] = []
        self.lives = [0] * len(self.workers)
        try:
            self._each(lambda place: found.append(self._started(place)))
        except BaseException:
            self.close()
            raise
        self.exact = all(found)

    def close(self) -> None:
        """Stop all workers; may be called again."""
        self._closed = True
        for worker in self.workers:
            worker.stop()
        self.after()

    def tell(self, requests: Sequence[dict[str, Any]]) -> None:
        """Ask each worker its own request, at the same time.

        Raises SamplingError, also where a worker died.
        """

        def ask(place: int) -> None:
            try:
                self.workers[place].ask(requests[place])
            except DeadWorkerError as died:
                raise SamplingError(
                    f"rollout worker {place} died in {requests[place]['do']} ({died}); run again "
                    "to go on from the last checkpoint"
                ) from died

        self._each(ask)

    def tell_some(self, places: Sequence[int], request: dict[str, Any]) -> None:
        """Ask some workers, one after the other; those that died meanwhile are left out."""
        for place in places:
            with suppress(DeadWorkerError):
                self.workers[place].ask(request)

    def map(self, requests: Sequence[dict[str, Any]], names: Sequence[str]) -> list[WorkerAnswer]:
        """The answers to the requests, in order, whoever gave them.

        names: of the requests, for errors. Raises SamplingError.
        """
        work = _Work([_Part(request, name) for request, name in zip(requests, names, strict=True)])
        self._each(lambda place: self._serve(place, work))
        return work.all_answered()

    def everyone(self, request: dict[str, Any], name: str) -> list[WorkerAnswer]:
        """Every worker's own answer to one request; one that dies is started again and asked again.

        Raises SamplingError.
        """
        work = [_Work([_Part(request, name)]) for _ in self.workers]
        self._each(lambda place: self._serve(place, work[place]))
        return [answered for own in work for answered in own.all_answered()]

    def revive(self) -> list[int]:
        """Start the workers again that do not answer; returns their places. Raises SamplingError
        for one that died TRIES times in a row."""
        dead: list[int] = []

        def look(place: int) -> None:
            try:
                self.workers[place].ask({"do": "look"})
            except DeadWorkerError as died:
                if not self._again(place, died, [TRIES]):
                    raise SamplingError(
                        f"rollout worker {place} died {TRIES} times in a row: {died}"
                    ) from died
                dead.append(place)

        self._each(look)
        return sorted(dead)

    def _serve(self, place: int, work: _Work) -> None:
        """Answer parts with one worker until none is left."""
        left = [TRIES]
        try:
            while (part := work.take()) is not None:
                try:
                    answer = self.workers[place].ask(part.request)
                except DeadWorkerError as died:
                    work.give_back(part, died)
                    if not (self.heals and self._again(place, died, left)):
                        return
                else:
                    left[0] = TRIES
                    work.finish(part, WorkerAnswer(answer, place, self.lives[place]))
        except BaseException:
            work.end()
            raise

    def _again(self, place: int, died: DeadWorkerError, left: list[int]) -> bool:
        """Start a worker that died; whether it runs. left: [tries that are left to it]."""
        while left[0] and not self._closed:
            left[0] -= 1
            self.restarts += 1
            self.lives[place] += 1
            print(
                f"rollout worker {place}: {died}; started again ({self.restarts} in this run)",
                file=sys.stderr,
            )
            try:
                self.workers[place].start()
            except DeadWorkerError as again:
                died = again
            else:
                return True
        return False

    def _started(self, place: int) -> bool:
        try:
            return self.workers[place].start()
        except DeadWorkerError as died:
            raise SamplingError(f"rollout worker {place} could not start: {died}") from died
        except SamplingError as error:
            raise SamplingError(f"rollout worker {place} could not start: {error}") from error

    def _each(self, do: Callable[[int], object]) -> None:
        """`do` for the place of every worker, in a thread each; raises the first error of any."""
        errors: list[BaseException] = []

        def guarded(place: int) -> None:
            try:
                do(place)
            except BaseException as error:  # raised below, in the caller's thread
                errors.append(error)

        threads = [
            threading.Thread(target=guarded, args=(place,), daemon=True, name=f"rollout-{place}")
            for place in range(len(self.workers))
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:  # Ctrl+C: threads that wait for an answer end with their workers
            self.close()
            raise
        if errors:
            raise errors[0]


class _Work:
    """The parts that are left, shared by the workers' threads."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        self.parts = parts
        self._left = deque(parts)
        self._open = len(parts)  # without an answer
        self._changed = threading.Condition()

    def take(self) -> _Part | None:
        """The next part, once there is one; None when all are answered or the work has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._left or not self._open)
            return self._left.popleft() if self._open else None

    def give_back(self, part: _Part, died: DeadWorkerError) -> None:
        """A part whose worker died. Raises SamplingError for one that ended too many."""
        with self._changed:
            part.deaths += 1
            if part.deaths < TRIES:
                self._left.append(part)
                self._changed.notify_all()
                return
        raise SamplingError(
            f"{part.name} ended {part.deaths} rollout workers, one after the other ({died}); if "
            "memory ran out, lower kv_cache_gib or the number of responses of an iteration, else "
            "remove these prompts"
        )

    def finish(self, part: _Part, answered: WorkerAnswer) -> None:
        """A part that is answered."""
        with self._changed:
            part.answered = answered
            self._open -= 1
            self._changed.notify_all()

    def end(self) -> None:
        """Hand out nothing more."""
        with self._changed:
            self._open = 0
            self._changed.notify_all()

    def all_answered(self) -> list[WorkerAnswer]:
        """The answers, in order. Raises SamplingError where a part has none: all workers were given
        up."""
        missing = [part.name for part in self.parts if part.answered is None]
        if missing:
            raise SamplingError(
                "no rollout worker is left: each died, and its log says why; run again to go on "
                "from the last checkpoint. "
                f"Not answered: {'; '.join(missing)}"
            )
        return [part.answered for part in self.parts if part.answered is not None]
