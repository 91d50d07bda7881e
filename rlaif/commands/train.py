"""`rlaif train …`: reward model, DPO, PPO."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlaif.commands import ConstitutionName, OutFolder, Settings, configured, output

app = typer.Typer(help="Train on labels.", no_args_is_help=True)

Preferences = Annotated[Path, typer.Argument(help="preferences.parquet, or JSONL of the same.")]
Model = Annotated[str, typer.Option(help="The start: short name, folder or hub id.")]


@app.command(epilog="Example: rlaif train reward labels/preferences.parquet --model smollm2-135m")
def reward(
    preferences: Preferences,
    model: Model,
    settings: Settings = None,
    constitution: ConstitutionName = "hhh",
    out: OutFolder = Path("reward"),
) -> None:
    """A reward model on soft labels: one head per trait, weighed by the constitution."""
    from constitution import Constitution
    from rlaif import models
    from rlaif.records import read_preferences
    from rlaif.reward_model import RewardConfig, train

    train(
        configured(RewardConfig, settings, {}),
        models.resolve(model),
        read_preferences(preferences),
        out,
        trait_weights=Constitution.load(constitution).trait_weights,
    )
    output().print(f"reward model: {out}", highlight=False)


@app.command(epilog="Example: rlaif train dpo labels/preferences.parquet --model smollm2-135m")
def dpo(
    preferences: Preferences, model: Model, settings: Settings = None, out: OutFolder = Path("dpo")
) -> None:
    """Direct preference optimisation on soft labels (per-pair cDPO by default)."""
    from rlaif import models
    from rlaif.dpo import DPOConfig, train
    from rlaif.records import read_preferences

    config = configured(DPOConfig, settings, {})
    train(config, models.resolve(model), read_preferences(preferences), out)
    output().print(f"policy adapter: {out}", highlight=False)


@app.command(epilog="Example: rlaif train ppo quickstart --model smollm2-135m --reward reward")
def ppo(
    prompts: Annotated[str, typer.Argument(help="'quickstart' or a JSONL file of prompts.")],
    model: Model,
    reward: Annotated[Path, typer.Option(help="The folder of a reward model.")],
    settings: Settings = None,
    out: OutFolder = Path("ppo"),
) -> None:
    """Proximal policy optimisation against a reward model, on the train split of the prompts."""
    from rlaif import models
    from rlaif.ppo import PPOConfig, train
    from rlaif.prompts import load_prompts

    config = configured(PPOConfig, settings, {})
    train(config, models.resolve(model), load_prompts(prompts, "train"), reward, out)
    output().print(f"policy adapter: {out}", highlight=False)
