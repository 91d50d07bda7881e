"""Rollout workers of this process: the real holder and the real messages, without a process.

They die when a test says so: FAKE deaths, for the pool and the trainers. Real processes are in
tests/integration/rlaif/test_rollout_workers.py.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rlaif.generation.remote.protocol import DeadWorkerError, Worker, WorkerSpec

Lives = Callable[[int, dict[str, Any]], bool]
"""(place of a worker, request) → whether it lives to answer."""

_ONE_LOAD = threading.Lock()  # transformers loads one model at a time in a process


class HereWorker:
    """A worker whose holder is in this process. lives: asked before every answer."""

    def __init__(self, place: int, spec: WorkerSpec, lives: Lives) -> None:
        self._place, self._spec, self._lives = place, spec, lives
        self._holder: Any = None
        self.starts = 0
        self.asked: list[dict[str, Any]] = []

    def start(self) -> bool:
        from rlaif.generation.remote.holder import Holder

        self.starts += 1
        with _ONE_LOAD:
            self._holder = Holder(WorkerSpec(**json.loads(json.dumps(asdict(self._spec)))))
        return bool(self._holder.exact)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(request)
        if self._holder is None or not self._lives(self._place, request):
            self._holder = None
            raise DeadWorkerError("ended by the test")
        answer = self._holder.answer(json.loads(json.dumps(request)))
        return dict(json.loads(json.dumps(answer)))

    def stop(self) -> None:
        self._holder = None


def launcher(made: list[HereWorker], lives: Lives = lambda *_: True) -> Any:
    """A `Launcher` of workers in this process, which are added to `made`."""

    def launch(place: int, spec: WorkerSpec) -> Worker:
        made.append(HereWorker(place, spec, lives))
        return made[-1]

    return launch


class ScriptedWorker:
    """A FAKE worker without a model: answers what `script` returns, or raises it."""

    def __init__(self, script: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._script = script
        self.starts = 0
        self.asked: list[dict[str, Any]] = []
        self.stopped = False

    def start(self) -> bool:
        self.starts += 1
        return True

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(request)
        return self._script(request)

    def stop(self) -> None:
        self.stopped = True
