"""`rlaif reward …`: reweigh, compare and benchmark trained reward models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from constitution.errors import UserError
from rlaif.cli.judge.bench import reward_bench
from rlaif.cli.options import AsJson, RewardFolder, output

app = typer.Typer(
    help="Reweigh, compare and benchmark trained reward models.", no_args_is_help=True
)


@app.command(epilog="Example: rlaif reward weigh runs/reward harmless=2 helpful=0.5")
def weigh(
    folder: RewardFolder,
    weights: Annotated[
        list[str] | None,
        typer.Argument(
            help="New trait weights, beside those that it prints without any.",
            metavar="[TRAIT=WEIGHT]...",
        ),
    ] = None,
) -> None:
    """Change what the traits weigh in the score, without training again; or show it.

    At the label's own weights, each trait's times the sum of its principles', the head on the label
    scores. At others a sum of the traits does: it averages log-odds where the judge averages
    probabilities, so it approximates the label that the judge would give.
    """
    from rlaif.models.reward.weights import reweigh

    wanted = {}
    for text in weights or ():
        trait, _, number = text.partition("=")
        try:
            wanted[trait] = float(number)
        except ValueError:
            raise UserError(
                f"invalid weight: {text!r}; write TRAIT=NUMBER, e.g. helpful=2"
            ) from None
    weighing, console = reweigh(folder, wanted), output()
    total = sum(weighing.now.values())
    for trait, weight in weighing.now.items():
        learned = weighing.label[trait]
        label = "" if weight == learned else f", {learned:g} in the label"
        console.print(f"{trait}: {weight:g} ({weight / total:.0%}){label}", highlight=False)
    scorer = "the head on the label" if weighing.by_label else (
        "the sum of the traits at these weights, approximately the label that the judge would give"
    )  # fmt: skip
    console.print(f"scored by {scorer}", highlight=False, soft_wrap=True)


@app.command(epilog="Example: rlaif reward compare runs/soft runs/hard")
def compare(folder: RewardFolder, other: RewardFolder, as_json: AsJson = False) -> None:
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


app.command(
    "bench", epilog="Example: rlaif reward bench runs/reward reward-bench-2.parquet --limit 200"
)(reward_bench)


def _evaluation(folder: Path) -> Path:
    path = folder / "evaluation.json"
    if not path.is_file():
        raise UserError(f"no such file: {path}; run rlaif train reward with --eval HELD_OUT_LABELS")
    return path
