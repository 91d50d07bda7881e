"""`rlaif score`: what a reward says of responses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.data.shards import (
    GpusOption,
    PartOption,
    RayOption,
    WorkersOption,
    fleet_of,
    print_report,
)
from rlaif.cli.options import OutFolder, output


def score(
    samples: Annotated[
        Path, typer.Argument(help="A file of samples (see: rlaif sample), or a folder of shards.")
    ],
    rewards: Annotated[
        list[str],
        typer.Option(
            "--reward",
            help="What scores responses: a reward model's folder, judge:HOST:PORT or "
            "module:function; with a weight as 0.5*runs/reward. Given several times, the scores "
            "are added up.",
            metavar="SOURCE",
        ),
    ],
    out: OutFolder = Path("scores"),
    part: PartOption = "",
    ray: RayOption = "",
    gpus: GpusOption = None,
    workers: WorkersOption = None,
) -> None:
    """Score responses by a reward model, a judge or a function; a killed run resumes.

    OUT/scores.parquet has the rows of the samples with a column `score`, which is empty where a
    response cannot be scored. Of a folder of shards a folder of as many shards is made. Whatever
    reads samples reads both.
    """
    from rlaif.api.sampling import score as score_samples
    from rlaif.api.sharded import score_shards
    from rlaif.data.shards.folder import is_shard_folder

    if part or ray or is_shard_folder(samples):
        fleet = fleet_of(ray, gpus, workers)
        print_report(score_shards(samples, reward=rewards, out=out, part=part, fleet=fleet), out)
        return
    done = score_samples(samples, reward=rewards, out=out)
    output().print(
        f"{done.scored} of {done.responses} responses scored, mean {done.mean:.3f}: "
        f"{out / 'scores.parquet'}",
        highlight=False,
        soft_wrap=True,
    )
