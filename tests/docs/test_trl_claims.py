"""What settings and pages say of TRL's defaults is what TRL's config classes have."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.ppo.config import PPOConfig
from rlaif.algorithms.rest.config import ReSTConfig
from rlaif.algorithms.reward.config import RewardConfig
from rlaif.algorithms.sft.config import SFTConfig
from rlaif.settings_rows import own_names

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = (SFTConfig, RewardConfig, DPOConfig, PPOConfig, ReSTConfig)

# class and setting that name a default of TRL → the config classes that have it, and its name there
ALL = ("SFTConfig", "RewardConfig", "DPOConfig")
CLAIMS: dict[tuple[str, str], tuple[tuple[str, ...], str]] = {
    ("TrainConfig", "learning_rate"): (("SFTConfig",), "learning_rate"),
    ("TrainConfig", "schedule"): (ALL, "lr_scheduler_type"),
    ("TrainConfig", "weight_decay"): (ALL, "weight_decay"),
    ("TrainConfig", "max_grad_norm"): (ALL, "max_grad_norm"),
    ("TrainConfig", "max_tokens"): (ALL, "max_length"),
    ("SFTConfig", "batch_size"): (("SFTConfig",), "per_device_train_batch_size"),
    ("RewardConfig", "learning_rate"): (("RewardConfig",), "learning_rate"),
    ("RewardConfig", "batch_size"): (("RewardConfig",), "per_device_train_batch_size"),
    ("DPOConfig", "learning_rate"): (("DPOConfig",), "learning_rate"),
    ("DPOConfig", "batch_size"): (("DPOConfig",), "per_device_train_batch_size"),
    ("IPOMeanConfig", "beta"): (("DPOConfig",), "beta"),
}

# TRL 1.16 has no PPO. As in trl/experimental/ppo/ppo_config.py of 1.12.0's wheel; kl_horizon as in
# trl/trainer/ppo_config.py of 0.11.4's; the penalty as in its examples/scripts/ppo/ppo_tldr.py.
OF_PPO: dict[str, tuple[str, str]] = {
    "learning_rate": ("1.12", "3e-6"),
    "epochs": ("1.12", "4"),
    "update_batch_size": ("1.12", "all"),  # num_mini_batches = 1
    "kl_coef": ("1.12", "0.05"),
    "kl_horizon": ("0.11", "10000"),
    "gamma": ("1.12", "1"),
    "gae_lambda": ("1.12", "0.95"),
    "value_clip": ("1.12", "0.2"),
    "vf_coef": ("1.12", "0.1"),
    "missing_eos_penalty": ("1.12", "1"),
}


def described() -> dict[tuple[str, str], str]:
    """Descriptions that name TRL, by the class that defines the setting and the setting."""
    found: dict[tuple[str, str], str] = {}
    for config in (*CONFIGS, *DPOConfig.variants().values()):
        for base in config.__mro__:
            if issubclass(base, BaseModel) and base is not BaseModel:
                for name in own_names(base):
                    text = base.model_fields[name].description or ""
                    if "TRL" in text:
                        found[base.__name__, name] = text
    return found


DESCRIBED = described()


def claimed(text: str) -> str:
    match = re.search(
        r"TRL(?: [\d.]+)?(?:'s SFT)?(?:, transformers)?: ([\w.-]+\w)|TRL.*: (\d)", text
    )
    assert match, f"says no default of TRL: {text}"
    return match[1] or match[2]


def default(config: str, name: str) -> Any:
    trl = pytest.importorskip("trl")
    (value,) = (f.default for f in fields(getattr(trl, config)) if f.name == name)
    return getattr(value, "value", value)


def same(claim: str, value: Any) -> bool:
    return claim == value if isinstance(value, str) else float(claim) == value


def test_every_claim_is_checked_here() -> None:
    of_ppo = {("PPOConfig", name) for name in OF_PPO}
    assert DESCRIBED.keys() == CLAIMS.keys() | of_ppo


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_default_that_a_setting_ascribes_to_trl_is_trls(claim: tuple[str, str]) -> None:
    configs, name = CLAIMS[claim]
    for config in configs:
        assert same(claimed(DESCRIBED[claim]), default(config, name)), (claim, config)


@pytest.mark.parametrize("name", OF_PPO)
def test_a_default_that_ppo_ascribes_to_trl_names_its_version_and_is_that_versions(
    name: str,
) -> None:
    version, value = OF_PPO[name]
    text = DESCRIBED["PPOConfig", name]
    assert f"TRL {version}: " in text
    assert claimed(text) == value


def test_ppos_defaults_that_are_said_to_be_trls_are_ours_too() -> None:
    for name, (_, value) in OF_PPO.items():
        if "ours" not in DESCRIBED["PPOConfig", name]:
            assert PPOConfig.model_fields[name].default == float(value), name


@pytest.mark.parametrize(
    ("row", "config"),
    [("SFT, ReST", "SFTConfig"), ("reward model", "RewardConfig"), ("DPO", "DPOConfig")],
)
def test_the_learning_rates_of_the_guide_are_trls(row: str, config: str) -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    (line,) = (line for line in page.splitlines() if line.startswith(f"| {row} |"))
    (rate,) = re.findall(r"TRL 1\.16 \(([\d.e-]+)\)", line)
    assert float(rate) == default(config, "learning_rate")


def test_the_version_that_is_named_is_the_one_that_is_tested() -> None:
    trl = pytest.importorskip("trl")
    named = re.findall(r"TRL (1\.1[3-9])\b", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert {".".join(trl.__version__.split(".")[:2])} == set(named)
