"""`rlaif train …`: SFT, reward model, DPO, PPO, ReST; alone or under `accelerate launch`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from constitution.errors import UserError
from rlaif.cli.options import OutFolder, Settings, output, report_split

if TYPE_CHECKING:
    from constitution import Constitution
    from rlaif.algorithms.ppo.evaluation import HeldOutJudge
    from rlaif.data.records import Preference, Prompt
    from rlaif.models.reward_model import RewardFunction
    from rlaif.rewards.base import OpenJudge
    from rlaif.settings import Config
    from rlaif.training.config import TrainConfig

app = typer.Typer(
    help="Train on labels. A killed run resumes when started again; for several GPUs: "
    "accelerate launch -m rlaif train … (docs/distributed.md).",
    no_args_is_help=True,
)


class Resume(StrEnum):
    """The values of --resume."""

    auto = "auto"
    never = "never"


Preferences = Annotated[Path, typer.Argument(help="preferences.parquet, or JSONL of the same.")]
Prompts = Annotated[str, typer.Argument(help="'quickstart' or a JSONL file of prompts.")]
Model = Annotated[str, typer.Option(help="The start: short name, folder or hub id.")]
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
    bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")
]


@app.command(
    epilog="Example: rlaif train sft revisions.jsonl --mix 0.2*books.jsonl --model smollm2-135m "
    "(the whole model: lora=null learning_rate=2e-5)"
)
def sft(
    lessons: Annotated[
        str,
        typer.Argument(
            help="Samples, demonstrations, preferences (the chosen response) or plain text: JSONL "
            "or Parquet.",
            metavar="FILE",
        ),
    ],
    model: Model,
    settings: Settings = None,
    mix: Annotated[
        list[str] | None,
        typer.Option(help="More to imitate: FILE or WEIGHT*FILE; may be repeated."),
    ] = None,
    heldout: HeldOut = None,
    out: OutFolder = Path("sft"),
    resume: ResumeOption = Resume.auto,
    dry_run: DryRun = False,
) -> None:
    """Supervised fine-tuning: imitate responses, from one file or a weighted mix."""
    from rlaif.algorithms.sft.config import SFTConfig
    from rlaif.algorithms.sft.sources import SFTSource
    from rlaif.data.datasets import read_lessons
    from rlaif.models import catalog

    config = _config(SFTConfig, settings, resume)
    sources = [SFTSource.read(text) for text in (lessons, *(mix or ()))]
    folder = catalog.resolve(model)
    if dry_run:
        counts = {source.name: len(source.records) for source in sources}
        rows = config.epochs * sum(counts.values())
        return _plan(config, out, counts, _steps(rows, config.batch_size, 1), "steps")
    from rlaif.algorithms.sft.train import train

    with _together("policy", out):
        train(config, folder, sources, out, read_lessons(heldout) if heldout else ())


@app.command(epilog="Example: rlaif train reward labels/preferences.parquet --model smollm2-135m")
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
        ),
    ] = "",
    heldout: HeldOut = None,
    out: OutFolder = Path("reward"),
    resume: ResumeOption = Resume.auto,
    dry_run: DryRun = False,
) -> None:
    """A reward model on soft labels: one head per trait, weighed by the constitution."""
    from rlaif.algorithms.reward.config import RewardConfig
    from rlaif.data.datasets import read_preferences
    from rlaif.models import catalog

    config = _config(RewardConfig, settings, resume)
    folder, pairs = catalog.resolve(model), read_preferences(preferences)
    weights = _constitution(constitution, pairs).trait_weights
    if dry_run:
        steps = _steps(len(pairs), config.batch_size, config.epochs)
        return _plan(config, out, {"pairs": len(pairs)}, steps, "steps")
    from rlaif.algorithms.reward.train import train

    with _together("reward model", out):
        train(config, folder, pairs, out, weights, read_preferences(heldout) if heldout else ())


@app.command(
    epilog="Example: rlaif train dpo labels/preferences.parquet --model smollm2-135m "
    "--eval heldout/preferences.parquet keep=best"
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
    from rlaif.algorithms.dpo.config import DPOConfig
    from rlaif.data.datasets import read_preferences
    from rlaif.models import catalog

    config = _config(DPOConfig, settings, resume)
    folder, pairs = catalog.resolve(model), read_preferences(preferences)
    if dry_run:
        steps = _steps(len(pairs), config.batch_size, config.epochs)
        return _plan(config, out, {"pairs": len(pairs)}, steps, "steps")
    from rlaif.algorithms.dpo.train import train

    with _together("policy", out):
        held = read_preferences(heldout) if heldout else ()
        train(config, folder, pairs, out, held, reference_cache)


@app.command(
    epilog="Example: rlaif train ppo quickstart --model smollm2-135m --reward runs/reward "
    "--reward 0.1*my_rewards:shorter iterations=50"
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
    from rlaif.algorithms.ppo.config import PPOConfig
    from rlaif.models import catalog

    config = _config(PPOConfig, settings, resume)
    folder, train_prompts = catalog.resolve(model), _train_split(prompts)
    _check_rewards(rewards)
    if bool(judge) != (start is not None):
        raise UserError("--judge compares with --start: give both, or neither")
    if dry_run:
        return _plan(config, out, {"prompts": len(train_prompts)}, config.iterations, "iterations")
    from rlaif.algorithms.ppo.train import train

    with (
        _together("policy", out),
        _scores(rewards) as score,
        _better_than(start, judge, out) as held_out_judge,
    ):
        train(config, folder, train_prompts, score, out, held_out_judge)


@app.command(
    epilog="Example: rlaif train rest quickstart --model smollm2-135m --reward runs/reward"
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
    from rlaif.algorithms.rest.config import ReSTConfig
    from rlaif.models import catalog

    config = _config(ReSTConfig, settings, resume)
    folder, train_prompts = catalog.resolve(model), _train_split(prompts)
    _check_rewards(rewards)
    if dry_run:
        stages = config.grow_steps * len(config.quantiles)
        counts = {"prompts": len(train_prompts), "responses each": config.samples_per_prompt}
        return _plan(config, out, counts, stages, "improve steps")
    from rlaif.algorithms.rest.train import train

    with _together("policy", out), _scores(rewards) as score:
        train(config, folder, train_prompts, score, out)


# ── shared by the commands ───────────────────────────────────────────────────────────────────


def _config(kind: type[Config], settings: list[str] | None, resume: Resume) -> Config:
    from rlaif.settings import configured

    return configured(kind, settings, {"resume": resume.value})


def _constitution(name: str, labels: Sequence[Preference]) -> Constitution:
    """The constitution of this name or file; "" finds the shipped one that made the labels, and is
    the default for labels without receipts. Raises UserError where that one does not ship."""
    from constitution import DEFAULT_CONSTITUTION, Constitution
    from rlaif.feedback.receipts import parse_receipt

    if name:
        return Constitution.load(name)
    first = next((label for label in labels if label.receipt), None)
    if first is None:
        return Constitution.load(DEFAULT_CONSTITUTION)
    origin = parse_receipt(first).provenance
    for shipped in map(Constitution.load, Constitution.library_names()):
        if shipped.digest == origin.constitution_sha256:
            return shipped
    raise UserError(
        f"the labels were made by {origin.constitution_name} {origin.constitution_version} "
        f"(sha256 {origin.constitution_sha256[:12]}), which does not ship; give its file with "
        "--constitution"
    )


def _train_split(source: str) -> list[Prompt]:
    """The prompts to train on; prints how a file without splits was split."""
    from rlaif.data.prompts import read_prompts

    prompts = read_prompts(source)
    report_split(prompts)
    return prompts.of("train")


@contextmanager
def _together(what: str, out: Path) -> Iterator[None]:
    """Joins the processes of one launch, and leaves them once the result is printed."""
    from rlaif.distributed.processes import ProcessGroup

    workers = ProcessGroup.current()
    yield
    if workers.is_main:
        output().print(f"{what}: {out}", highlight=False)
    workers.leave()


def _check_rewards(texts: Sequence[str]) -> None:
    from rlaif.rewards.sources import parse_source

    for text in texts:
        parse_source(text)


@contextmanager
def _scores(texts: Sequence[str]) -> Iterator[Path | RewardFunction]:
    """The reward: a reward model's folder if it is the only source, else a function."""
    from rlaif.rewards.sources import open_rewards, parse_source

    sources = [parse_source(text) for text in texts]
    if len(sources) == 1 and sources[0].kind == "folder" and sources[0].weight == 1:
        yield Path(sources[0].where)
        return
    judge: OpenJudge | None = None
    if any(source.kind == "judge" for source in sources):
        from rlaif.feedback.client import judge_reward

        judge = judge_reward
    with open_rewards(texts, judge) as score:
        yield score


@contextmanager
def _better_than(start: Path | None, server: str, out: Path) -> Iterator[HeldOutJudge | None]:
    """Mean P(better than the start's first response) by the judge that runs there."""
    if start is None:
        yield None
        return
    from rlaif.data.records import Sample, read_jsonl
    from rlaif.feedback.client import held_out_judge, judge_client
    from rlaif.feedback.labeler import comparer

    first = read_jsonl(start, Sample)
    with judge_client("", "", out / "judge.log", server) as client:
        yield held_out_judge(comparer(client, out / "answers.journal.jsonl"), first)


def _steps(records: int, batch_size: int, epochs: int) -> int:
    return epochs * -(-records // batch_size)


def _plan(config: TrainConfig, out: Path, counts: dict[str, int], steps: int, unit: str) -> None:
    """Print what training would do, from the records and the folder alone."""
    from rlaif.training.checkpoints import steps_in

    console = output()
    data = ", ".join(f"{count} {name}" for name, count in counts.items())
    console.print(f"{data}; {steps} {unit} if every record can be used", highlight=False)
    saved = steps_in(out / "checkpoints")
    if not saved:
        plan = f"{out}: no checkpoint; would start"
    elif config.resume == "never":
        plan = f"{out}: would start anew and remove its {len(saved)} checkpoints"
    else:
        plan = f"{out}: would continue after step {saved[-1]}, if its inputs are the same"
    console.print(plan, highlight=False, soft_wrap=True)
