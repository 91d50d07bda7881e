"""One `rlaif` command in a process of its own: what it took, apart from what its children took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

_MEASURED = """
import atexit, json, resource, runpy, sys

file = open(sys.argv.pop(1), "w")

@atexit.register
def note():
    own, children = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    # ru_maxrss of a process counts the one that started it, too; VmHWM does not.
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    json.dump([
        own.ru_utime + own.ru_stime, int(peak.split()[1]) / 1024,
        children.ru_utime + children.ru_stime, children.ru_maxrss / 1024,
    ], file)
    file.close()

runpy.run_module("rlaif", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True, slots=True)
class CommandUse:
    """CPU seconds (user and system) and largest resident MiB of a command; the latter two of its
    children. seconds: by the clock."""

    cpu_s: float
    peak_mib: float
    children_cpu_s: float
    children_peak_mib: float
    seconds: float


def measured(*words: str | Path) -> CommandUse:
    """Run `rlaif WORDS` to its end. Raises CalledProcessError if it fails; stderr says why."""
    with tempfile.NamedTemporaryFile("r") as figures:
        command = [sys.executable, "-c", _MEASURED, figures.name, *map(str, words)]
        began = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - began
        cpu, peak, children_cpu, children_peak = json.load(figures)
    return CommandUse(cpu, peak, children_cpu, children_peak, seconds)


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a running process so far, user and system: fields 14 and 15 of man 5 proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mib(pid: int) -> float:
    """Largest resident memory of a running process so far, MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if "VmHWM" in line).split()[1]) / 1024
