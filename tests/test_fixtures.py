"""The fixtures that every test uses: filtered gRPC logs, and no leaked threads."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

ROOT = Path(__file__).parents[1]

LEAKS_A_THREAD = """
import threading, time
def test_it():
    threading.Thread(target=time.sleep, args=(3600,), name="store", daemon=True).start()
"""


async def test_no_log_record_keeps_a_grpc_server_that_is_being_freed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without the filter in conftest.py, Python crashes when such a record is freed."""
    with caplog.at_level(logging.DEBUG):
        server = grpc.aio.server()
        del server
        gc.collect()
    assert "I/O engine" in caplog.text or "running loop" in caplog.text, "gRPC's log is captured"
    assert "__dealloc__" not in caplog.text


def test_a_thread_that_outlives_its_test_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "import threading; threading.Thread.join = lambda thread, seconds: None\n"
        "from tests.conftest import _no_thread_outlives_its_test\n"
    )
    (tmp_path / "test_leak.py").write_text(LEAKS_A_THREAD)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 1
    assert "'store' outlives its test" in result.stdout
