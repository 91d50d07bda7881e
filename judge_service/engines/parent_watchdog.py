"""Ends vLLM's processes when the process that started them dies, even by SIGKILL.

Without it, an engine whose parent was killed keeps its memory and waits forever. vLLM imports this
module in each of its workers (`worker_extension_cls`, its hook for code of ours). A worker is a
child of the server (one GPU), or of vLLM's EngineCore, which is a child of the server (CPU, several
GPUs): so it watches its parent, too, if that is itself a child. Linux only, like vLLM.

Import this module nowhere else. A spawned process imports the script that started it before it
knows that it is a child; if that script imported this module, no watch would ever start.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

from hardware.vllm_cpu import SeedsSurviveChunks
from judge_service.engines.vllm import OWNER

_POLL_SECONDS = 0.5


class ParentWatchdog(SeedsSurviveChunks):
    """The worker extension: naming it makes vLLM import this module in the worker."""


def _parent_of(pid: int) -> int:
    """The parent's process id; 0 if the process is gone."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(status.rpartition(")")[2].split()[1])  # proc(5): "pid (name) state ppid ..."


def _watch(parents: dict[int, int]) -> None:
    """Kill all processes of `parents` (pid -> its parent's pid) once one of them is an orphan."""
    while all(_parent_of(pid) == parent for pid, parent in parents.items()):
        time.sleep(_POLL_SECONDS)
    for pid in (*(pid for pid in parents if pid != os.getpid()), os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _start_watch() -> None:
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None:
        return  # the server's own process
    parents = {os.getpid(): parent.pid}
    if parent.name != "MainProcess":
        # The launcher recorded its id: it may be dead by the time this module is imported.
        parents[parent.pid] = int(os.environ.get(OWNER, _parent_of(parent.pid)))
    threading.Thread(target=_watch, args=(parents,), name="orphan-watch", daemon=True).start()


_start_watch()
