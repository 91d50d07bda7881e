"""A judge server of one's own for the length of a `with` block: started, awaited, stopped.

The server is a child process that reads nothing but the end of its standard input: when this
process dies, even by kill -9, the pipe closes and the server goes with it.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from constitution.errors import UserError

STOP_GRACE_S = 20.0


class LocalServerError(UserError):
    """The judge server did not come up; the message ends with the last lines of its log."""


@contextmanager
def judge_server(
    model: str,
    constitutions: Sequence[str],
    log: Path,
    *,
    ready: Callable[[str], bool],
    timeout_s: float = 600.0,
    options: Sequence[str] = (),
) -> Iterator[str]:
    """Yield the address of a serving judge.

    `ready(address)` says whether the server answers SERVING; it is asked about once a second until
    `timeout_s`. `options` are further flags of `rlaif serve`. Raises LocalServerError when the
    server ends early or does not become ready.
    """
    address = f"127.0.0.1:{_free_port()}"
    command = [sys.executable, "-m", "rlaif", "serve", "--model", model, "--exit-on-stdin-close"]
    command += ["--port", address.rpartition(":")[2], *options]
    for name in constitutions:
        command += ["--constitution", name]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=out)
    try:
        _await(server, address, ready, timeout_s, log)
        yield address
    finally:
        _stop(server)


def _await(
    server: subprocess.Popen[bytes],
    address: str,
    ready: Callable[[str], bool],
    timeout_s: float,
    log: Path,
) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready(address):
        if server.poll() is not None:
            raise LocalServerError(f"the judge server ended before it was ready:\n{_tail(log)}")
        if time.monotonic() > deadline:
            raise LocalServerError(
                f"the judge server was not ready after {timeout_s:.0f} s; its log is {log}:\n"
                f"{_tail(log)}"
            )
        time.sleep(0.5)


def _stop(server: subprocess.Popen[bytes]) -> None:
    assert server.stdin is not None
    server.stdin.close()
    try:
        server.wait(STOP_GRACE_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
