"""A worker as an actor on a Ray cluster: it may draw on another host, whose GPU Ray chooses.

It dies with the trainer: Ray ends the actors of a driver that is gone, also after kill -9. Files of
weights are read where it runs, so the run's folder has to be one that all hosts share.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from typing import Any

from rlaif.distributed.actors import ActorHandle, LostActorError, RayActors
from rlaif.generation.base import SamplingError
from rlaif.generation.remote.process import is_of_a_launch
from rlaif.generation.remote.protocol import DeadWorkerError, WorkerSpec, answered


@dataclass
class RayWorker:
    """A `Worker` in an actor."""

    actors: RayActors
    spec: WorkerSpec
    _actor: ActorHandle | None = field(default=None, repr=False)

    def start(self) -> bool:
        """Start an actor, and wait until its model is loaded."""
        self.stop()
        self._actor = self.actors.place(HolderActor, asdict(self.spec))
        return bool(self.ask({"do": "open"})["exact"])

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one request, and wait for its answer."""
        if self._actor is None:
            raise DeadWorkerError("it is stopped")
        try:
            answer: dict[str, Any] = self._actor.call("answer", request)
        except LostActorError as lost:
            raise DeadWorkerError(str(lost)) from lost
        if "error" in answer:
            raise SamplingError(f"{answer['error']} (on {answer['host']}; Ray's logs have more)")
        return answer

    def stop(self) -> None:
        """Kill the actor."""
        actor, self._actor = self._actor, None
        if actor is not None:
            actor.end()


class HolderActor:
    """A `Holder` in the actor's process; opened by its first request."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec
        self._holder: Any = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request, or {"error", "host"}."""
        answer = answered(lambda: self._answer(request))
        return answer | {"host": os.uname().nodename} if "error" in answer else answer

    def pid(self) -> int:
        """Its process id."""
        return os.getpid()

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._holder is None:
            # A cluster that a launched trainer started on this host handed its variables on.
            for name in filter(is_of_a_launch, list(os.environ)):
                del os.environ[name]
            from rlaif.generation.remote.holder import Holder  # torch, once the variables are right

            self._holder = Holder(WorkerSpec(**self._spec))
        if request["do"] == "open":
            return {"exact": self._holder.exact}
        found: dict[str, Any] = self._holder.answer(request)
        return found
