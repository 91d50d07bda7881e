"""Fixtures every test may use. Real models are fetched once into the user's cache."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.service.postgres import database, postgres

__all__ = ["database", "postgres"]  # fixtures of tests/support/service/postgres.py

settings.register_profile("rlaif", deadline=None)  # a busy machine is no failure
settings.load_profile("rlaif")

os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _is_safe_to_keep(record: logging.LogRecord) -> bool:
    """False for what gRPC logs about an aio server while that is being freed.

    At DEBUG level the record carries the half-freed server. pytest keeps records, so Python would
    free the server a second time: heap corruption, and a segmentation fault somewhere later.
    """
    return not str(record.msg).startswith("__dealloc__")


logging.getLogger("grpc._cython.cygrpc").addFilter(_is_safe_to_keep)

_OUR_THREADS = ("store", "stdin-watch", "orphan-watch")
_OF_LOOPS = "asyncio_"  # an event loop's own workers: it may serve a whole module


@pytest.fixture(autouse=True)
def _no_thread_outlives_its_test() -> Iterator[None]:
    """Threads that go on would work beside later tests, on files and variables of theirs."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith(_OF_LOOPS):
            continue
        if not thread.daemon or thread.name.startswith(_OUR_THREADS):
            thread.join(60)  # it may be about to end
            assert not thread.is_alive(), f"the thread {thread.name!r} outlives its test"


@pytest.fixture(scope="session", autouse=True)
def _own_store(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Servers of the tests keep their reads apart: else a second run would compute nothing."""
    os.environ["RLAIF_STORE"] = str(tmp_path_factory.mktemp("store") / "reads.sqlite")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of the real SmolLM2-135M-Instruct, fetched if this machine lacks it."""
    from rlaif.models import catalog

    return catalog.fetch("smollm2-135m")
