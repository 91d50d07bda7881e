"""A client to a judge: to a server that runs somewhere, or to one of our own for the while.

A server of our own is a child process that ends when its standard input does: if this process
dies, even by kill -9, the pipe closes and the server goes with it.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from constitution.errors import UserError
from judge_service.client import JudgeClient

START_TIMEOUT_S = 900.0
STOP_GRACE_S = 20.0


class JudgeServerError(UserError):
    """The judge server did not come up; the message ends with the last lines of its log."""


@contextmanager
def judge_client(
    model: str,
    constitution: str | Sequence[str],
    log: Path,
    server: str = "",
    *,
    flags: Sequence[str] = (),
) -> Iterator[JudgeClient]:
    """A client to a judge that serves.

    With a `model`, `rlaif serve` is started with it and `constitution` (one or several, the first
    is the default; and `flags`) on a free port, its output going to `log`, and stopped at the end;
    it takes inline constitutions too. Without a model, `server` must be running.
    Raises JudgeServerError, or JudgeUnavailable when `server` does not answer.
    """
    if not model:
        with JudgeClient(server) as client:
            client.wait_until_ready(10.0)
            yield client
        return
    port = _free_port()
    command = [sys.executable, "-m", "rlaif", "serve", "--model", model, "--port", str(port)]
    names = [constitution] if isinstance(constitution, str) else constitution
    command += [word for name in dict.fromkeys(names) for word in ("--constitution", name)]
    command += ["--allow-inline", "--exit-on-stdin-close", *flags]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=out)
    try:
        with JudgeClient(f"127.0.0.1:{port}") as client:
            _await(client, child, log)
            yield client
    finally:
        _stop(child)


def _await(client: JudgeClient, child: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until it serves. On a terminal a spinner turns; loading takes half a minute or more."""

    def look(*_: object) -> None:
        if child.poll() is not None:
            raise JudgeServerError(f"the judge server ended before it was ready:\n{_tail(log)}")

    with Console(stderr=True).status("the judge server loads its model"):
        client.wait_until_ready(START_TIMEOUT_S, look)


def _stop(child: subprocess.Popen[bytes]) -> None:
    assert child.stdin is not None
    child.stdin.close()
    try:
        child.wait(STOP_GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
