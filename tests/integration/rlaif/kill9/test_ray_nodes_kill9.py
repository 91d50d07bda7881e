"""Shards made on a cluster of several nodes: workers, engines, a node and a driver are lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rlaif
from rlaif.data.datasets import read_preferences
from rlaif.data.prompts import read_prompts
from rlaif.sharding.run import look
from tests.support.service.ray_nodes import BREAKS, KILLS, RayNodes, make_on_ray
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

SLOW = {"slots": 8, "seconds": 0.25}  # 32 reads a second
PAIRS, ROWS = 160, 16


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    with RayNodes(tmp_path_factory.mktemp("ray") / "nodes.log") as cluster:
        yield cluster


def test_a_poison_shard_is_set_aside_and_a_dead_engine_replaced(
    nodes: RayNodes, tmp_path: Path
) -> None:
    texts = ["a", KILLS, "b", BREAKS, "c", "d", "e", "f"]
    file, hazards = tmp_path / "prompts.jsonl", tmp_path / "hazards"
    file.write_text(
        "".join(json.dumps({"prompt": text, "split": "train"}) + "\n" for text in texts)
    )
    rlaif.split_shards(file, out=tmp_path / "prompts", rows=1)
    hazards.touch()

    first = make_on_ray(nodes.address, tmp_path / "prompts", tmp_path / "out", hazards)
    hazards.unlink()
    second = make_on_ray(nodes.address, tmp_path / "prompts", tmp_path / "out", hazards)

    # Three workers died at one shard; the broken engine failed at its own and at no other.
    assert sorted(first["failed"]) == ["00001.parquet", "00003.parquet"]
    assert first["failed"]["00001.parquet"].startswith("3 workers died at it")
    assert first["failed"]["00003.parquet"] == "the engine is broken"
    assert first["outcomes"] == {"made": 6, "retried": 2}
    # What was set aside is tried again by the next run.
    assert (second["failed"], second["outcomes"]) == ({}, {"made": 2, "found": 6})
    made = read_prompts(tmp_path / "out").prompts
    assert sorted(p.messages[-1].content for p in made) == sorted(texts)


def test_a_lost_node_and_a_lost_driver_lose_no_shard(nodes: RayNodes, tmp_path: Path) -> None:
    rows = [{"prompt": f"ask {n}", "responses": ["one", "or more"]} for n in range(PAIRS)]
    file, out = tmp_path / "samples.jsonl", tmp_path / "labels"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rlaif.split_shards(file, out=tmp_path / "samples", rows=2 * ROWS)
    with ServerProcess(tmp_path, one_principle(tmp_path), str(tmp_path / "reads.sqlite")) as server:
        server.start(**SLOW)
        command = [
            sys.executable, "-m", "rlaif", "label", "samples", "--server", server.address,
            "--out", "labels", "--ray", nodes.address, "--workers", "2",
        ]  # fmt: skip
        # By relative paths, in another folder than the nodes were started in.
        here = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}

        def made() -> int:
            return len(list(out.glob("*.parquet")))

        log = tmp_path / "driver.log"
        with log.open("w") as output:
            driver = subprocess.Popen(command, stdout=output, stderr=output, **here)
        try:
            wait_until(lambda: made() >= 1 or driver.poll() is not None, 300)
            assert driver.poll() is None, log.read_text()
            nodes.kill_a_node()
            wait_until(lambda: "a worker died at" in log.read_text(), 300)
            before = made()
            wait_until(lambda: made() > before or driver.poll() is not None, 300)
        finally:
            driver.kill()
            driver.wait(60)
        assert made() < PAIRS // ROWS, "killed at work"

        server.stop()
        server.start()  # at full speed
        again = subprocess.run(command, capture_output=True, text=True, check=False, **here)

    assert again.returncode == 0, again.stderr
    assert look(out).there == look(out).shards == PAIRS // ROWS
    found = read_preferences(out)
    assert len(found) == len({label.id for label in found}) == PAIRS
