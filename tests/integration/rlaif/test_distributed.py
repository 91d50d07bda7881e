"""Two processes over gloo on the CPU, started by accelerate, each with the whole model or sharded
(FSDP2): the gradient, and the run's folder, of one process.

With RLAIF_FULL=1 also weights that stay gathered until backward, and every trainer's errors.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rlaif.data.records import write_jsonl
from rlaif.models.backbone import Backbone
from tests.rlaif.conftest import make_tiny_model, tiny_model  # noqa: F401
from tests.rlaif.rewards.test_sources import reward_folder
from tests.support.training.two_processes import PAIRS

pytestmark = pytest.mark.integration

FULL = os.environ.get("RLAIF_FULL") == "1"
ROOT = Path(__file__).parents[3]
WHOLE = ("--multi_gpu",)
SHARDED = ("--use_fsdp", "--fsdp_version=2")


def launch(*arguments: str, how: tuple[str, ...] = WHOLE) -> subprocess.CompletedProcess[str]:
    """`accelerate launch … ARGUMENTS` where no GPU is seen: two processes meet over gloo."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "accelerate.commands.launch", *how,
        "--num_processes=2", "--num_machines=1", "--mixed_precision=no",
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


def one_and_two(model, folder, names, how):
    """The records of two_processes.py for each trainer, (alone, in two processes)."""
    script = "tests/support/training/two_processes.py"
    for each, run in (("one", alone), ("two", partial(launch, how=how))):
        (folder / each).mkdir()
        done = run(script, model, str(folder / each), *names)
        assert done.returncode == 0, done.stderr
    return {n: [torch.load(folder / f / f"{n}.pt") for f in ("one", "two")] for n in names}


def assert_same_gradients(name, one, two):
    assert len(one) == len(two) == 2
    for step, (of_one, of_two) in enumerate(zip(one, two, strict=True), start=1):
        assert of_one.keys() == of_two.keys()
        norm = torch.stack([g.norm() for g in of_one.values()]).norm()
        assert norm > 0.1
        for parameter, gradient in of_one.items():
            apart = (of_two[parameter] - gradient).abs().max()
            assert apart <= 1e-6 * norm, f"{name}, step {step}, {parameter}: {apart}"


def test_two_processes_compute_the_gradient_of_one(tiny_model, tmp_path):  # noqa: F811
    names = ("reward", "dpo", "dpo-full", "ppo", "ppo-grouped", "ppo-few", "ppo-few-adapter")
    for name, (one, two) in one_and_two(tiny_model, tmp_path, names, WHOLE).items():
        assert_same_gradients(name, one["gradients"], two["gradients"])
        assert two["held"] == 2 * one["held"]


def assert_sharded_like_the_one(folder, results):
    for name, (one, two) in results.items():
        assert_same_gradients(name, one["gradients"], two["gradients"])
        [alone_bytes] = one["held"]
        if "full" not in name:  # adapters are in both; what is cut is the frozen base
            assert two["held"] == 2 * one["held"]
        elif "adapter" not in name:  # as are a reward model's or a value function's heads
            assert all(0.49 * alone_bytes < held < 0.51 * alone_bytes for held in two["held"])
        assert all(0.49 * whole < cut < 0.51 * whole for whole, cut in two["base"])
        saved = [load_file(path) for path in sorted(folder.glob(f"*/{name}/*model.safetensors"))]
        assert len(saved) == 2
        assert saved[0].keys() == saved[1].keys()
        for tensor, value in saved[0].items():
            torch.testing.assert_close(saved[1][tensor], value, atol=1e-6, rtol=0)
        for file in ("config.json", "generation_config.json") if "full" in name else ():
            ours, theirs = (folder / each / name / file for each in ("one", "two"))
            assert ours.read_text() == theirs.read_text()


def test_two_sharded_processes_compute_the_gradient_of_one_and_hold_half_each(
    tiny_model,  # noqa: F811
    tmp_path,
):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.flip(0))
    shutil.copytree(tiny_model, f"{tiny_model}-untied")
    model.save_pretrained(f"{tiny_model}-untied")
    names = (
        "sft", "sft-full", "sft-untied", "reward", "reward-full", "dpo", "dpo-full",
        "dpo-full-untied", "dpo-recomputing", "sft-full-recomputing",
    )  # fmt: skip
    results = one_and_two(tiny_model, tmp_path, names, SHARDED)
    assert_sharded_like_the_one(tmp_path, results)


SAMPLING = (
    "rest", "rest-full-scored", "ppo", "ppo-grouped", "ppo-scored-adapter", "ppo-full-guarded",
    "ppo-full-scored-adapter", "ppo-full-scored-adapter-recomputing", "ppo-few-adapter",
)  # fmt: skip


@pytest.mark.parametrize(
    ("reshard", "names"), [("true", SAMPLING), ("false", SAMPLING[5:] if FULL else SAMPLING[5:6])]
)
def test_sharded_processes_that_sample_compute_the_updates_of_one(
    reshard,
    names,
    tiny_model,  # noqa: F811
    tmp_path,
):
    """Scored by a reward model's folder, or by a function that reads a model of its own."""
    reward_folder(Backbone.load(tiny_model, "float32"), Path(f"{tiny_model}-reward"), 0)
    how = (*SHARDED, f"--fsdp_reshard_after_forward={reshard}")
    results = one_and_two(tiny_model, tmp_path, names, how)
    assert_sharded_like_the_one(tmp_path, results)
    for folder in ("one", "two"):
        lines = (tmp_path / folder / "ppo-full-guarded" / "metrics.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in lines]
        assert [(line["kl_guard"], line["rollback"]) for line in entries] == [(1, 0), (1, 1)]


def test_a_reward_model_that_a_users_function_loads_is_whole_in_every_process(
    tiny_model,  # noqa: F811
    tmp_path,
):
    """Although the trainers' own models are read in one process only; lazy: when the first of the
    processes scores, while the other has nothing to."""
    reward_folder(Backbone.load(tiny_model, "float32"), Path(f"{tiny_model}-reward"), 0)
    how = (*SHARDED, "--fsdp_cpu_ram_efficient_loading=true")
    results = one_and_two(tiny_model, tmp_path, ("ppo-own", "rest-lazy"), how)
    assert_sharded_like_the_one(tmp_path, results)


def test_two_processes_write_one_run_that_one_process_can_resume(tiny_model, tmp_path):  # noqa: F811
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


MORE_ERRORS = (
    ("sft", "SFT, step 1: the loss is nan", "SFT, step 1: the loss is nan"),
    ("reward", "reward model, step 1: the loss is nan", "reward model, step 1: the loss is"),
    ("ppo", "iteration 1: the policy loss is nan", "iteration 1: the policy loss is nan"),
)


@pytest.mark.parametrize(
    ("what", "of_main", "of_other"),
    [
        ("dpo", "DPO, step 1: the loss is nan", "DPO, step 1: the loss is nan"),
        ("dpo-reference", "process 1 of 2 stopped, and so do the others: the ref", "the reference"),
        ("ppo-reward", "process 1 of 2 stopped, and so do the others: PPO, iter", "out of memory"),
        ("ppo-judge", "the judge is away", "process 0 of 2 stopped, and so do the others: PPO"),
        ("disk", "metrics.jsonl: cannot be", "process 0 of 2 stopped, and so do the others: "),
        *(MORE_ERRORS if FULL else ()),
    ],
)
def test_an_error_of_one_process_stops_both_in_words(what, of_main, of_other, tiny_model, tmp_path):  # noqa: F811
    script = "tests/support/one_raises.py"
    done = launch(script, what, tiny_model, str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    said = dict(line[1:].split("] ", 1) for line in done.stdout.splitlines() if line[:1] == "[")
    assert of_main in said["0"]
    assert of_other in said["1"]


CONFIG = """\
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
fsdp_config:
  fsdp_version: 2
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_cpu_ram_efficient_loading: true
  fsdp_offload_params: false
  fsdp_reshard_after_forward: false
  fsdp_state_dict_type: FULL_STATE_DICT
"""


def test_a_sharded_run_resumes_unsharded_and_the_other_way_round(tiny_model, tmp_path):  # noqa: F811
    """By a config file of accelerate, with the weights kept gathered until backward; the last
    batch of an epoch has one row or two, so one process may have none."""
    pairs = [pair.model_copy(update={"traits": {}}) for pair in PAIRS]  # one head, "overall"
    write_jsonl(tmp_path / "pairs.jsonl", pairs[2:])
    write_jsonl(tmp_path / "heldout.jsonl", pairs[:2])
    (tmp_path / "fsdp.yaml").write_text(CONFIG)
    sharded = partial(launch, how=(f"--config_file={tmp_path / 'fsdp.yaml'}",))

    def command(out: str) -> list[str]:
        return [
            "-m", "rlaif", "train", "reward", str(tmp_path / "pairs.jsonl"), 
            "--eval", str(tmp_path / "heldout.jsonl"), "--model", tiny_model, "--out",
            str(tmp_path / out), "dtype=float32", "lora=null", "max_tokens=120", "epochs=2",
            "batch_size=3", "checkpoint_every=1", "keep_checkpoints=6", "eval_every=2", "keep=best",
            "learning_rate=1e-4",
        ]  # fmt: skip

    def metrics(out: str) -> list[dict[str, float]]:
        lines = (tmp_path / out / "metrics.jsonl").read_text().splitlines()
        watched = ("step", "loss", "grad_norm", "heldout_loss")
        return [{k: v for k, v in json.loads(line).items() if k in watched} for line in lines]

    def assert_like_the_one_alone(out: str) -> None:
        for ours, theirs in zip(metrics(out), metrics("alone"), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
        for file in ("model.safetensors", "heads.safetensors"):
            one, two = (load_file(tmp_path / folder / file) for folder in ("alone", out))
            assert one.keys() == two.keys()
            for name, value in one.items():
                torch.testing.assert_close(two[name], value, atol=1e-4, rtol=1e-4)
        AutoModelForCausalLM.from_pretrained(tmp_path / out)

    for run, out in ((alone, "alone"), (sharded, "sharded")):
        done = run(*command(out))
        assert done.returncode == 0, done.stderr
    assert_like_the_one_alone("sharded")

    for run, out in ((sharded, "alone-then-sharded"), (alone, "sharded-then-alone")):
        begun = tmp_path / out
        shutil.copytree(tmp_path / out.split("-then-")[0], begun)
        for late in (begun / "checkpoints").iterdir():  # as if killed after step 3
            if late.name not in {f"step-00000{step}.pt" for step in (1, 2, 3)}:
                late.unlink()
        done = run(*command(out))
        assert done.returncode == 0, done.stderr
        assert_like_the_one_alone(out)
