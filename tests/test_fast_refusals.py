"""Mistakes, and dry runs of recipes, are answered before torch, transformers or vLLM is imported.

Those imports take ten seconds of CPU. What is looked at is `sys.modules`, not the clock.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "vllm", "datasets", "accelerate", "peft", "trl", "matplotlib")
RUN = f"""
import sys
from rlaif.cli.main import main
try:
    main()
finally:
    print("heavy:", [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
PAIR = {"prompt": "Say hello.", "chosen": "Hello.", "rejected": "No.", "prob_chosen": 0.9}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pairs.jsonl").write_text(json.dumps(PAIR) + "\n")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Say hello."}\n')
    (tmp_path / "bad.yaml").write_text("name: bad\npolicy: smollm2-135m\n")
    return tmp_path


def answer(command: str, folder: Path) -> tuple[int, str]:
    """(exit code, output) of `rlaif COMMAND` run in the folder; fails if it imports a heavy one."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *command.split()],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    output = done.stdout + done.stderr
    assert "heavy: []" in output, output
    return done.returncode, output


@pytest.mark.parametrize("recipe", ["quickstart", "cpu_study"])
def test_a_dry_run_says_what_would_be_done(recipe: str, folder: Path) -> None:
    code, output = answer(f"run {recipe} --dry-run", folder)
    assert code == 0, output
    assert "training the reward model on the soft labels" in output
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("run quickstrat", "did you mean 'quickstart'?"),
        ("run missing.yaml", "missing.yaml: cannot be read: No such file"),
        ("run bad.yaml", "stages: missing setting"),
        ("run quickstart ppo.iteratons=3", "unknown setting; did you mean 'iterations'?"),
        ("run quickstart dpo.loss=sigmod", "sigmod"),
        ("run quickstart policy=smollm", "unknown model 'smollm'"),
        ("run quickstart judge=qwen2.5", "unknown model 'qwen2.5'"),
        ("run quickstart prompts=missing.jsonl", "missing.jsonl: cannot be read (no such file)"),
        ("run quickstart constitution=hhhh", "did you mean 'hhh'?"),
        ("sample quickstrat --model smollm2-135m", "quickstrat"),
        ("sample prompts.jsonl --model smollm", "unknown model 'smollm'"),
        ("sample prompts.jsonl --model smollm2-135m tempature=1", "did you mean 'temperature'?"),
        ("label missing.jsonl --judge qwen2.5-coder-1.5b", "missing.jsonl: no such file"),
        ("train sft missing.jsonl --model smollm2-135m --out o", "missing.jsonl: no such file"),
        ("train sft pairs.jsonl --model smollm --out o", "unknown model 'smollm'"),
        ("train sft pairs.jsonl --model smollm2-135m --out o epoch=1", "did you mean 'epochs'?"),
        ("train reward missing.jsonl --model smollm2-135m --out o", "missing.jsonl: no such file"),
        ("train reward pairs.jsonl --model smollm --out o", "unknown model 'smollm'"),
        ("train reward pairs.jsonl --model smollm2-135m --out o epoch=1", "did you mean 'epochs'?"),
        ("train dpo missing.jsonl --model smollm2-135m --out o", "missing.jsonl: no such file"),
        ("train dpo pairs.jsonl --model smollm --out o", "unknown model 'smollm'"),
        ("train dpo pairs.jsonl --model smollm2-135m --out o bta=1", "did you mean 'beta'?"),
        ("train ppo missing.jsonl --model smollm2-135m --reward r --out o", "missing.jsonl"),
        ("train ppo prompts.jsonl --model smollm --reward r --out o", "unknown model 'smollm'"),
        ("train ppo prompts.jsonl --model smollm2-135m --reward r --out o", "'r'"),
        ("train rest missing.jsonl --model smollm2-135m --reward r --out o", "missing.jsonl"),
        ("train rest prompts.jsonl --model smollm2-135m --reward r --out o", "'r'"),
        ("judge bench missing.jsonl --judge smollm2-135m", "missing.jsonl: no such file"),
        ("judge bench pairs.jsonl -c hhhh.yaml --judge smollm2-135m", "hhhh.yaml"),
        ("reward bench missing pairs.jsonl", "missing: not a reward model"),
        ("evaluate a=missing.jsonl --start s.jsonl --judge smollm2-135m", "no such file"),
        ("evaluate a=pairs.jsonl --start s.jsonl --judge x --until soon", "write settled"),
        ("evaluate a=pairs.jsonl --start s.jsonl --judge x --human h.jsonl", "h.jsonl"),
        ("labels stats missing.parquet", "missing.parquet"),
        ("labels show missing.parquet x", "missing.parquet"),
        ("models merge smollm2-135m missing --out o", "missing"),
        ("models fetch smollm", "smollm"),
        ("report missing", "no such folder: missing"),
        ("constitution lint hhhh", "did you mean 'hhh'?"),
        ("serve --model smollm", "unknown model 'smollm'"),
        ("serve --model smollm2-135m --constitution hhhh", "did you mean 'hhh'?"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_at_once(command: str, message: str, folder: Path) -> None:
    code, output = answer(command, folder)
    assert code in (1, 2), output
    assert message in output
    assert "Traceback" not in output
