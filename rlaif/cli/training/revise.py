"""`rlaif revise`: the judge's critiques and revisions, as data for SFT."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rlaif.cli.data.shards import (
    GpusOption,
    PartOption,
    RayOption,
    WorkersOption,
    fleet_of,
    print_report,
)
from rlaif.cli.judge.options import longest_wait, suggest_wait
from rlaif.cli.options import (
    DEFAULT_SERVER,
    ConstitutionName,
    OutFolder,
    OwnJudge,
    SamplePrinciples,
    Seed,
    Server,
    Wait,
    WaitTimeout,
    output,
)


def revise(
    samples: Annotated[
        Path,
        typer.Argument(help="A JSONL file of samples (see: rlaif sample), or a folder of shards."),
    ],
    constitution: ConstitutionName = "",
    server: Server = DEFAULT_SERVER,
    wait: Wait = False,
    wait_timeout: WaitTimeout = None,
    judge: OwnJudge = "",
    out: OutFolder = Path("revisions"),
    rounds: Annotated[
        int, typer.Option(min=1, help="Rounds of critique and revision, each on the previous one.")
    ] = 1,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Token limit of each critique and each revision.")
    ] = 256,
    gate: Annotated[
        float,
        typer.Option(
            help="Least P(the revision is better than its original), by the judge in both orders; "
            "what is under it is no lesson."
        ),
    ] = 0.55,
    no_gate: Annotated[
        bool, typer.Option("--no-gate", help="Compare nothing: every clean revision is a lesson.")
    ] = False,
    pilot: Annotated[
        int,
        typer.Option(
            min=0, help="Stop when none of the first N responses gives a lesson; 0: never."
        ),
    ] = 32,
    sample_principles: SamplePrinciples = None,
    seed: Seed = 0,
    part: PartOption = "",
    ray: RayOption = "",
    gpus: GpusOption = None,
    workers: WorkersOption = None,
) -> None:
    """Have the judge critique and revise responses by the constitution: lessons for SFT.

    A revision is a lesson if it is complete, does not introduce itself, differs from its original,
    and the judge finds it better (--gate). Rounds are saved as they arrive; a killed run resumes.
    Of a folder of shards a folder of as many shards is made, without a pilot.
    """
    from rlaif.api.revising import revise as revise_samples
    from rlaif.api.sharded import revise_shards
    from rlaif.data.shards.folder import is_shard_folder
    from rlaif.feedback.revisions.lessons import LESSONS, PAIRS

    max_wait = longest_wait(wait, wait_timeout)
    asked: dict[str, Any] = {
        "out": out,
        "judge": judge,
        "server": "" if judge else server,
        "constitution": constitution,
        "wait": max_wait,
        "rounds": rounds,
        "gate": None if no_gate else gate,
        "max_tokens": max_tokens,
        "sample_principles": sample_principles,
        "seed": seed,
    }
    with suggest_wait(judge, server, max_wait):
        if part or ray or is_shard_folder(samples):
            print_report(
                revise_shards(samples, part=part, fleet=fleet_of(ray, gpus, workers), **asked), out
            )
            return
        done = revise_samples(samples, pilot=pilot or None, **asked)
    for sentence in done.sentences():
        output().print(sentence, highlight=False)
    pairs = "" if no_gate else f", {out / PAIRS}"
    output().print(
        f"{done.asked} rounds written: {out / LESSONS}{pairs}", highlight=False, soft_wrap=True
    )
