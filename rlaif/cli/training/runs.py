"""`rlaif run`, `rlaif evaluate` and `rlaif report`: a whole recipe, its evaluation, its report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from constitution.errors import UserError
from rlaif.cli import complete
from rlaif.cli.judge.options import longest_wait, suggest_wait
from rlaif.cli.options import (
    DEFAULT_SERVER,
    ConstitutionName,
    OutFolder,
    SamplePrinciples,
    Seed,
    Server,
    Settings,
    Wait,
    WaitTimeout,
    output,
)

Judges = Annotated[
    list[str] | None,
    typer.Option(
        "--judge",
        help="Start a judge server with this model while it judges, or use the one at HOST:PORT; "
        "may be repeated: a column of win rates for each.",
        autocompletion=complete.models,
    ),
]


def run(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A shipped recipe (quickstart) or a YAML file.", autocompletion=complete.recipes
        ),
    ],
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The run's folder; by default runs/NAME.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")
    ] = False,
    graph: Annotated[
        bool,
        typer.Option("--graph", help="Print the graph as text and in Mermaid, and do nothing."),
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Run this stage alone; may be repeated. What it takes must be finished."),
    ] = None,
    start: Annotated[
        str,
        typer.Option("--from", help="Run this stage and those that depend on it.", metavar="STAGE"),
    ] = "",
) -> None:
    """Run a recipe's stages, from prompts to evaluated policies. A killed run resumes.

    A setting is STAGE.KEY=VALUE (dpo.beta=0.2), a model's name (policy=FOLDER) or a key of the
    recipe (constitution=FILE); STAGE=null leaves a stage out. `rlaif recipes NAME` prints them all.
    """
    from rlaif.pipeline.recipe import Recipe

    loaded = Recipe.load(recipe, settings or [])
    folder = out or Path("runs") / loaded.name
    if graph:
        from rlaif.pipeline.drawing import as_mermaid, as_text
        from rlaif.pipeline.graph import build_graph

        stages = build_graph(loaded, folder)
        print(f"{as_text(stages)}\n\n```mermaid\n{as_mermaid(stages)}\n```")
        return
    from rlaif.pipeline import run as runs

    act = runs.dry_run if dry_run else runs.run
    act(loaded, folder, output(), only=only or (), start=start)


def recipes(
    name: Annotated[
        str,
        typer.Argument(
            help="Print this recipe's YAML, to copy and change.", autocompletion=complete.recipes
        ),
    ] = "",
) -> None:
    """List the recipes that ship, or print one of them."""
    from rlaif.pipeline.recipe import Recipe, recipe_text, shipped_recipes

    if name:
        print(recipe_text(name), end="")
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    for shipped in shipped_recipes():
        table.add_row(shipped, Recipe.load(shipped).description)
    output().print(table)


def evaluate(
    responses: Annotated[
        list[str],
        typer.Argument(
            help="NAME=SAMPLES.jsonl for each policy; see: rlaif sample --split heldout."
        ),
    ],
    start: Annotated[Path, typer.Option(help="Samples of the starting policy.")],
    constitution: ConstitutionName = "",
    server: Server = DEFAULT_SERVER,
    wait: Wait = False,
    wait_timeout: WaitTimeout = None,
    judge: Judges = None,
    labels: Annotated[
        list[Path] | None,
        typer.Option(
            help="Labels that a policy was trained on, or their folder; says if a judge made "
            "them, too."
        ),
    ] = None,
    worth: Annotated[
        list[Path] | None,
        typer.Option(help="JSON with how often judges are right on gold; shown beside them."),
    ] = None,
    out: OutFolder = Path("evaluation"),
    sample_principles: SamplePrinciples = None,
    seed: Seed = 0,
    until: Annotated[
        str,
        typer.Option(
            help="Stop judging a policy when its win rate is `settled` (the interval excludes "
            "50 %), or its interval is this wide, e.g. 0.2. The interval holds at every look.",
            metavar="settled|WIDTH",
        ),
    ] = "",
    human: Annotated[
        Path | None,
        typer.Option(help="JSON lines of human verdicts on some pairs: win rates by people."),
    ] = None,
    round_robin: Annotated[
        bool,
        typer.Option("--round-robin", help="Compare every two policies, too; give strengths."),
    ] = False,
    facts: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=SAMPLES.jsonl of `rlaif sample facts n=1 temperature=0` for the start and "
            "each policy: shares of right, wrong and declined answers, without a judge."
        ),
    ] = None,
) -> None:
    """Compare policies with their start: win rates with 95 % intervals, judged in both orders.

    Several judges have a column each, and their agreement.
    """
    from rlaif.api.judging import evaluate as compare
    from rlaif.feedback.connection import ADDRESS
    from rlaif.report.beyond_win_rates import print_evaluation

    files = dict(map(_named_file, responses))
    max_wait = longest_wait(wait, wait_timeout)
    models = [name for name in judge or () if not ADDRESS.fullmatch(name)]
    with suggest_wait("".join(models), judge[0] if judge else server, max_wait):
        result = compare(
            files,
            start=start,
            out=out,
            judge=judge or (),
            server="" if judge else server,
            constitution=constitution,
            wait=max_wait,
            sample_principles=sample_principles,
            seed=seed,
            labels=labels or (),
            worth=worth or (),
            until=until,
            human=human or (),
            round_robin=round_robin,
            facts=dict(map(_named_file, facts or ())),
        )
    print_evaluation(result, output())


def _named_file(text: str) -> tuple[str, Path]:
    """("dpo", the file) of "dpo=responses/dpo.jsonl"."""
    name, equals, path = text.partition("=")
    if not equals:
        raise UserError(f"expected NAME=FILE: {text!r}; write e.g. dpo=responses/dpo.jsonl")
    return name, Path(path)


def report(
    run_folder: Annotated[Path, typer.Argument(help="The folder of a run, e.g. runs/quickstart.")],
) -> None:
    """Write a run's report again: one self-contained HTML file, with a section per stage."""
    from rlaif.report.inputs import ReportInputs

    inputs = ReportInputs.of_run(run_folder)  # refuses other folders before the page is imported
    from rlaif.report.page import write_page

    page = write_page(inputs, run_folder / "report.html")
    output().print(str(page), highlight=False, markup=False, soft_wrap=True)
