"""The processes of a driver's own Ray cluster."""

from __future__ import annotations

import subprocess
from pathlib import Path


def actors_of(driver: int, kind: str) -> list[int]:
    """Process ids of the actors of a class that the cluster of a driver has."""
    shown = subprocess.run(
        ["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    actors = [int(line.split()[0]) for line in shown if f"ray::{kind}" in line]
    return sorted(pid for pid in actors if driver in _ancestors(pid))


def _ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        status = Path(f"/proc/{pid}/status").read_text()
        pid = int(next(line for line in status.splitlines() if line.startswith("PPid")).split()[1])
        found.append(pid)
    return found
