"""A Ray cluster of a head and two nodes on this host, and work that kills whoever does it.

Run as a module it is the cluster, or a driver that makes shards on one; imported it starts both.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from constitution.errors import UserError
from rlaif.data.prompts import read_prompts
from rlaif.data.records import write_parquet
from rlaif.data.shards.folder import Holds
from rlaif.data.shards.parquet import prompt_schema
from rlaif.sharding.jobs import Made
from tests.support.service.server_process import ROOT

KILLS, BREAKS = "kills", "breaks"

STARTS = 5
"""Ray gives the agents of a node 15 s to start, which are too few on a very busy machine."""


class RayNodes:
    """Two nodes of one CPU each beside a head without any; they end with this process."""

    def __init__(self, log: Path) -> None:
        self._log = log
        for _ in range(STARTS):
            self._process = self._start()
            if address := self._said("at "):
                self.address = address
                return
            self.close()
        raise AssertionError(f"no cluster after {STARTS} starts:\n{log.read_text()[-2000:]}")

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.support.service.ray_nodes", "nodes"]
        with self._log.open("w") as errors:
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                cwd=ROOT,
            )  # fmt: skip

    def kill_a_node(self) -> None:
        """Kill all processes of one node with -9, those of its workers too."""
        assert self._process.stdin is not None
        self._process.stdin.write("kill\n")
        self._process.stdin.flush()
        assert self._said("killed"), self._log.read_text()[-2000:]

    def _said(self, beginning: str) -> str:
        """The rest of the next line that begins so; "" where the process ended without one."""
        assert self._process.stdout is not None
        lines = (line.strip() for line in self._process.stdout)
        return next((line for line in lines if line.startswith(beginning)), "").removeprefix("at ")

    def close(self) -> int:
        """End the cluster, with the end of its input; its exit code."""
        self._process.communicate("")
        return self._process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.close() == 0, self._log.read_text()[-2000:]


@dataclass
class Hazards:
    """Copies prompts. A prompt KILLS ends the worker at once; BREAKS breaks its engine, so that it
    fails at everything until it is opened anew. `hazards`: a file; without it nothing happens."""

    takes: ClassVar[Holds] = "prompts"
    gives: ClassVar[Holds] = "prompts"

    hazards: str
    broken: bool = field(default=False)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {}

    @contextmanager
    def opened(self, out: Path) -> Iterator[Hazards]:
        yield Hazards(self.hazards)

    def make(self, shard: Path, folder: Path) -> Made:
        prompts = list(read_prompts(shard).prompts)
        texts = {prompt.messages[-1].content for prompt in prompts}
        if Path(self.hazards).exists():
            if KILLS in texts:
                os.kill(os.getpid(), signal.SIGKILL)
            self.broken = self.broken or BREAKS in texts
        if self.broken:
            raise UserError("the engine is broken")
        rows = (prompt.model_dump() for prompt in prompts)
        write_parquet(folder / "made.parquet", rows, prompt_schema())
        return Made(folder / "made.parquet", len(prompts), {})


def make_on_ray(address: str, source: Path, out: Path, hazards: Path) -> dict[str, Any]:
    """The report of a driver of its own that makes the shards by Hazards."""
    command = [sys.executable, "-m", "tests.support.service.ray_nodes", "make"]
    command += [address, str(source), str(out), str(hazards)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def _serve_nodes() -> None:
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    print(f"at {cluster.address}", flush=True)
    for _ in sys.stdin:
        cluster.remove_node(nodes.pop(), allow_graceful=False)
        print("killed", flush=True)
    cluster.shutdown()


def _make(address: str, source: str, out: str, hazards: str) -> None:
    from rlaif.distributed.fleet import RayFleet
    from rlaif.sharding.run import make_shards
    from tests.support.service import ray_nodes  # by this name the workers find the class

    job, fleet = ray_nodes.Hazards(hazards), RayFleet(address, workers=2)
    print(json.dumps(asdict(make_shards(Path(source), Path(out), job, fleet=fleet))))


if __name__ == "__main__":
    _serve_nodes() if sys.argv[1] == "nodes" else _make(*sys.argv[2:])
