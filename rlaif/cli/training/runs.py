"""`rlaif run`, `rlaif evaluate`, `rlaif report`: the whole loop, its last part, its page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from constitution.errors import UserError
from rlaif.cli.judge.options import bulk_judge, longest_wait
from rlaif.cli.options import (
    DEFAULT_SERVER,
    ConstitutionName,
    OutFolder,
    OwnJudge,
    SamplePrinciples,
    Seed,
    Server,
    Settings,
    Wait,
    WaitTimeout,
    output,
)


def run(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe (quickstart) or a YAML file.")],
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The run's folder; default runs/NAME.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
) -> None:
    """Constitution to policy, stage by stage. Killed and started again, it goes on."""
    from rlaif.pipeline import stages as running
    from rlaif.pipeline.recipe import load_recipe

    chosen = load_recipe(recipe, settings or [])
    folder = out or Path("runs") / chosen.name
    if dry_run:
        running.dry_run(chosen, folder, output())
    else:
        running.run(chosen, folder, output())


def evaluate(
    responses: Annotated[
        list[str],
        typer.Argument(help="NAME=SAMPLES.jsonl of each policy, see: rlaif sample --split heldout"),
    ],
    start: Annotated[Path, typer.Option(help="Samples of the policy they started from.")],
    constitution: ConstitutionName = "",
    server: Server = DEFAULT_SERVER,
    wait: Wait = False,
    wait_timeout: WaitTimeout = None,
    judge: OwnJudge = "",
    out: OutFolder = Path("evaluation"),
    sample_principles: SamplePrinciples = None,
    seed: Seed = 0,
) -> None:
    """Win rate of policies against their start, judged in both orders, with 95 % intervals."""
    from judge_service.types import JudgeOptions
    from rlaif.data.records import Sample, read_jsonl
    from rlaif.evaluation import policies as evaluation
    from rlaif.feedback.labeler import comparer
    from rlaif.report.tables import print_table

    runs = []
    for item in responses:
        name, equals, path = item.partition("=")
        if not equals:
            raise UserError(f"{item!r} is not NAME=FILE; write e.g. dpo=responses/dpo.jsonl")
        runs.append(evaluation.PolicyRun(name, read_jsonl(Path(path), Sample)))
    first = evaluation.PolicyRun("start", read_jsonl(start, Sample))
    waited = longest_wait(wait, wait_timeout)
    with bulk_judge(judge, constitution, out / "judge.log", server, waited) as client:
        compare = comparer(
            client,
            out / "answers.journal.jsonl",
            constitution=constitution,
            options=JudgeOptions(sample_principles=sample_principles, seed=seed),
        )
        result = evaluation.evaluate(first, runs, compare)
    result.save(out / "evaluation.json")
    print_table(result, output())


def report(
    run_folder: Annotated[Path, typer.Argument(help="The folder of a run, e.g. runs/quickstart.")],
) -> None:
    """Draw the run's page again: one self-contained HTML file."""
    from rlaif.report.page import write_report

    if not run_folder.is_dir():
        raise UserError(f"{run_folder}: no such folder; `rlaif run quickstart` makes one")
    output().print(write_report(run_folder, run_folder / "report.html"), highlight=False)
