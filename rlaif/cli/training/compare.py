"""`rlaif compare`: training methods side by side, over seeds, by a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli import complete
from rlaif.cli.options import Settings, output

EXAMPLES = (
    "Examples: rlaif compare quickstart --arms dpo,ppo --seeds 3 --dry-run; "
    "rlaif compare cpu_study --arms sft,dpo,rloo,best_of_n --budget seconds=300 dpo.beta=0.2"
)


def compare(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A shipped recipe (quickstart) or a YAML file: labels, prompts, start, judges and "
            "the settings of each arm are its.",
            autocompletion=complete.recipes,
        ),
    ],
    settings: Settings = None,
    arms: Annotated[
        str,
        typer.Option(
            help="Methods to compare: sft, dpo, ppo, rloo, grpo, rest, best_of_n.",
            metavar="ARM,ARM,...",
        ),
    ] = "sft,dpo,ppo,rloo,rest,best_of_n",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each arm.")] = 3,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="tokens=N or seconds=N: each training ends with the step that spends it; reads=N: "
            "the judge's, for the labels that all arms share. May be repeated.",
            metavar="reads=N|tokens=N|seconds=N",
        ),
    ] = None,
    labels: Annotated[
        str, typer.Option(help="The labels, where the recipe has several.", metavar="STAGE")
    ] = "",
    start: Annotated[
        str,
        typer.Option(
            help="What all arms begin from, where the recipe's trainings differ.",
            metavar="STAGE|MODEL",
        ),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The folder; by default runs/NAME-compare."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print stages, reads, trainings and minutes; do nothing."),
    ] = False,
    graph: Annotated[
        bool,
        typer.Option("--graph", help="Print the graph as text and in Mermaid, and do nothing."),
    ] = False,
) -> None:
    """Compare training methods: same labels, prompts and start, several seeds, one budget.

    Ends with tables, a page, comparison.json and a line that says what can be told. Killed, it goes
    on when it is called again. Settings are those of `rlaif run`: dpo.beta=0.2.
    """
    from rlaif.pipeline.comparing import run
    from rlaif.pipeline.comparing.arms import arms_of
    from rlaif.pipeline.comparing.budget import Budget
    from rlaif.pipeline.comparing.plan import ComparisonRequest, comparison_plan
    from rlaif.pipeline.recipe import Recipe

    request = ComparisonRequest(arms_of(arms), seeds, Budget.parse(budget or ()), labels, start)
    loaded = Recipe.load(recipe, settings or [])
    folder = out or Path("runs") / f"{loaded.name}-compare"
    if graph:
        from rlaif.pipeline.drawing import as_mermaid, as_text
        from rlaif.pipeline.graph import build_graph

        stages = build_graph(comparison_plan(loaded, request).recipe, folder)
        print(f"{as_text(stages)}\n\n```mermaid\n{as_mermaid(stages)}\n```")
        return
    act = run.dry_run if dry_run else run.compare
    act(loaded, request, folder, output())
