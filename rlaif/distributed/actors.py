"""Objects that live on a Ray cluster, each in a process of its own on any node, and may die."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from rlaif.distributed.fleet import PATIENCE_S, FleetError, connected, first_line


class LostActorError(Exception):
    """An actor that is gone without having answered; the message says how it ended."""


@dataclass
class RayActors:
    """Places objects on a cluster; connects at the first one. address, gpus: as of `RayFleet`."""

    address: str
    gpus: float = 0
    _ray: Any = field(default=None, repr=False)
    _stack: ExitStack = field(default_factory=ExitStack, repr=False)

    def connect(self, actors: int) -> None:
        """Connect. Raises FleetError without a cluster, or for one too small for so many actors."""
        self._ray = self._stack.enter_context(connected(self.address))
        if not self.gpus:
            return
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        held = [node["Resources"].get("GPU", 0) for node in nodes]
        fit = sum(int(count // self.gpus) for count in held)
        if fit < actors:
            raise FleetError(
                f"the nodes of the cluster have {', '.join(f'{n:g}' for n in held)} GPUs, enough "
                f"for {fit} of {actors} workers with {self.gpus:g} each; ask for fewer"
            )

    @property
    def host(self) -> str:
        """This host's address in the cluster, once connected."""
        return str(self._ray.util.get_node_ip_address())

    def disconnect(self) -> None:
        """Leave the cluster; what was placed on it ends."""
        self._stack.close()

    def place(self, kind: type, *arguments: Any) -> ActorHandle:
        """An object of the class, somewhere; it is made when there is room."""
        actor = self._ray.remote(num_cpus=1, num_gpus=self.gpus, max_restarts=0)(kind)
        return ActorHandle(self._ray, actor.remote(*arguments), self.gpus)


class ActorHandle:
    """An object on a cluster."""

    def __init__(self, ray: Any, actor: Any, gpus: float) -> None:
        self._ray, self._actor, self._gpus = ray, actor, gpus
        self._answered = False

    def call(self, method: str, *arguments: Any) -> Any:
        """What the method returns; blocks. Raises LostActorError."""
        try:
            reference = getattr(self._actor, method).remote(*arguments)
            while not self._ray.wait([reference], timeout=PATIENCE_S)[0]:
                if not self._answered:
                    print(
                        "a worker is being started, or waits for a node with 1 CPU and "
                        f"{self._gpus:g} GPUs",
                        file=sys.stderr,
                    )
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            raise LostActorError(first_line(error)) from error
        self._answered = True
        return answer

    def end(self) -> None:
        """Kill it; may be called again, and while another thread waits in `call`."""
        self._ray.kill(self._actor)
