"""Sampling in this process, FOR TESTS: `offline.sample` starts one that imports torch each time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rlaif.generation import offline
from rlaif.generation.worker import Job, run


@contextmanager
def _worker_here(job: Job, log: Path) -> Iterator[Iterator[dict[str, Any]]]:
    messages: list[dict[str, Any]] = []
    run(job, messages.append)
    log.touch()
    yield iter(messages)


@pytest.fixture
def sampling_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real sampler and model, without a process of their own."""
    monkeypatch.setattr(offline, "_worker", _worker_here)
