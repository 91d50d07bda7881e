"""`rlaif train … --dry-run`: the settings in force, and everything refused at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.cli.main import app
from rlaif.cli.training.dry_run import settings_in_force
from rlaif.data.records import write_jsonl
from tests.support.training.pairs import preference, varied_pairs

WATCHED = """
import sys
from rlaif.cli.main import main
try:
    main()
finally:
    print("torch:", "torch" in sys.modules, file=sys.stderr)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pairs and prompts."""
    write_jsonl(tmp_path / "pairs.jsonl", varied_pairs())
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Say hello.", "split": "train"}\n')
    return tmp_path


def train(command: str, folder: Path) -> tuple[int, str]:
    """(exit code, output) of `rlaif train COMMAND` in the folder; fails if it imports torch."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, "train", *command.split()],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert "torch: False" in done.stderr, done.stdout + done.stderr
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("sft pairs.jsonl", "7 pairs; 2 steps"),
        ("dpo pairs.jsonl batch_size=2", "8 pairs; 8 steps"),
        ("ppo prompts.jsonl --reward json:dumps", "1 prompts; 100 iterations"),
        ("rest prompts.jsonl --reward json:dumps", "8 responses each; 3 improve steps"),
    ],
)
def test_a_dry_run_for_a_model_that_is_not_here_imports_no_torch_and_says_so(
    command: str, said: str, folder: Path
) -> None:
    code, output = train(f"{command} --model someone/elsewhere --dry-run", folder)
    assert code == 0, output
    assert f"{said} if every record can be used" in output
    assert (
        "the chat template and lengths were not checked: someone/elsewhere is not on this machine "
        "yet" in output
    )
    assert not [path for path in folder.iterdir() if path.name in ("sft", "dpo", "ppo", "rest")]


def test_a_dry_run_names_everything_refused_and_exits_with_1(folder: Path) -> None:
    (folder / "taken").touch()
    code, output = train(
        "dpo missing.jsonl --model smollm --eval gone.jsonl --out taken bta=1 epochs=0 "
        "lora.rnk=2 --dry-run",
        folder,
    )
    assert code == 1
    assert "would be refused, 7 problems:" in output
    for named in (
        "bta: unknown setting; did you mean 'beta'?", "epochs: Input should be greater",
        "lora.rnk: unknown setting; did you mean 'rank'?", "unknown model 'smollm'",
        "not a folder: taken", "missing.jsonl: no such file", "gone.jsonl: no such file",
    ):  # fmt: skip
        assert named in output
    assert "settings (" not in output, "settings that are refused are not in force"
    assert "the chat template and lengths were not checked: correct these first" in output


def test_a_dry_run_marks_what_differs_from_its_default(folder: Path) -> None:
    (folder / "pairs.jsonl").write_text('{"prompt": "a", "chosen": " ", "rejected": "b"}\n')
    code, output = train(
        "dpo pairs.jsonl --model someone/elsewhere beta=0.3 lora.rank=8 epochs=2 --dry-run", folder
    )
    assert code == 1
    assert "\n* beta=0.3\n" in output
    assert "\n* lora.rank=8\n" in output
    assert "\n  epochs=2\n" in output, "given, and the same as the default"
    assert "1 problem:" in output
    assert "1 of 2 responses are empty" in output


LABELED = {"prompt": "Say it.", "chosen": "Yes.", "rejected": "No."}


def write_pairs(folder: Path, *pairs: dict[str, object]) -> None:
    lines = [json.dumps({**LABELED, "id": str(n), **pair}) for n, pair in enumerate(pairs)]
    (folder / "pairs.jsonl").write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("command", "pair", "said"),
    [
        ("dpo loss=sigmoid", {"prob_chosen": 0.5}, "all 2 pairs are ties"),
        ("dpo cut_off=skip", {"chosen_complete": False}, "all 2 pairs hold a response"),
        ("reward label_kind=hard", {"prob_chosen": 0.5}, "none of the 2 pairs has a label"),
        ("sft cut_off=skip", {"chosen_complete": False}, "all 1 responses were cut off"),
        ("sft", {"prob_chosen": 0.5}, "all 2 labels are below min_prob_chosen"),
    ],
)
def test_a_dry_run_refuses_labels_of_which_nothing_is_left_to_train_on(
    command: str, pair: dict[str, object], said: str, folder: Path
) -> None:
    write_pairs(folder, pair, pair)
    algorithm, _, settings = command.partition(" ")
    code, output = train(
        f"{algorithm} pairs.jsonl --model someone/elsewhere --dry-run {settings}", folder
    )
    assert code == 1
    assert "1 problem:" in output
    assert said in output


def test_a_dry_run_counts_the_pairs_that_are_left_of_hard_labels_and_cut_responses(
    folder: Path,
) -> None:
    """Ties go first, then pairs with a response that was cut off: 6, 4, 3 of them."""
    cut_tie = {"prob_chosen": 0.5, "rejected_complete": False}
    write_pairs(
        folder, {"prob_chosen": 0.5}, cut_tie, {"prob_chosen": 0.2},
        {"chosen_complete": False}, {}, {"prob_chosen": 0.9},
    )  # fmt: skip
    code, output = train(
        "dpo pairs.jsonl --model someone/elsewhere --dry-run loss=sigmoid cut_off=skip "
        "batch_size=1 epochs=1",
        folder,
    )
    assert code == 0, output
    assert "pairs: 2 ties (prob_chosen ½) left out, 1 pairs with prob_chosen under ½" in output
    assert "1 of 4 pairs hold a response that was cut off by its length limit: left out" in output
    assert "3 pairs; 3 steps" in output


def test_a_dry_run_counts_the_pairs_that_have_a_label_with_a_side(folder: Path) -> None:
    write_pairs(folder, {"prob_chosen": 0.5}, {}, {"prob_chosen": 0.2, "chosen_complete": False})
    code, output = train(
        "reward pairs.jsonl --model someone/elsewhere --dry-run label_kind=hard cut_off=skip "
        "batch_size=1 epochs=2",
        folder,
    )
    assert code == 0, output
    assert "1 of 3 pairs hold a response that was cut off by its length limit: left out" in output
    assert "left out 1 records, among them\n  0: no label with a side" in output
    assert "1 pairs; 2 steps" in output


def test_a_dry_run_counts_the_records_that_sft_imitates(folder: Path) -> None:
    """Of six, one is unsure, one repeats the best of its prompt, one of the others is cut off."""
    for place, (fields, prompt) in enumerate(
        [({"prob_chosen": 0.5}, "a"), ({}, "b"), ({"rejected": "Never."}, "b"),
         ({"chosen_complete": False}, "c"), ({}, "d"), ({}, "e")]
    ):  # fmt: skip
        record = LABELED | {"id": str(place), "prompt": prompt} | fields
        with (folder / "six.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
    code, output = train(
        "sft six.jsonl --model someone/elsewhere --dry-run cut_off=skip batch_size=1 epochs=1",
        folder,
    )
    assert code == 0, output
    assert "six: left aside 1 preferences: prob_chosen is below min_prob_chosen=" in output
    assert "six: left aside 1 preferences: of the responses to a prompt only the best" in output
    assert (
        "six: 1 of 4 records hold a response that was cut off by its length limit: left" in output
    )
    assert "3 six; 3 steps" in output


def test_keep_best_is_refused_where_cut_off_leaves_no_held_out_pair(folder: Path) -> None:
    """It was an error at the end of the run: the best checkpoint is gone."""
    write_pairs(folder, {"rejected_complete": False, "prompt": "Held out."})
    (folder / "pairs.jsonl").rename(folder / "heldout.jsonl")
    write_pairs(folder, {}, {})
    code, output = train(
        "dpo pairs.jsonl --eval heldout.jsonl --model someone/elsewhere --dry-run cut_off=skip "
        "keep=best",
        folder,
    )
    assert code == 1
    assert "keep=best: all 1 held-out pairs hold a response that was cut off" in output


def test_settings_are_printed_as_they_are_typed() -> None:
    lines = settings_in_force(DPOConfig(loss="robust", label_noise=0.1, trackers=("wandb",)))
    assert {"* loss=robust", "* label_noise=0.1", "* trackers=[wandb]"} <= {*lines}
    assert "  eval_every=null" in lines
    assert "* lora=null" in settings_in_force(DPOConfig(lora=None))


def test_only_the_first_problems_are_printed_and_the_others_counted(
    tiny_model: str, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", [preference(n, "Yes.", "No.") for n in range(25)])
    asked = ["dpo", str(tmp_path / "pairs.jsonl"), "--model", tiny_model, "max_tokens=10"]
    found = CliRunner().invoke(app, ["train", *asked, "--dry-run"])
    assert found.exit_code == 1, found.output
    assert "would be refused, 25 problems:" in found.stdout
    assert found.stdout.count("do not fit in max_tokens=10") == 20
    assert found.stdout.rstrip().endswith("… and 5 more")
