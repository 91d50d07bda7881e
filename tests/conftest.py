"""Fixtures for all tests. Real models are fetched once, into the user's cache."""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.service.postgres import database, postgres

__all__ = ["database", "postgres"]  # fixtures of tests/support/service/postgres.py

settings.register_profile("rlaif", deadline=None)  # slow on a busy machine is not a failure
settings.load_profile("rlaif")

os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _is_safe_to_keep(record: logging.LogRecord) -> bool:
    """False for records that gRPC logs about an aio server while it is being freed.

    At DEBUG level such a record refers to the half-freed server. pytest keeps records, so Python
    would free the server twice: heap corruption, and a segmentation fault later.
    """
    return not str(record.msg).startswith("__dealloc__")


logging.getLogger("grpc._cython.cygrpc").addFilter(_is_safe_to_keep)


def pytest_configure(config: pytest.Config) -> None:
    """Give each of several test processes (`-n 2`) its own cores, and no terminal of 80 columns.

    Models compute in as many threads as there are cores, which wait for each other while spinning:
    on shared cores two processes take many times as long as one after the other.
    """
    name, processes = os.environ.get("PYTEST_XDIST_WORKER"), "PYTEST_XDIST_WORKER_COUNT"
    if name is None:
        return
    for variable in ("COLUMNS", "LINES"):
        os.environ.pop(variable, None)
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        mine = cores[int(name.removeprefix("gw")) :: int(os.environ[processes])]
        os.sched_setaffinity(0, mine or cores)


_OUR_THREADS = ("store", "stdin-watch", "orphan-watch")
_LOOP_WORKERS = "asyncio_"  # threads of an event loop, which may serve a whole module


@pytest.fixture(autouse=True)
def _no_thread_outlives_its_test() -> Iterator[None]:
    """A leaked thread would run during later tests, on their files and variables."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith(_LOOP_WORKERS):
            continue
        if not thread.daemon or thread.name.startswith(_OUR_THREADS):
            thread.join(60)  # it may be ending right now
            assert not thread.is_alive(), f"the thread {thread.name!r} outlives its test"


@pytest.fixture(scope="session", autouse=True)
def _own_store(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A store for this session's servers: with a shared one, a second run would compute nothing."""
    os.environ["RLAIF_STORE"] = str(tmp_path_factory.mktemp("store") / "reads.sqlite")


@pytest.fixture(scope="module")
def ray_alone() -> Iterator[None]:
    """No other test module with this fixture runs meanwhile, in any process of this machine.

    Two Ray clusters that start on one host at a time lose workers to each other.
    """
    with (Path(tempfile.gettempdir()) / "rlaif-tests-ray.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of the real SmolLM2-135M-Instruct, fetched if this machine lacks it."""
    from rlaif.models import catalog

    return catalog.fetch("smollm2-135m")
