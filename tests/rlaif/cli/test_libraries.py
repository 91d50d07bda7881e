"""Commands print our progress and no other library's; the output is as wide as COLUMNS says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlaif.cli.libraries import LIBRARY_BARS, settle
from rlaif.cli.options import PIPED_COLUMNS, output
from rlaif.data.records import write_jsonl
from tests.support.training.pairs import preference

BARS = """
import sys
from rlaif.cli.main import main
sys.argv = ["rlaif", "models", "list"]
try:
    main()
except SystemExit:
    pass
import datasets, tqdm, transformers.utils.logging as transformers_logging
from huggingface_hub.utils import tqdm as hub_tqdm
list(tqdm.tqdm(range(3), desc="tqdm"))
list(hub_tqdm(range(3), desc="hub"))
list(transformers_logging.tqdm(range(3), desc="transformers"))
datasets.Dataset.from_dict({"a": [1, 2, 3]}).map(lambda row: row, desc="datasets")
"""
DRAWN = "100%|"


def environment(**more: str) -> dict[str, str]:
    bars = {"TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"}
    kept = {name: value for name, value in os.environ.items() if name not in bars}
    return kept | {"HF_HUB_OFFLINE": "1"} | more


def stderr_of(*command: str, **more: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], env=environment(**more), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_the_bars_of_other_libraries_are_silent_in_a_command_unless_asked_for() -> None:
    assert DRAWN not in stderr_of("-c", BARS)
    asked = stderr_of("-c", BARS, **{LIBRARY_BARS: "1"})
    assert asked.count(DRAWN) == 4, asked


def test_a_training_prints_no_bar_of_another_library(tiny_model: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", [preference(i, f"Yes {i}", "No") for i in range(2)])
    command = [
        "-m",
        "rlaif",
        "train",
        "dpo",
        str(tmp_path / "pairs.jsonl"),
        "batch_size=2",
        "max_tokens=64",
    ]
    command += ["--model", tiny_model]
    stderr = stderr_of(*command, "--out", str(tmp_path / "dpo"))
    assert "DPO: 2/2 steps" in stderr  # our own line
    assert DRAWN not in stderr


def test_what_the_user_has_set_stays() -> None:
    given = {"HF_HUB_DISABLE_PROGRESS_BARS": "0", "GOMP_SPINCOUNT": "7"}
    settled = dict(given)
    settle(settled)
    assert settled.items() > given.items()
    assert settled["TQDM_DISABLE"] == "1"
    asked = {LIBRARY_BARS: "1"}
    settle(asked)
    assert "HF_HUB_DISABLE_PROGRESS_BARS" not in asked
    assert asked["VLLM_NO_USAGE_STATS"] == "1"


@pytest.mark.parametrize(
    ("columns", "width"),
    [("60", 60), ("200", 200), ("", PIPED_COLUMNS), ("0", PIPED_COLUMNS), ("wide", PIPED_COLUMNS)],
)
def test_piped_output_is_as_wide_as_columns_says(
    columns: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert output().width == width


def test_a_piped_sentence_is_one_line_where_columns_is_not_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    sentence = "written to " + "/a/folder/with/a/long/name" * 9
    output().print(sentence)
    assert capsys.readouterr().out == sentence + "\n"


def test_a_piped_table_fits_into_columns() -> None:
    command = [sys.executable, "-m", "rlaif", "constitution", "show", "hhh"]
    for columns in (70, 100):
        done = subprocess.run(
            command, env=os.environ | {"COLUMNS": str(columns)}, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        widest = max(map(len, done.stdout.splitlines()))
        assert columns - 10 <= widest <= columns


def test_json_is_one_line_whatever_columns_says() -> None:
    command = [sys.executable, "-m", "rlaif", "constitution", "show", "hhh", "--json"]
    done = subprocess.run(
        command, env=os.environ | {"COLUMNS": "40"}, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["name"] == "hhh"
