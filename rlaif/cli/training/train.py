"""`rlaif train …`: SFT, reward model, DPO, PPO, ReST; alone or under `accelerate launch`."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlaif.cli import complete
from rlaif.cli.options import OutFolder, Prompts, Settings, output
from rlaif.cli.settings_help import command_with_settings
from rlaif.cli.training import prepare

if TYPE_CHECKING:
    from rlaif.api.plan import TrainingPlan

app = typer.Typer(
    help="Train on labels. A killed run resumes when started again; for several GPUs: "
    "accelerate launch -m rlaif train … (docs/distributed.md).",
    no_args_is_help=True,
)
app.add_typer(prepare.app, name="prepare")


class Resume(StrEnum):
    """The values of --resume."""

    auto = "auto"
    never = "never"


Preferences = Annotated[
    Path,
    typer.Argument(
        help="preferences.parquet, its folder, JSONL of the same, a folder of shards, or a corpus "
        "(rlaif train prepare)."
    ),
]
Model = Annotated[
    str,
    typer.Option(help="The start: short name, folder or hub id.", autocompletion=complete.models),
]
HeldOut = Annotated[
    Path | None,
    typer.Option("--eval", help="Held-out data of the same kind; its loss is logged."),
]
Rewards = Annotated[
    list[str],
    typer.Option(
        "--reward",
        help="What scores responses: a reward model's folder, judge:HOST:PORT or module:function; "
        "with a weight as 0.5*runs/reward. Given several times, the scores are added up.",
    ),
]
ResumeOption = Annotated[
    Resume,
    typer.Option(help="auto resumes; never starts from scratch and removes older checkpoints."),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print the settings, what would be done, and all that would be refused; do nothing.",
    ),
]


@app.command(
    cls=command_with_settings("rlaif.algorithms.sft.config:SFTConfig"),
    epilog="Example: rlaif train sft lessons.jsonl --mix 0.2*books.jsonl --model smollm2-135m "
    "(the whole model: lora=null)",
)
def sft(
    lessons: Annotated[
        str,
        typer.Argument(
            help="Samples, demonstrations, preferences (the chosen response) or plain text: JSONL "
            "or Parquet; a .txt file is one plain text.",
            metavar="FILE",
        ),
    ],
    model: Model,
    settings: Settings = None,
    mix: Annotated[
        list[str] | None,
        typer.Option(
            help="More to imitate: FILE, WEIGHT*FILE, or FIRST..LAST*FILE for a weight that moves "
            "over the run; may be repeated."
        ),
    ] = None,
    heldout: HeldOut = None,
    out: OutFolder = Path("sft"),
    resume: ResumeOption = Resume.auto,
    dry_run: DryRun = False,
) -> None:
    """Supervised fine-tuning: imitate responses, from one file or a weighted mix."""
    from rlaif.api.pairs import plan_sft, train_sft

    asked = _asked(settings, resume, model=model, mix=mix or (), heldout=heldout, out=out)
    _do(train_sft, plan_sft, dry_run, "policy", lessons, asked)


@app.command(
    cls=command_with_settings("rlaif.algorithms.reward.config:RewardConfig"),
    epilog="Example: rlaif train reward labels/preferences.parquet --model smollm2-135m",
)
def reward(
    preferences: Preferences,
    model: Model,
    settings: Settings = None,
    constitution: Annotated[
        str,
        typer.Option(
            "--constitution",
            "-c",
            help="Gives the traits their weights: a name, or a YAML file; by default the shipped "
            "one that the labels' receipts name.",
            autocompletion=complete.constitutions,
        ),
    ] = "",
    heldout: HeldOut = None,
    out: OutFolder = Path("reward"),
    resume: ResumeOption = Resume.auto,
    dry_run: DryRun = False,
) -> None:
    """A reward model on soft labels: a head for the label, and one per trait."""
    from rlaif.api.pairs import plan_reward, train_reward

    asked = _asked(
        settings, resume, model=model, constitution=constitution, heldout=heldout, out=out
    )
    _do(train_reward, plan_reward, dry_run, "reward model", preferences, asked)


@app.command(
    cls=command_with_settings("rlaif.algorithms.dpo.config:DPOConfig"),
    epilog="Example: rlaif train dpo labels/preferences.parquet --model smollm2-135m "
    "--eval heldout/preferences.parquet keep=best",
)
def dpo(
    preferences: Preferences,
    model: Model,
    settings: Settings = None,
    heldout: HeldOut = None,
    out: OutFolder = Path("dpo"),
    reference_cache: Annotated[
        Path | None,
        typer.Option(help="A folder of reference log-probs that several runs share."),
    ] = None,
    resume: ResumeOption = Resume.auto,
    dry_run: DryRun = False,
) -> None:
    """Direct preference optimization on soft labels (per-pair cDPO by default)."""
    from rlaif.api.pairs import plan_dpo, train_dpo

    asked = _asked(
        settings, resume, model=model, heldout=heldout, out=out, reference_cache=reference_cache
    )
    _do(train_dpo, plan_dpo, dry_run, "policy", preferences, asked)


@app.command(
    cls=command_with_settings("rlaif.algorithms.ppo.config:PPOConfig"),
    epilog="Example: rlaif train ppo quickstart --model smollm2-135m --reward runs/reward "
    "--reward 0.1*my_rewards:shorter iterations=50",
)
def ppo(
    prompts: Prompts,
    model: Model,
    rewards: Rewards,
    settings: Settings = None,
    judge: Annotated[
        str,
        typer.Option(
            help="A running judge server. Every eval_every iterations it compares the policy's "
            "responses to held-out prompts with the start's; when they get worse, the policy is "
            "rolled back to its best.",
            metavar="HOST:PORT",
        ),
    ] = "",
    start: Annotated[
        Path | None,
        typer.Option(help="With --judge: samples of the start on these prompts (rlaif sample)."),
    ] = None,
    out: OutFolder = Path("ppo"),
    resume: ResumeOption = Resume.auto,
    dry_run: DryRun = False,
) -> None:
    """Proximal policy optimization against scores, on the train split of the prompts."""
    from rlaif.api.rollouts import plan_ppo, train_ppo

    asked = _asked(
        settings, resume, model=model, reward=rewards, server=judge, start=start, out=out
    )
    _do(train_ppo, plan_ppo, dry_run, "policy", prompts, asked)


@app.command(
    cls=command_with_settings("rlaif.algorithms.rest.config:ReSTConfig"),
    epilog="Example: rlaif train rest quickstart --model smollm2-135m --reward runs/reward",
)
def rest(
    prompts: Prompts,
    model: Model,
    rewards: Rewards,
    settings: Settings = None,
    out: OutFolder = Path("rest"),
    resume: ResumeOption = Resume.auto,
    dry_run: DryRun = False,
) -> None:
    """ReST: sample, keep what scores best, imitate it; on the train split of the prompts."""
    from rlaif.api.rollouts import plan_rest, train_rest

    asked = _asked(settings, resume, model=model, reward=rewards, out=out)
    _do(train_rest, plan_rest, dry_run, "policy", prompts, asked)


def _asked(settings: list[str] | None, resume: Resume, **arguments: Any) -> dict[str, Any]:
    """A command's arguments as keywords of its function; key=value settings win over --resume."""
    return {**arguments, "config": settings or [], "resume": resume.value}


def _do(
    train: Callable[..., Path],
    plan: Callable[..., TrainingPlan],
    dry_run: bool,
    what: str,
    data: Path | str,
    asked: dict[str, Any],
) -> None:
    """Train, print the folder and leave the processes of one launch; or show the plan."""
    if dry_run:
        from rlaif.cli.training.dry_run import show_plan

        show_plan(plan(data, **asked).examined())
        return
    out = train(data, **asked)
    from rlaif.distributed.processes import ProcessGroup

    workers = ProcessGroup.current()
    if workers.is_main:
        output().print(f"{what}: {out}", highlight=False)
    workers.leave()
