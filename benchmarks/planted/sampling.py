"""`rlaif.sample` in this process: one of its own starts for longer than a tiny model samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rlaif.generation import offline, worker


@contextmanager
def sampling_here() -> Iterator[None]:
    """Until the block ends, samplers run in this process; a failure raises its own exception."""
    with patch.object(offline, "_worker", _worker_here):
        yield


@contextmanager
def _worker_here(job: worker.Job, log: Path) -> Iterator[Iterator[dict[str, Any]]]:
    messages: list[dict[str, Any]] = []
    worker.run(job, messages.append)
    log.touch()
    yield iter(messages)
