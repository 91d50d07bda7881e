"""A real PostgreSQL server for tests, in a temporary folder, started once per session.

    async def test_...(database: str): store = open_store(database)      # URL of an empty database

Binaries come from PATH or Debian's folder; without them the tests are skipped. PostgreSQL does not
run as root, so for root it runs as `postgres` or `nobody`, in a folder they own. Settings stay at
their defaults (fsync included), as on an operator's server.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

USER = "rlaif"
PASSWORD = "canary-f00dface"  # must never appear in a log, error or receipt


class Postgres:
    """A server on 127.0.0.1 that requires PASSWORD; it can be stopped and started repeatedly.

    Raises RuntimeError with the server's log when it does not start.
    """

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._as: dict[str, Any] = _not_root()
        self.folder = Path(tempfile.mkdtemp(prefix="rlaif-pg-"))
        self.port = _free_port()
        self._server: subprocess.Popen[bytes] | None = None
        password = self.folder / "password"
        password.write_text(PASSWORD)
        if self._as:
            for path in (password, self.folder):
                shutil.chown(path, self._as["user"], self._as["group"])
        self._run(
            "initdb", "--pgdata", f"{self.folder}/data", "--username", USER, "--no-sync",
            "--pwfile", str(password), "--auth", "scram-sha-256", "--encoding", "UTF8",
            "--locale", "C",
        )  # fmt: skip
        self.start()

    def url(self, database: str, *, user: str = USER, password: str = PASSWORD) -> str:
        return f"postgresql+psycopg://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Create an empty database; returns its URL."""
        name = f"test_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name}", database="postgres")
        return self.url(name)

    def execute(self, statement: str, *, database: str) -> list[tuple[Any, ...]]:
        """Run one statement as the superuser, committed; returns its rows, if any."""
        import psycopg

        url = self.url(database).replace("+psycopg", "")
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [
                    self._binaries / "postgres", "-D", f"{self.folder}/data",
                    "-p", str(self.port), "-k", str(self.folder), "-c", "shared_buffers=32MB",
                ],
                stdout=log, stderr=log, cwd=self.folder, **self._as,
            )  # fmt: skip
        until = time.monotonic() + 60
        while not self._answers():
            if self._server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"PostgreSQL did not start:\n{self.log()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Cut every connection and stop; committed data is on disk."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Stop as in a crash: the next start recovers from the log."""
        self._end(signal.SIGQUIT)

    def restart(self) -> None:
        self.stop()
        self.start()

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def _end(self, signum: int) -> None:
        if self._server is not None:
            self._server.send_signal(signum)
            self._server.wait(60)
            self._server = None

    def _answers(self) -> bool:
        command = [self._binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._binaries / program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            **self._as,
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stdout}{done.stderr}")


def name(url: str) -> str:
    """The database name in a URL."""
    return urlsplit(url).path.removeprefix("/")


def binaries() -> Path | None:
    """The folder of initdb, postgres and pg_isready."""
    on_path = shutil.which("postgres")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    wanted = ("initdb", "postgres", "pg_isready")
    return next((f for f in folders if all((f / name).exists() for name in wanted)), None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running server; a test that stops it must start it again."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: the extra `postgres`")
    folder = binaries()
    if folder is None:
        pytest.skip("PostgreSQL's server is not installed (Debian: apt install postgresql)")
    server = Postgres(folder)
    yield server
    server.remove()


@pytest.fixture
def database(postgres: Postgres) -> str:
    """The URL of an empty database, including the password."""
    return postgres.new_database()


def _not_root() -> dict[str, Any]:
    """Keyword arguments of subprocess, so that the server does not run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    pytest.skip("PostgreSQL does not run as root, and there is no other user to run it")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
