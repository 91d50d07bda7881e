"""A worker's own process: `python -m rlaif.generation.remote.serve`.

One JSON object per line. A `WorkerSpec` comes in on stdin and {"ready", "exact"} goes out on
stdout, then an answer per request. What cannot be answered is {"error": reason}. When stdin
closes, the trainer is gone, however it ended, and so is this process: at once, also while it
draws. What libraries print goes to stderr, the worker's log.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import IO, Any

from rlaif.generation.remote.protocol import WorkerSpec, answered


def main() -> None:
    """Answer the requests on stdin until it closes."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    spec = WorkerSpec(**json.loads(sys.stdin.readline()))
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_receive, args=(sys.stdin, requests), daemon=True).start()

    def send(compute: Callable[[], dict[str, Any]]) -> None:
        out.write(json.dumps(answered(compute)) + "\n")
        out.flush()

    def open_holder() -> dict[str, Any]:
        from rlaif.generation.remote.holder import Holder  # torch, after what reads stdin

        holders.append(Holder(spec))
        return {"ready": os.getpid(), "exact": holders[0].exact}

    holders: list[Any] = []
    send(open_holder)
    while holders:
        request = json.loads(requests.get())
        send(lambda request=request: holders[0].answer(request))  # type: ignore[misc]


def _receive(stdin: IO[str], requests: queue.Queue[str]) -> None:
    for line in stdin:
        requests.put(line)
    os._exit(1)


if __name__ == "__main__":
    main()
