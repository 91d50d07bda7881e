"""Work on a Ray cluster: independent tasks, given one by one to actors that may die.

The only module that imports Ray (extra `ray`). An actor opens the work once, with its share of
GPUs, and does one task at a time. Whoever dies, an actor, its node or an engine within it, takes
its task along to the next one; a task that has killed several is given up. When the driver dies,
its actors end with it. Nothing here is kept: a task is finished when its result lies on the disk
that all nodes share, and the caller asks only for those that are not.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from constitution.errors import UserError, install_hint

Do: TypeAlias = Callable[[str], str]
"""Does one task by its name; returns a word for what became of it. Raises UserError."""

Open: TypeAlias = Callable[[], AbstractContextManager[Do]]
"""Opens the work where it is done; can be pickled."""

Results: TypeAlias = Generator[tuple[str, str | UserError], None, None]

RETRIED = "retried"
"""What a task's result is when its actor died at it and another one does it; its last follows."""

MOST_TRIES = 3
_LOCAL_STARTS = 3  # Ray gives a node 30 s to start, which a busy host exceeds
PATIENCE_S = 60.0  # between two lines that say what is waited for


class FleetError(UserError):
    """No cluster, or one that cannot do the work."""


@dataclass(frozen=True, slots=True)
class RayFleet:
    """Where to do the work: `address` of a cluster ("auto": the one this host belongs to, "local":
    one on this host alone), GPUs of an actor, and how many actors (None: all that fit)."""

    address: str = "auto"
    gpus: float = 0
    workers: int | None = None

    def results(self, names: Iterable[str], opens: Open) -> Results:
        """(task, what became of it), as they are finished. Raises FleetError, and the UserError of
        work that cannot be opened."""
        with connected(self.address) as ray:
            yield from _Crew(ray, self, opens).results(deque(names))

    def require(self) -> None:
        """Raises FleetError where Ray is not installed, or the cluster is not there or too small;
        one on this host alone is not started for that."""
        if self.address == "local":
            require_ray()
            return
        with connected(self.address) as ray:
            _size(ray, self)


def require_ray() -> None:
    """Raises FleetError where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise FleetError(f"a Ray cluster needs Ray, which is not installed; {install_hint('ray')}")


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster for the block. Raises FleetError."""
    require_ray()
    import ray

    if address == "local":  # its server is given 30 s to start, which a busy host exceeds
        os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "120")

    here = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    ours = {name: value for name, value in os.environ.items() if name.startswith("RLAIF_")}
    for left in reversed(range(_LOCAL_STARTS if address == "local" else 1)):
        try:
            ray.init(
                address=None if address == "local" else address,
                include_dashboard=False if address == "local" else None,
                runtime_env={"env_vars": ours | {"PYTHONPATH": path}},
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            break
        except Exception as error:  # for a node that took too long, Exception itself
            ray.shutdown()
            if type(error) is Exception and left:
                continue
            remedy = (
                "close what else runs here, and try again"
                if address == "local"
                else "start one with `ray start --head`, or give --ray local (in a recipe "
                "fleet.ray=local) for this host alone"
            )
            raise FleetError(f"no Ray cluster at {address}: {error}; {remedy}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


class _Actor:
    """Runs in a process of its own, on any node."""

    def __init__(self, opens: Open) -> None:
        self._opens = opens
        self._stack = ExitStack()
        self._do: Do | None = None

    def open(self) -> str:
        """The error of opening the work; "" when it is open."""
        try:
            self._do = self._stack.enter_context(self._opens())
        except UserError as error:
            return str(error)
        return ""

    def do(self, name: str) -> tuple[bool, str]:
        """(whether it was done, the word for it or the error)"""
        try:
            if self._do is None:
                self._do = self._stack.enter_context(self._opens())
            return True, self._do(name)
        except UserError as error:
            # An engine that died may be why: what was open is opened anew for the next task.
            self._do = None
            self._stack.close()
            return False, str(error)


class _Crew:
    """The actors of one call, and what each of them does."""

    def __init__(self, ray: Any, fleet: RayFleet, opens: Open) -> None:
        self._ray = ray
        self._fleet = fleet
        self._opens = ray.put(opens)
        self._actor = ray.remote(num_cpus=1, num_gpus=fleet.gpus, max_restarts=0)(_Actor)
        self._tries: Counter[str] = Counter()
        self._deaths = 0  # of actors before they did anything
        self._doing: dict[Any, tuple[Any, str]] = {}  # reference → actor and task; "": it opens

    def results(self, queue: deque[str]) -> Iterator[tuple[str, str | UserError]]:
        """What becomes of the tasks, as they are finished."""
        for _ in range(min(_size(self._ray, self._fleet), len(queue))):
            self._start()
        while queue or any(name for _, name in self._doing.values()):
            done, _ = self._ray.wait(list(self._doing), num_returns=1, timeout=PATIENCE_S)
            if not done:
                self._say_what_is_awaited(len(queue))
                continue
            actor, name = self._doing.pop(done[0])
            try:
                result = self._ray.get(done[0])
            except self._ray.exceptions.RayActorError as error:
                yield from self._bury(name, queue, error)
                continue
            if name:
                fine, word = result
                yield name, word if fine else UserError(word)
            elif result:
                raise FleetError(result)
            if queue:
                self._give(actor, queue.popleft())

    def _start(self) -> None:
        actor = self._actor.remote(self._opens)
        self._doing[actor.open.remote()] = actor, ""

    def _give(self, actor: Any, name: str) -> None:
        self._doing[actor.do.remote(name)] = actor, name

    def _bury(
        self, name: str, queue: deque[str], error: Exception
    ) -> Iterator[tuple[str, str | UserError]]:
        """An actor died: its task goes to another one, unless it has killed several."""
        if not name:
            self._deaths += 1
            if self._deaths >= MOST_TRIES:
                raise FleetError(
                    f"{self._deaths} workers died before they had done anything: {error}"
                )
        else:
            self._tries[name] += 1
            print(f"a worker died at {name}, try {self._tries[name]}", file=sys.stderr)
            if self._tries[name] >= MOST_TRIES:
                yield (
                    name,
                    UserError(f"{MOST_TRIES} workers died at it; last: {first_line(error)}"),
                )
            else:
                queue.append(name)
                yield name, RETRIED
        if queue:
            self._start()

    def _say_what_is_awaited(self, left: int) -> None:
        opening = sum(not name for _, name in self._doing.values())
        if opening == len(self._doing):
            print(
                f"{left} tasks wait for a worker: {opening} are being started, or wait for a node "
                f"with 1 CPU and {self._fleet.gpus:g} GPUs",
                file=sys.stderr,
            )


def _size(ray: Any, fleet: RayFleet) -> int:
    """How many actors to start. Raises FleetError where no node can hold one."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    fit = len(nodes)
    if fleet.gpus:
        gpus = [node["Resources"].get("GPU", 0) for node in nodes]
        fit = sum(int(n // fleet.gpus) for n in gpus)
        if not fit:
            raise FleetError(
                f"no node of the cluster has {fleet.gpus:g} GPUs: they have "
                f"{', '.join(f'{n:g}' for n in gpus)}; lower --gpus (in a recipe fleet.gpus)"
            )
    return fleet.workers or fit


def first_line(error: Exception) -> str:
    """What Ray says first; a traceback of the worker follows."""
    return str(error).strip().partition("\n")[0]
