"""Two processes over gloo on the CPU, started by accelerate: the gradient, and the run's folder,
of one process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlaif.records import write_jsonl
from tests.integration.two_processes import PAIRS
from tests.rlaif.conftest import make_tiny_model, tiny_model  # noqa: F401

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def launch(*arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """`accelerate launch … ARGUMENTS` where no GPU is seen: the processes meet over gloo."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu",
        f"--num_processes={processes}", "--num_machines=1", "--mixed_precision=no",
        "--dynamo_backend=no", f"--main_process_port={port}", *arguments,
    ]  # fmt: skip
    env = os.environ | {
        "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, timeout=300)


def alone(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {
        "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=env, cwd=ROOT, timeout=300
    )


def test_two_processes_make_the_gradient_of_one(tiny_model, tmp_path):  # noqa: F811
    script = "tests/integration/two_processes.py"
    for folder, run in (("one", alone), ("two", launch)):
        (tmp_path / folder).mkdir()
        done = run(script, tiny_model, str(tmp_path / folder))
        assert done.returncode == 0, done.stderr
    for name in ("reward", "dpo", "dpo-full", "ppo"):
        one, two = (torch.load(tmp_path / f / f"{name}.gradients.pt") for f in ("one", "two"))
        assert len(one) == len(two) == 2
        for step, (of_one, of_two) in enumerate(zip(one, two, strict=True), start=1):
            assert of_one.keys() == of_two.keys()
            norm = torch.stack([g.norm() for g in of_one.values()]).norm()
            assert norm > 0.1
            for parameter, gradient in of_one.items():
                apart = (of_two[parameter] - gradient).abs().max()
                assert apart <= 1e-6 * norm, f"{name}, step {step}, {parameter}: {apart}"


def test_two_processes_write_one_run_that_one_can_go_on_with(tiny_model, tmp_path):  # noqa: F811
    write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    out = tmp_path / "dpo"
    command = [
        "-m", "rlaif", "train", "dpo", str(tmp_path / "pairs.jsonl"), "--model", tiny_model,
        "--out", str(out), "dtype=float32", "max_tokens=120", "epochs=2", "batch_size=3",
        "checkpoint_every=1", "keep_checkpoints=3",
    ]  # fmt: skip
    done = launch(*command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("policy: ") == 1
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    checkpoints = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert checkpoints == ["step-000004.pt", "step-000005.pt", "step-000006.pt"]

    for late in ("step-000005.pt", "step-000006.pt"):  # as if killed after step 4
        (out / "checkpoints" / late).unlink()
    again = alone(*command)
    assert again.returncode == 0, again.stderr
    went_on = (out / "metrics.jsonl").read_text().splitlines()
    assert went_on[:4] == lines[:4]
    for ours, theirs in zip(went_on[4:], lines[4:], strict=True):
        assert json.loads(ours)["loss"] == pytest.approx(json.loads(theirs)["loss"], abs=1e-5)
