"""A process killed while it writes a checkpoint leaves the ones before it whole."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlaif.training import checkpoints
from rlaif.training.preflight import steps_in

WRITER = """
import os, signal, sys
from pathlib import Path
import torch
from rlaif.training import checkpoints

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def half_then_kill(state, file):
    file.write(b"half of a checkpoint")
    file.flush()
    kill()

folder, moment = Path(sys.argv[1]), sys.argv[2]
checkpoints.write(folder / "step-1.pt", {"step": 1, "weight": torch.ones(3)})
if moment == "half written":
    torch.save = half_then_kill
elif moment == "before it is synced":
    os.fsync = kill
elif moment == "before it has its name":
    Path.replace = kill
else:
    checkpoints._sync_folder = kill
checkpoints.write(folder / "step-2.pt", {"step": 2, "weight": torch.zeros(3)})
"""


@pytest.mark.parametrize(
    ("moment", "steps"),
    [
        ("half written", [1]),
        ("before it is synced", [1]),
        ("before it has its name", [1]),
        ("before its folder is synced", [1, 2]),
    ],
)
def test_kill_9_at_any_moment_leaves_whole_checkpoints(
    moment: str, steps: list[int], tmp_path: Path
) -> None:
    done = subprocess.run([sys.executable, "-c", WRITER, str(tmp_path), moment], check=False)
    assert done.returncode == -signal.SIGKILL
    assert steps_in(tmp_path) == steps
    for step in steps:
        state = checkpoints.read(tmp_path / f"step-{step}.pt")
        assert state["step"] == step
        assert torch.equal(state["weight"], torch.full((3,), float(step == 1)))

    # What the killed process left behind does not disturb the next one.
    checkpoints.write(tmp_path / "step-2.pt", {"step": 2, "weight": torch.zeros(3)})
    assert steps_in(tmp_path) == [1, 2]
    assert not list(tmp_path.glob("*.partial"))
