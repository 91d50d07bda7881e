"""`rlaif train … --help` lists every setting, generated from the configs."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.dpo.losses import LOSSES
from rlaif.algorithms.dpo.losses.base import Loss
from rlaif.algorithms.ppo.config import PPOConfig
from rlaif.algorithms.rest.config import ReSTConfig
from rlaif.algorithms.reward.config import RewardConfig
from rlaif.algorithms.sft.config import SFTConfig
from rlaif.cli.main import app
from rlaif.cli.settings_help import TITLE
from rlaif.generation.config import SamplingConfig
from rlaif.settings import SettingsModel
from rlaif.settings_rows import SettingRow, setting_rows, variant_rows

CONFIGS: dict[str, type[SettingsModel]] = {
    "train sft": SFTConfig,
    "train reward": RewardConfig,
    "train dpo": DPOConfig,
    "train ppo": PPOConfig,
    "train rest": ReSTConfig,
    "sample": SamplingConfig,
}
UNITS = (
    "processes", "passes", "pairs", "rows", "prompts", "responses", "tokens", "dimensions", "steps",
    "iterations", "rollouts", "checkpoints", "evaluations", "quantiles", "nats?", "GiB", "GPUs",
    "share", "factor", "weight", "probability", "discount", "ratio", "norm", "step size", "score",
    "seed",
)  # fmt: skip
UNIT = re.compile(rf"\b({'|'.join(UNITS)})\b", re.IGNORECASE)
SOURCE = re.compile(r"\((ours|TRL|arXiv:\d{4}\.\d{5})\b[^()]*\)$")


def help_of(command: str) -> str:
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0, result.output
    return result.output


def widest_line(command: str, columns: int) -> int:
    """Of the command's help, printed by itself: CliRunner forces a width of its own."""
    asked = [sys.executable, "-m", "rlaif", *command.split(), "--help"]
    environment = os.environ | {"COLUMNS": str(columns)}
    done = subprocess.run(asked, capture_output=True, text=True, check=True, env=environment)
    return max(map(len, done.stdout.splitlines()))


def all_rows() -> list[tuple[str, SettingRow]]:
    rows = []
    for command, config in CONFIGS.items():
        rows += [(command, row) for row in setting_rows(config)]
        rows += [(command, row) for own in variant_rows(config).values() for row in own]
    return rows


@pytest.mark.parametrize("command", CONFIGS)
def test_help_lists_every_setting_with_type_and_default(command: str) -> None:
    shown = squeezed(help_of(command).partition(TITLE)[2])
    for row in setting_rows(CONFIGS[command]):
        expected = f"{row.key} {row.description} [{row.type}; default: {row.default}]"
        assert squeezed(expected) in shown


def squeezed(text: str) -> str:
    """Without white space: lines also break after hyphens."""
    return "".join(text.split())


def test_help_lists_the_own_settings_of_every_loss() -> None:
    shown = " ".join(help_of("train dpo").split())
    assert "Settings with loss=robust: label_noise share of labels that are flipped" in shown
    assert "[number > 0, < 0.5; required]" in shown
    assert "Settings with loss=sigmoid_norm: beta factor of the log-ratio per token" in shown
    assert "(arXiv:2411.15124: 5) [number > 0; default: 5]" in shown
    assert f"[one of {', '.join(LOSSES)}; default: soft_sigmoid]" in shown


def test_a_new_loss_shows_in_help_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    robust = LOSSES["robust"]
    monkeypatch.setitem(LOSSES, "mine", Loss(robust.compute, robust.config))
    shown = help_of("train dpo")
    assert "Settings with loss=mine" in shown
    assert "mine; default: soft_sigmoid]" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("command", "row"), all_rows(), ids=lambda value: getattr(value, "key", value)
)
def test_every_setting_says_its_unit_and_where_its_default_comes_from(
    command: str, row: SettingRow
) -> None:
    assert SOURCE.search(row.description), f"{command} {row.key}: {row.description}"
    if row.type.startswith(("integer", "number", "list of: number")):
        said = SOURCE.sub("", row.description)
        assert UNIT.search(said) or " range of " in f" {said}", f"{command} {row.key}: {said}"


@pytest.mark.parametrize("columns", [60, 80, 110])
def test_help_fits_the_columns(columns: int) -> None:
    widest = [widest_line(command, columns) for command in CONFIGS]
    assert max(widest) <= columns
    assert max(widest) > columns - 10, "the width is used"


def test_help_with_settings_imports_no_torch() -> None:
    code = (
        "import sys; from rlaif.cli.main import app\n"
        "try: app(['train', 'ppo', '--help'])\n"
        "finally: print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("False False")


def test_types_are_named_in_words() -> None:
    types = {row.key: row.type for row in setting_rows(PPOConfig)}
    assert types["kl_target"] == "number > 0, or null"
    assert types["value"] == "head or adapter"
    assert types["dtype"] == "one of auto, float32, bfloat16"
    assert types["gamma"] == "number ≥ 0, ≤ 1"
    assert types["lora.targets"] == "text or list of: text"
    assert types["trackers"] == "list of: tensorboard or wandb"


def test_own_settings_come_before_inherited_ones() -> None:
    keys = [row.key for row in setting_rows(DPOConfig)]
    assert keys[:5] == ["learning_rate", "epochs", "batch_size", "beta", "loss"]
    assert keys.index("keep") < keys.index("seed") < keys.index("lora.rank")
