"""The quickstart script and notebook run to their end as they are written.

The policy is a tiny model with random weights. The judge is a real server on a real socket, over
the tests' fake engine, which prefers the longer response: what it judges means nothing here.
"""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlaif.evaluation.policies import EvaluationResult
from tests.support.fakes import FakeEngine
from tests.support.service.thread_server import serving_in_thread
from tests.support.training.sampling_here import sampling_here

__all__ = ["sampling_here"]  # a fixture

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FILES = (
    "samples.jsonl", "labels/preferences.parquet", "reward/reward.json",
    "dpo/adapter_model.safetensors", "dpo-model/config.json", "start.jsonl", "dpo.jsonl",
)  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving_in_thread(FakeEngine(), constitutions=("overall",)) as (address, _):
        yield address


@pytest.fixture
def model(tiny_model: str, tmp_path: Path) -> str:
    """The tiny model with room for the prompts that ship."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2048}))
    return str(folder)


def require_results(out: Path) -> None:
    assert not [name for name in FILES if not (out / name).is_file()]
    result = EvaluationResult.load(out / "evaluation" / "evaluation.json")
    assert [policy.name for policy in result.policies] == ["start", "dpo"]
    assert len(result.prompts) == 3


def code_cells() -> list[str]:
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def script(model: str, server: str, out: Path) -> list[str]:
    asked = f"--model {model} --server {server} --prompts 6 --engine transformers --out {out}"
    return [str(EXAMPLES / "quickstart.py"), *asked.split()]


def test_the_quickstart_script_runs(
    server: str, model: str, tmp_path: Path, monkeypatch, capsys, sampling_here: None
) -> None:
    monkeypatch.setattr("sys.argv", script(model, server, tmp_path))
    runpy.run_path(str(EXAMPLES / "quickstart.py"), run_name="__main__")
    require_results(tmp_path)
    printed = capsys.readouterr().out
    assert "6 labels, mean P(chosen) 0." in printed
    assert "dpo wins against the start: " in printed


@pytest.mark.integration
def test_the_quickstart_script_resumes_by_itself(server: str, model: str, tmp_path: Path) -> None:
    command = [sys.executable, *script(model, server, tmp_path)]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    metrics = (tmp_path / "dpo" / "metrics.jsonl").read_text()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout == first.stdout
    assert (tmp_path / "dpo" / "metrics.jsonl").read_text() == metrics, "nothing is trained again"
    require_results(tmp_path)


def test_the_notebooks_cells_run_in_order(
    server: str, model: str, tmp_path: Path, monkeypatch, sampling_here: None
) -> None:
    for name, value in (
        ("MODEL", model), ("SERVER", server), ("PROMPTS", "6"), ("ENGINE", "transformers"),
        ("OUT", str(tmp_path)),
    ):  # fmt: skip
        monkeypatch.setenv(f"QUICKSTART_{name}", value)
    names: dict[str, object] = {}
    for place, cell in enumerate(code_cells()):
        exec(compile(cell, f"quickstart.ipynb, cell {place}", "exec"), names)
    require_results(tmp_path)


def test_the_notebook_is_short_and_holds_no_output() -> None:
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    lines = [line for cell in code_cells() for line in cell.splitlines() if line.strip()]
    assert len(lines) <= 35


@pytest.mark.parametrize("name", ["MODEL", "JUDGE", "SERVER", "PROMPTS", "ENGINE", "OUT"])
def test_every_variable_of_the_notebook_is_read(name: str) -> None:
    assert f'"QUICKSTART_{name}"' in "".join(code_cells())
