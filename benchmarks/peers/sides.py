"""A side of a comparison is a process of its own, so that memory and threads are its own.

It is handed a job (JSON) and answers with a SideOutcome (JSON). Imports nothing heavy: it runs in
the peers' environments too.

    seconds    of each step, from the end of the step before to its own; so the first is not in it
    losses     of every step, the first included
    peak_gib   most memory resident at any time (VmHWM of the process and of its children; on a GPU
               what its allocator held), from its start to its last step
    facts      what else the side found out: parts of a step; floor_gib, what its imports alone hold
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class SideOutcome:
    """What one side measured in one round.

    seconds: per step, without the first. losses: per step. peak_gib: memory of the process and its
    children, or of the GPU's allocator. facts: figures of one benchmark, such as "update_seconds".
    """

    seconds: list[float]
    losses: list[float]
    peak_gib: float
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class StepClock:
    """The moments at which steps ended."""

    ends: list[float] = field(default_factory=list)

    def tick(self) -> None:
        """A step has ended now."""
        self.ends.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Seconds from each step's end to the next one's; the first step is not counted."""
        return [after - before for before, after in pairwise(self.ends)]


@dataclass
class Stopwatch:
    """Seconds spent inside one function, call by call."""

    seconds: list[float] = field(default_factory=list)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with each call's seconds appended to `seconds`."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds.append(time.perf_counter() - started)

        return timed


# ── within the process ───────────────────────────────────────────────────────────────────────


def answer(measure: Callable[[dict[str, Any]], SideOutcome]) -> None:
    """The body of a side's script: read the job named on the command line, answer beside it."""
    path = Path(sys.argv[1])
    job = json.loads(path.read_text(encoding="utf-8"))
    import torch

    torch.set_num_threads(job["threads"])
    floor = resident_gib()
    outcome = measure(job)
    outcome.facts["floor_gib"] = floor
    path.with_name("outcome.json").write_text(json.dumps(asdict(outcome)), encoding="utf-8")


def peak_gib() -> float:
    """Peak memory so far, GiB: of the GPU's allocator, or resident with all children."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated()) / 2**30
    return sum(_kib(pid, "VmHWM") for pid in (os.getpid(), *_children(os.getpid()))) / 2**20


def resident_gib() -> float:
    """What is held now; 0 on a GPU, where only what its allocator holds is counted."""
    import torch

    return 0.0 if torch.cuda.is_available() else _kib(os.getpid(), "VmRSS") / 2**20


def _kib(pid: int, key: str) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0  # a child that is gone
    found = re.search(rf"^{key}:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) if found else 0


def _children(pid: int) -> Iterator[int]:
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, listed.read_text(encoding="utf-8").split()):
            yield child
            yield from _children(child)


# ── from outside ─────────────────────────────────────────────────────────────────────────────


def run(python: str, module: str, job: Mapping[str, Any], folder: Path) -> SideOutcome:
    """Run `python -m benchmarks.peers.MODULE` with the job; its output goes to `log` in the folder.

    Raises SystemExit with the end of the log when it fails.
    """
    folder.mkdir(parents=True)
    path, log = folder / "job.json", folder / "log"
    path.write_text(json.dumps({**job, "out": str(folder / "out")}), encoding="utf-8")
    threads = str(job["threads"])
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",  # models are folders here: nothing is waited for
        "TQDM_DISABLE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }
    with log.open("w", encoding="utf-8") as out:
        done = subprocess.run(
            [python, "-m", f"benchmarks.peers.{module}", str(path)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            check=False,
        )
    if done.returncode != 0:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise SystemExit(f"{module} ended with code {done.returncode}; the end of {log}:\n{tail}")
    return SideOutcome(**json.loads((folder / "outcome.json").read_text(encoding="utf-8")))
