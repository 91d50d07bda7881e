"""A judge server in its own process, with a `SteadyEngine` and a real store, for kill tests.

Run as a module it is the server; imported it starts, kills and observes such a process.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[3]
ENDS_WITHIN = 60.0  # seconds, on a busy machine


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerProcess:
    """A server on a fixed port that can be started, killed and started again.

    constitution: a name or file. store: a file or a database's URL that several may share. Every
    read of the engine is a line of the file `reads`, written at its start: "key prompt_sha256". The
    process ends with the one that started it.
    """

    def __init__(
        self, folder: Path, constitution: str, store: str, *, name: str = "server", **settings: Any
    ) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.reads = folder / f"{name}.reads"
        self.log = folder / f"{name}.log"
        self._store = store
        self._settings = {
            "model": "steady",
            "constitutions": [constitution],
            "port": self.port,
            "exit_on_stdin_close": True,
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self, *, slots: int = 8, seconds: float = 0.0, loading: float = 0.0) -> None:
        """Start it and return once it serves. slots, seconds, loading: of SteadyEngine."""
        engine = {"slots": slots, "seconds": seconds, "loading": loading}
        job = {"settings": self._settings, "engine": engine, "store": self._store}
        job["reads"] = str(self.reads)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.service.server_process", json.dumps(job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith(b"serving"), f"it did not start:\n{self.log.read_text()[-2000:]}"

    def kill(self) -> None:
        """Kill it with SIGKILL, as in a power failure."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Stop it with SIGTERM, and wait for its end."""
        process = self._end(signal.SIGTERM)
        assert process.returncode == 0, f"ended with {process.returncode}"

    def _end(self, signum: int) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        process, self._process = self._process, None
        process.send_signal(signum)
        try:
            process.wait(ENDS_WITHIN)
        finally:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()
        return process

    def reads_since(self, offset: int) -> tuple[list[tuple[str, str]], int]:
        """(key, prompt_sha256) of the reads started since this offset, and the next offset."""
        if not self.reads.exists():
            return [], 0
        with self.reads.open("rb") as file:
            file.seek(offset)
            content = file.read()
        lines = content[: content.rfind(b"\n") + 1]
        pairs = [(key, prompt) for key, prompt in map(str.split, lines.decode().splitlines())]
        return pairs, offset + len(lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill()


def main(job: str) -> None:
    from judge_service.engines.caching import CachingEngine
    from judge_service.judge.template import prompt_sha256
    from judge_service.server.run import serve
    from judge_service.settings import ServerSettings
    from judge_service.store import open_store
    from judge_service.store.base import read_key
    from tests.support.service.steady_engine import SteadyEngine

    values = json.loads(job)
    reads = os.open(values["reads"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def record(prompt_ids: Sequence[int], label_ids: Sequence[int]) -> None:
        key = read_key(engine.identity, prompt_ids, label_ids).hex()
        os.write(reads, f"{key} {prompt_sha256(prompt_ids, label_ids)}\n".encode())

    engine = SteadyEngine(**values["engine"], on_read=record)
    caching = CachingEngine(engine, open_store(values["store"]))
    settings = ServerSettings(**values["settings"])
    asyncio.run(serve(settings, caching, ready=lambda at: print("serving on", at, flush=True)))


if __name__ == "__main__":
    main(sys.argv[1])
