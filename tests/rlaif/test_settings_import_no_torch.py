"""Settings are read without the libraries that train: `--help`, recipes and dry runs stay quick."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import rlaif.algorithms

HEAVY = ("torch", "transformers", "vllm", "accelerate", "peft", "datasets")
ALGORITHMS = Path(rlaif.algorithms.__file__).parent
CONFIGS = (
    *(
        f"rlaif.algorithms.{file.parent.name}.config"
        for file in sorted(ALGORITHMS.glob("*/config.py"))
    ),
    "rlaif.algorithms.dpo.losses",
    "rlaif.algorithms.ppo.estimators",
    "rlaif.models.lora_config",
    "rlaif.training.config",
    "rlaif.training.trackers",
    "rlaif.pipeline.recipe",
    "rlaif.pipeline.graph",
)


def loaded_after(code: str) -> str:
    """Which of the heavy libraries a fresh interpreter has loaded after `code`."""
    probe = f"import sys; print([name for name in {HEAVY} if name in sys.modules])"
    command = [sys.executable, "-c", f"{code}\n{probe}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("module", CONFIGS)
def test_a_config_module_imports_nothing_heavy(module: str) -> None:
    assert loaded_after(f"import {module}") == "[]"


def test_validating_the_settings_of_every_algorithm_imports_nothing_heavy() -> None:
    code = """
from pathlib import Path

from rlaif.pipeline.graph import build_graph
from rlaif.pipeline.recipe import Recipe

settings = ["dpo.loss=robust", "dpo.label_noise=0.1", "ppo.advantages=rloo", "ppo.group_size=2"]
build_graph(Recipe.load("cpu_study", settings), Path("run"))
"""
    assert loaded_after(code) == "[]"
