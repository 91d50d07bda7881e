"""Shards made on a Ray cluster of this host: a worker is killed, then the driver; none is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import rlaif
from rlaif.data.datasets import read_preferences
from rlaif.sharding.run import look
from tests.support.rollouts.ray_actors import actors_of
from tests.support.service.server_process import ROOT, ServerProcess
from tests.support.service.serving import one_principle
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.ray,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("ray_alone"),
]
pytest.importorskip("ray")

PAIRS, ROWS = 240, 24
SLOW = {"slots": 8, "seconds": 0.25}  # 32 reads a second: a shard of 12 pairs takes most of one


def test_a_killed_worker_and_a_killed_driver_lose_no_shard(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"ask {n // 1000} {n % 1000}", "responses": ["one", "or more"]}
        for n in range(PAIRS)
    ]
    file, samples, out = tmp_path / "samples.jsonl", tmp_path / "samples", tmp_path / "labels"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rlaif.split_shards(file, out=samples, rows=ROWS)
    with ServerProcess(tmp_path, one_principle(tmp_path), str(tmp_path / "reads.sqlite")) as server:
        server.start(**SLOW)
        command = [
            sys.executable, "-m", "rlaif", "label", str(samples), "--server", server.address,
            "--out", str(out), "--ray", "local", "--workers", "2",
        ]  # fmt: skip

        def made() -> int:
            return len(list(out.glob("*.parquet")))

        log = tmp_path / "driver.log"
        with log.open("w") as output:
            driver = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT)
        wait_until(lambda: made() >= 1 or driver.poll() is not None, 300)
        assert driver.poll() is None, log.read_text()
        os.kill(actors_of(driver.pid, "_Actor")[0], signal.SIGKILL)
        wait_until(lambda: "a worker died at" in log.read_text(), 300)
        before = made()
        wait_until(lambda: made() > before or driver.poll() is not None, 300)
        driver.kill()
        driver.wait(60)
        assert made() < PAIRS * 2 // ROWS, "killed at work"

        server.stop()
        server.start()  # at full speed
        again = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    assert again.returncode == 0, again.stderr
    assert look(out).there == look(out).shards == PAIRS * 2 // ROWS
    found = read_preferences(out)
    assert len(found) == len({label.id for label in found}) == PAIRS


def test_no_cluster_is_a_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "samples.jsonl"
    file.write_text(json.dumps({"prompt": "q", "responses": ["a", "b"]}) + "\n")
    rlaif.split_shards(file, out=tmp_path / "samples")
    command = [
        sys.executable, "-m", "rlaif", "label", str(tmp_path / "samples"), "--server",
        "127.0.0.1:1", "--out", str(tmp_path / "labels"), "--ray", "auto",
    ]  # fmt: skip

    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    assert done.returncode == 1
    assert "error: no Ray cluster at auto" in done.stderr
    assert "--ray local" in done.stderr
