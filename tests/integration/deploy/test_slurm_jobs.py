"""The scripts in deploy/slurm do their work: labels by an array and on Ray, training on two nodes.

A FAKE Slurm starts them on this machine, which is both nodes (tests/support/deploy/fake_slurm.py);
the judge is planted, the policy has 50 000 random weights; `rlaif`, Ray and accelerate are real.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import rlaif
from rlaif.data.datasets import read_preferences
from rlaif.sharding.run import look
from tests.support.deploy import fake_slurm
from tests.support.training.tiny_model import save_tiny_model

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("ray_alone"),
]

ROOT = Path(__file__).resolve().parents[3]
SLURM = ROOT / "deploy" / "slurm"
PLANTED = ROOT / "benchmarks" / "planted"
JUDGE = {
    "JUDGE": f"planted:{PLANTED / 'judge.yaml'}",
    "CONSTITUTION": str(PLANTED / "constitution.yaml"),
}
PROMPTS, ROWS = 12, 6  # two responses each: four shards


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    file = tmp_path / "samples.jsonl"
    rows = [
        {"prompt": f"How do I open jar {n}?", "responses": [f"Turn it {n} times. Please.", "No."]}
        for n in range(PROMPTS)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """The environment of a login node: the fake Slurm, and `rlaif` and its friends on the PATH."""
    found = fake_slurm.install(tmp_path)
    command = tmp_path / "slurm" / "rlaif"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rlaif "$@"\n')
    command.chmod(0o755)
    path = os.pathsep.join([found["PATH"], str(Path(sys.executable).parent)])
    own = {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **found, **own, "RLAIF_CACHE": str(tmp_path / "cache")}


def submit(cluster: dict[str, str], *command: str | Path, **variables: str) -> list[str]:
    """The status of every job so far. What jobs wrote is in the failure's message."""
    done = subprocess.run(
        [*map(str, command)],
        env=cluster | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    jobs = Path(cluster["FAKE_SLURM"])
    found = [file.read_text() for file in sorted(jobs.glob("*.status"))]
    logs = "\n".join(f"{log.name}:\n{log.read_text()}" for log in sorted(jobs.glob("*.log")))
    assert (done.returncode, set(found)) == (0, {"0"}), f"{done.stderr}\n{logs}"
    return found


def alone(samples: Path, out: Path) -> list[str]:
    """The labels of one command over the whole file."""
    rlaif.label(samples, judge=JUDGE["JUDGE"], constitution=JUDGE["CONSTITUTION"], out=out)
    return texts(out / "preferences.parquet")


def texts(labels: Path) -> list[str]:
    """Every label without its receipt, sorted."""
    return sorted(
        f"{row.prompt[-1].content} {row.chosen[-1].content} {row.prob_chosen:.6f}"
        for row in read_preferences(labels)
    )


def test_an_array_labels_as_one_process_does_and_a_second_one_finds_all_done(
    cluster: dict[str, str], samples: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    given = JUDGE | {"SAMPLES": str(samples), "OUT": str(out), "TASKS": "2", "ROWS": str(ROWS)}
    given["RLAIF_SERVE_ENGINE"] = "planted"
    assert len(submit(cluster, SLURM / "submit-labels.sh", **given)) == 3
    assert look(out / "labels").there == look(out / "labels").shards == 2 * PROMPTS // ROWS
    assert texts(out / "labels") == alone(samples, tmp_path / "alone")
    before = {file: file.stat().st_mtime_ns for file in (out / "labels").glob("*.parquet")}
    submit(cluster, SLURM / "submit-labels.sh", **given)
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_workers_on_ray_label_as_one_process_does(
    cluster: dict[str, str], samples: Path, tmp_path: Path
) -> None:
    """One node with two GPUs, which are only a number to Ray. A second node on the same host does
    not stay up beside it; tests/deploy/test_slurm.py has the command lines of two nodes."""
    pytest.importorskip("ray")
    out = tmp_path / "run"
    rlaif.split_shards(samples, out=out / "samples", rows=ROWS)
    command = ("sbatch", "--nodes=1", "--gpus-per-node=2", "--cpus-per-task=2")
    submit(cluster, *command, SLURM / "label-ray.sbatch", **JUDGE, OUT=str(out))
    assert texts(out / "labels") == alone(samples, tmp_path / "alone")


def test_two_nodes_train_one_policy(cluster: dict[str, str], tmp_path: Path) -> None:
    model, pairs, out = tmp_path / "model", tmp_path / "pairs.jsonl", tmp_path / "dpo"
    save_tiny_model(model)
    rows = [
        {"prompt": f"Say {n}.", "chosen": f"It is {n}.", "rejected": "No.", "prob_chosen": 0.9}
        for n in range(8)
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ("epochs=1", "batch_size=4", "max_tokens=100", "dtype=float32")
    submit(
        cluster,
        "sbatch", "--nodes=2", "--gpus-per-node=1", SLURM / "train.sbatch",
        "dpo", pairs, "--model", model, "--out", out, *settings,
    )  # fmt: skip
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps if "loss" in step] == [1, 2]
