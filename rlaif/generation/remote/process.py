"""A worker as a process of this machine, spoken to over its stdin and stdout (serve.py).

It dies with the trainer: its stdin closes when the trainer is gone, also after kill -9.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rlaif.generation.base import SamplingError
from rlaif.generation.remote.protocol import DeadWorkerError, WorkerSpec

# Variables of a launcher: with them a worker would take itself for one of the trainer's processes.
_OF_A_LAUNCH = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK",
    "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
_PREFIXES = ("ACCELERATE_", "FSDP_", "TORCHELASTIC_", "PMI_", "OMPI_COMM_", "MV2_COMM_")


@dataclass
class WorkerProcess:
    """A `Worker` in a subprocess. log: the file that its stderr is appended to."""

    spec: WorkerSpec
    log: Path
    environment: Mapping[str, str]
    _process: subprocess.Popen[str] | None = field(default=None, repr=False)

    def start(self) -> bool:
        """Start the process, and wait until its model is loaded."""
        self.stop()
        with self.log.open("a") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "rlaif.generation.remote.serve"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=dict(self.environment),
                text=True,
                encoding="utf-8",
            )
        return bool(self.ask(asdict(self.spec))["exact"])

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one request, and wait for its answer."""
        process = self._process
        if process is None:
            raise DeadWorkerError("it is stopped")
        assert process.stdin is not None
        assert process.stdout is not None
        line = ""
        with suppress(BrokenPipeError, ValueError):  # ValueError: closed by `stop`
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        if not line.endswith("\n"):
            raise DeadWorkerError(self._ending(process))
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SamplingError(f"{answer['error']} (its log: {self.log})")
        return answer

    def stop(self) -> None:
        """Kill the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        return None if self._process is None else self._process.pid

    def _ending(self, process: subprocess.Popen[str]) -> str:
        process.kill()  # it may have closed its output alone
        code = process.wait()
        if code >= 0:
            return f"it ended with exit status {code}; its log: {self.log}"
        name = signal.Signals(-code).name if -code in list(signal.Signals) else str(-code)
        return f"it was ended by {name}, as it is when memory runs out; its log: {self.log}"


def worker_environment(base: Mapping[str, str], threads: int, device: str | None) -> dict[str, str]:
    """The variables of a worker's process: those of the trainer, without its launcher's.

    threads: for torch, where the user has not set OMP_NUM_THREADS. device: the only one that it may
    see, as CUDA_VISIBLE_DEVICES names it; None leaves the variable as it is.
    """
    kept = {name: value for name, value in base.items() if not is_of_a_launch(name)}
    here = str(Path(__file__).parents[3])
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [here, base.get("PYTHONPATH")]))
    kept.setdefault("OMP_NUM_THREADS", str(threads))
    kept.setdefault("GOMP_SPINCOUNT", "1000")  # waiting threads yield to the other workers'
    kept.setdefault("TOKENIZERS_PARALLELISM", "false")
    return kept if device is None else kept | {"CUDA_VISIBLE_DEVICES": device}


def is_of_a_launch(variable: str) -> bool:
    """Whether an environment variable is one of a launcher's (accelerate, torchrun, MPI)."""
    return variable in _OF_A_LAUNCH or variable.startswith(_PREFIXES)


def device_of(
    place: int, workers: int, local: tuple[int, int], visible: Sequence[str]
) -> str | None:
    """The GPU of a trainer's worker: those that no trainer's process uses, in turn; then from the
    first again. None without GPUs.

    place: among the `workers` of this trainer's process. local: (its rank, number of processes) on
    this machine. visible: what CUDA_VISIBLE_DEVICES lists.
    """
    if not visible:
        return None
    rank, processes = local
    return visible[(processes + rank * workers + place) % len(visible)]
