"""`rlaif reward …`: what can be done with trained reward models, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from constitution.errors import UserError
from rlaif.cli.options import AsJson, output

app = typer.Typer(help="Weigh and compare trained reward models.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="The folder that rlaif train reward wrote.")]


@app.command(epilog="Example: rlaif reward weigh runs/reward harmless=2 helpful=0.5")
def weigh(
    folder: Folder,
    weights: Annotated[list[str], typer.Argument(help="New weights.", metavar="TRAIT=WEIGHT...")],
) -> None:
    """Change the weights of the traits in the overall score. Nothing is trained again."""
    from rlaif.models.reward_model import reweigh

    wanted = {}
    for text in weights:
        trait, _, number = text.partition("=")
        try:
            wanted[trait] = float(number)
        except ValueError:
            raise UserError(
                f"{text!r} is not a weight; write TRAIT=NUMBER, e.g. helpful=2"
            ) from None
    for trait, weight in reweigh(folder, wanted).items():
        output().print(f"{trait}: {weight:g}", highlight=False)


@app.command(epilog="Example: rlaif reward compare runs/soft runs/hard")
def compare(folder: Folder, other: Folder, as_json: AsJson = False) -> None:
    """Held-out NLL of two reward models on the same labels, for instance soft and hard ones."""
    from dataclasses import asdict
    from json import dumps

    from rlaif.evaluation.reward_models import RewardEvaluation, compare_nll

    found = compare_nll(*(RewardEvaluation.load(_evaluation(f)) for f in (folder, other)))
    if as_json:
        print(dumps(asdict(found)))
        return
    gap = found.difference
    interval = "" if gap.low is None else f" [{gap.low:+.4f}, {gap.high:+.4f}]"
    console = output()
    console.print(f"NLL {found.nll:.4f} and {found.other_nll:.4f} nats", highlight=False)
    console.print(
        f"the labels' own entropy, their floor: {found.label_entropy:.4f}", highlight=False
    )
    console.print(f"difference {gap.value:+.4f}{interval} (95 %, over prompts)", highlight=False)
    for trait, (one, two) in found.traits.items():
        console.print(f"  {trait}: {one:.4f} and {two:.4f}", highlight=False)


def _evaluation(folder: Path) -> Path:
    path = folder / "evaluation.json"
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; give rlaif train reward held-out labels with --eval"
        )
    return path
