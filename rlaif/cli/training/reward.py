"""`rlaif reward …`: reweigh and compare trained reward models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from constitution.errors import UserError
from rlaif.cli.options import AsJson, output

app = typer.Typer(help="Reweigh and compare trained reward models.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="The folder written by rlaif train reward.")]


@app.command(epilog="Example: rlaif reward weigh runs/reward harmless=2 helpful=0.5")
def weigh(
    folder: Folder,
    weights: Annotated[
        list[str], typer.Argument(help="New trait weights.", metavar="TRAIT=WEIGHT...")
    ],
) -> None:
    """Change the trait weights of the overall score, without training again."""
    from rlaif.models.reward_model import reweigh

    wanted = {}
    for text in weights:
        trait, _, number = text.partition("=")
        try:
            wanted[trait] = float(number)
        except ValueError:
            raise UserError(
                f"invalid weight: {text!r}; write TRAIT=NUMBER, e.g. helpful=2"
            ) from None
    for trait, weight in reweigh(folder, wanted).items():
        output().print(f"{trait}: {weight:g}", highlight=False)


@app.command(epilog="Example: rlaif reward compare runs/soft runs/hard")
def compare(folder: Folder, other: Folder, as_json: AsJson = False) -> None:
    """Compare the held-out NLL of two reward models on the same labels."""
    from dataclasses import asdict
    from json import dumps

    from rlaif.evaluation.reward_models import RewardEvaluation, compare_nll

    comparison = compare_nll(*(RewardEvaluation.load(_evaluation(f)) for f in (folder, other)))
    if as_json:
        print(dumps(asdict(comparison)))
        return
    gap = comparison.difference
    interval = "" if gap.low is None else f" [{gap.low:+.4f}, {gap.high:+.4f}]"
    console = output()
    console.print(f"NLL {comparison.nll:.4f} and {comparison.other_nll:.4f} nats", highlight=False)
    console.print(
        f"entropy of the labels, a lower bound: {comparison.label_entropy:.4f}", highlight=False
    )
    console.print(
        f"difference {gap.value:+.4f}{interval} (95 % interval, by prompt)", highlight=False
    )
    for trait, (one, two) in comparison.traits.items():
        console.print(f"  {trait}: {one:.4f} and {two:.4f}", highlight=False)


def _evaluation(folder: Path) -> Path:
    path = folder / "evaluation.json"
    if not path.is_file():
        raise UserError(f"no such file: {path}; run rlaif train reward with --eval HELD_OUT_LABELS")
    return path
