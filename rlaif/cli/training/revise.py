"""`rlaif revise`: the judge's critiques and revisions, as data for SFT."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.judge.options import bulk_judge, longest_wait
from rlaif.cli.options import (
    DEFAULT_SERVER,
    ConstitutionName,
    OutFolder,
    OwnJudge,
    Seed,
    Server,
    Wait,
    WaitTimeout,
    output,
)


def revise(
    samples: Annotated[Path, typer.Argument(help="A JSONL file of samples; see: rlaif sample.")],
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
    seed: Seed = 0,
) -> None:
    """Have the judge critique and revise responses by the constitution, as data for SFT.

    Rounds are saved as they arrive; a killed run resumes.
    """
    from rlaif.data.samples import read_samples
    from rlaif.feedback.revise import revise as revise_samples

    responses = read_samples(samples)
    max_wait = longest_wait(wait, wait_timeout)
    with bulk_judge(judge, constitution, out / "judge.log", server, max_wait) as client:
        done = revise_samples(
            responses,
            client,
            out,
            constitution=constitution,
            rounds=rounds,
            max_tokens=max_tokens,
            seed=seed,
        )
    left = ", ".join(f"{n} {why}" for why, n in done.unrevised_by_reason.items()) or "none"
    output().print(
        f"{done.revised} of {done.samples} responses revised, left out: {left}; "
        f"{done.asked} rounds written: {done.path}",
        highlight=False,
    )
