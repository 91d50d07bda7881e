"""kill -9 of processes that label the shards of one folder: every pair gets one label.

Three commands, two of them with the same part, label over one real server of fixed speed. At random
moments one is killed and started again. In the end the rows are those of a single command that
nobody disturbed. 24 kills with RLAIF_FULL=1, 4 by default.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rlaif
from rlaif.data.datasets import read_preferences
from rlaif.sharding.run import WORK, look
from tests.support.service.server_process import ROOT, ServerProcess
from tests.support.service.serving import one_principle

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

KILLS = 24 if os.environ.get("RLAIF_FULL") == "1" else 4
PAIRS = 200 * KILLS
PARTS = ("0/2", "1/2", "1/2")
SLOW = {"slots": 8, "seconds": 0.04}  # 200 reads a second, so that kills fall among them


class PartProcess:
    """`rlaif label SAMPLES --part …`, which can be killed and started again."""

    def __init__(self, samples: Path, out: Path, server: str, part: str, log: Path) -> None:
        self._command = [
            sys.executable, "-m", "rlaif", "label", str(samples), "--server", server,
            "--out", str(out), "--part", part,
        ]  # fmt: skip
        self.log = log
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=ROOT)

    def kill(self) -> bool:
        """Kill it as a power failure does; whether it was still at work."""
        at_work = self._process.poll() is None
        self._process.kill()
        self._process.wait(120)
        return at_work

    def wait(self) -> int:
        return self._process.wait(900)


def test_every_pair_gets_one_label_whoever_is_killed(tmp_path: Path) -> None:
    dice, samples = random.Random(), tmp_path / "samples"
    file = tmp_path / "samples.jsonl"
    # Words of at most four letters: see SteadyTokenizer.
    rows = [
        {"prompt": f"ask {n // 1000} {n % 1000}", "responses": ["one", "or more"]}
        for n in range(PAIRS)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rlaif.split_shards(file, out=samples, rows=40)
    store, constitution = str(tmp_path / "reads.sqlite"), one_principle(tmp_path)
    with ServerProcess(tmp_path, constitution, store) as server:
        server.start(**SLOW)
        out = tmp_path / "labels"
        parts = [
            PartProcess(samples, out, server.address, part, tmp_path / f"part-{place}.log")
            for place, part in enumerate(PARTS)
        ]
        killed_at_work = 0
        for _ in range(KILLS):
            time.sleep(dice.uniform(1.5, 4))  # they take a second to start
            victim = dice.choice(parts)
            killed_at_work += victim.kill()
            victim.start()
        server.kill()
        server.start()  # at full speed
        for part in parts:
            assert part.wait() == 0, part.log.read_text()[-2000:]
        # What a killed one had begun is left by the parts that skipped it: once more, and all is.
        report = rlaif.label_shards(samples, server=server.address, out=out)

        assert killed_at_work, "no kill fell into the work"
        assert (report.there, report.rows, look(out).rows) == (report.shards, PAIRS, PAIRS)
        assert not (out / WORK).exists()
        rlaif.label(file, server=server.address, out=tmp_path / "whole")
    found = read_preferences(out)
    whole = read_preferences(tmp_path / "whole" / "preferences.parquet")
    of = {row.id: (row.prompt, row.chosen, row.prob_chosen, row.traits) for row in found}
    assert len(found) == len(of) == PAIRS
    assert of == {row.id: (row.prompt, row.chosen, row.prob_chosen, row.traits) for row in whole}
