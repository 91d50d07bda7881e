"""Rollout workers as real processes: killed, killed with their trainer, and refused."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlaif.algorithms.ppo.train import train
from rlaif.generation.base import SamplingError
from rlaif.generation.remote.pool import WorkerPool
from rlaif.generation.remote.process import WorkerProcess, worker_environment
from rlaif.generation.remote.protocol import WorkerSpec
from tests.support.rollouts.ppo_with_workers import QUESTIONS
from tests.support.training.ppo_runs import count_x, metrics, small
from tests.support.training.tiny_model import save_tiny_model
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[3]
SUPPORT = ROOT / "tests" / "support" / "rollouts"
MODULE = b"rlaif.generation.remote.serve"


def workers_of(parent: int) -> list[int]:
    """Process ids of the rollout workers that a process started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            started_by = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
        if MODULE in command and started_by == parent:
            found.append(int(folder.name))
    return sorted(found)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_workers_die_with_a_killed_trainer_and_the_resumed_run_survives_a_killed_worker(
    tmp_path: Path,
) -> None:
    """The outcome is that of a run without workers: scores equal, the adapter within 1e-5."""
    torch.set_num_threads(1)
    model = save_tiny_model(tmp_path / "model")
    expected = train(small(iterations=3), model, QUESTIONS, count_x, tmp_path / "alone")

    out, reached = tmp_path / "workers", tmp_path / "reached"
    command = [sys.executable, "-m", "tests.support.rollouts.ppo_with_workers", model]
    with subprocess.Popen([*command, str(out), str(reached)]) as trainer:
        wait_until(lambda: reached.exists() or trainer.poll() is not None, 600)
        assert trainer.poll() is None
        orphans = workers_of(trainer.pid)
        assert len(orphans) == 2
        trainer.send_signal(signal.SIGKILL)
        trainer.wait()
        wait_until(lambda: all(map(gone, orphans)))
    assert [line["step"] for line in metrics(out)] == [1]

    killed: list[int] = []

    def kills_one(conversations: Any, responses: Sequence[str]) -> list[float | None]:
        if not killed:  # iteration 2 is drawn; the third one finds it dead
            killed.append(workers_of(os.getpid())[0])
            os.kill(killed[0], signal.SIGKILL)
        return count_x(conversations, responses)

    config = small(iterations=3, rollout_workers=2)
    found = train(config, model, QUESTIONS, kills_one, out)
    assert [line["score"] for line in metrics(found)] == [m["score"] for m in metrics(expected)]
    assert [line["rollout_restarts"] for line in metrics(found)] == [0, 0, 1]
    file = "adapter_model.safetensors"
    one, other = load_file(found / file), load_file(expected / file)
    for name in other:
        torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=0)
    assert not workers_of(os.getpid())


def test_two_sharded_processes_with_a_worker_each_score_as_one_process_without(
    tmp_path: Path,
) -> None:
    """All weights train and travel in files; the head is a weight of its own, sharded too."""
    torch.set_num_threads(1)
    model = untied(tmp_path / "model")
    full: dict[str, Any] = {"lora": None, "learning_rate": 1e-4}
    one = train(small(**full), model, QUESTIONS, count_x, tmp_path / "one")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--use_fsdp", "--fsdp_version=2",
        "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no",
        f"--main_process_port={port}", str(SUPPORT / "ppo_small.py"), model, str(tmp_path / "two"),
        json.dumps(full | {"rollout_workers": 1}),
    ]  # fmt: skip
    own = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, env=os.environ | own, cwd=ROOT, timeout=600)
    for found, expected in zip(metrics(tmp_path / "two"), metrics(one), strict=True):
        assert found["score"] == expected["score"]
        assert found["kl_k3"] == pytest.approx(expected["kl_k3"], abs=1e-5)
        assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)


def untied(folder: Path) -> str:
    """The tiny model, with a head that is not its embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = save_tiny_model(folder)
    config = LlamaConfig.from_pretrained(model)
    config.tie_word_embeddings = False
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(model)
    return model


def test_a_worker_whose_model_is_missing_says_so(tmp_path: Path) -> None:
    missing = str(tmp_path / "no-model")
    spec = WorkerSpec(missing, "transformers", "float32", None, 64, 0.1, "files", [2])
    worker = WorkerProcess(spec, tmp_path / "worker.log", worker_environment(os.environ, 1, None))
    with pytest.raises(SamplingError, match=r"rollout worker 0 could not start: .*no-model.*log"):
        WorkerPool([worker]).open()
    assert worker.pid is None
    assert not workers_of(os.getpid())
