"""`rlaif redteam adopt | check | convert`: failures as training prompts and as tests."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.judge.options import DryRun, longest_wait, suggest_wait
from rlaif.cli.options import (
    ConstitutionName,
    OutFolder,
    OwnJudge,
    Settings,
    Wait,
    WaitTimeout,
    output,
)
from rlaif.cli.redteam.attack import Model

TestFile = Annotated[
    Path, typer.Argument(help="Regressions (JSONL), or promptfoo's test cases (.yaml).")
]


def adopt(
    failures: Annotated[Path, typer.Argument(help="failures.jsonl of rlaif redteam.")],
    train: Annotated[
        Path, typer.Option(help="Prompts to train on (JSONL): added to, or made.", metavar="FILE")
    ],
    tests: Annotated[
        Path,
        typer.Option(
            help="Regressions: added to, or made; with the ending .yaml as promptfoo's test cases.",
            metavar="FILE",
        ),
    ],
    twins: Annotated[
        Path | None,
        typer.Option(
            help="twins.jsonl: the benign neighbors of the failures go with them.", metavar="FILE"
        ),
    ] = None,
    test_family: Annotated[
        list[str] | None,
        typer.Option(
            help="A family to be tests, where the files have none of it. May be repeated.",
            metavar="FAMILY",
        ),
    ] = None,
    share: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Share of the other attack families that become tests, by a digest of the name.",
            metavar="F",
        ),
    ] = 0.3,  # families.SHARE_OF_TESTS, which would import pydantic for every --help
    skip_known: Annotated[
        bool, typer.Option("--skip-known", help="Leave out failures that are tests already.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be added, and stop.")
    ] = False,
) -> None:
    """Add failures to training prompts and tests, split by attack family.

    A family is on one side only, whatever is adopted in which order: where the files have prompts
    of it already, else by --test-family, else by a digest of its name.
    """
    from rlaif.api.redteam.regressions import adopt_failures

    done = adopt_failures(
        failures,
        train=train,
        tests=tests,
        twins=twins,
        test_families=test_family or (),
        share=share,
        skip_known=skip_known,
        write=not dry_run,
    )
    for sentence in done.sentences():
        output().print(sentence, highlight=False, soft_wrap=True)


def check(
    model: Model,
    tests: TestFile,
    settings: Settings = None,
    junit: Annotated[
        Path | None, typer.Option(help="Also write the outcome as JUnit XML.", metavar="FILE")
    ] = None,
    constitution: ConstitutionName = "",
    judge: OwnJudge = "",
    server: Annotated[
        str, typer.Option(help="Address of a running judge server.", metavar="HOST:PORT")
    ] = "",
    wait: Wait = False,
    wait_timeout: WaitTimeout = None,
    out: OutFolder = Path("redteam-check"),
    dry_run: DryRun = False,
) -> None:
    """Test a model by regressions; exits with 1 if there is one.

    By rule; with --judge or --server an attack succeeds only if the judge says so, too. A killed
    run resumes. Names of tests are printed, no prompt and no response.
    """
    from rlaif.api.redteam.regressions import check_regressions
    from rlaif.models import catalog
    from rlaif.redteam.config import CheckConfig
    from rlaif.redteam.regressions.check import sentences
    from rlaif.redteam.regressions.files import read_regressions
    from rlaif.settings import configured

    config = configured(CheckConfig, settings, {})
    if dry_run:
        found = read_regressions(tests)
        catalog.resolve(model)
        by = f"by rule and by {judge or server}" if judge or server else "by rule"
        output().print(f"{model} would be tested by {len(found)} regressions, {by}")
        return
    longest = longest_wait(wait, wait_timeout)
    with suggest_wait(judge, server, longest) if judge or server else nullcontext():
        outcomes = check_regressions(
            model, tests, junit=junit, out=out, judge=judge, server="" if judge else server,
            constitution=constitution, wait=longest, config=config,
        )  # fmt: skip
    for sentence in sentences(outcomes):
        output().print(sentence, highlight=False, soft_wrap=True)
    if not all(each.passed for each in outcomes):
        raise typer.Exit(1)


def convert(
    tests: TestFile,
    out: Annotated[Path, typer.Argument(help="The file to write: .jsonl, or .yaml for promptfoo.")],
) -> None:
    """Write regressions as promptfoo's test cases, or the other way round."""
    from rlaif.redteam.regressions.files import read_regressions, write_regressions

    found = read_regressions(tests)
    write_regressions(out, found)
    output().print(f"{len(found)} tests: {out}", highlight=False, soft_wrap=True)
