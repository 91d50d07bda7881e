"""`rlaif sample`: responses of a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from constitution.errors import UserError
from rlaif.cli import complete
from rlaif.cli.data.shards import (
    GpusOption,
    PartOption,
    RayOption,
    WorkersOption,
    fleet_of,
    print_report,
)
from rlaif.cli.options import OutFile, Settings, output


def sample(
    prompts: Annotated[
        str,
        typer.Argument(
            help="'quickstart', 'facts', a JSONL file of prompts, or a folder of shards.",
            autocompletion=complete.prompts,
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="The policy: short name, folder or hub id.", autocompletion=complete.models
        ),
    ],
    settings: Settings = None,
    out: OutFile = Path("samples.jsonl"),
    split: Annotated[
        str,
        typer.Option(
            help="Only this split: train or heldout. If no line of the file names a split, one "
            "prompt in five is held out, chosen by a digest of its text."
        ),
    ] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N prompts.")] = None,
    part: PartOption = "",
    ray: RayOption = "",
    gpus: GpusOption = None,
    workers: WorkersOption = None,
) -> None:
    """Sample responses from a policy. A killed run resumes where it stopped.

    Of a folder of shards (rlaif shards split) a folder of as many shards is made, by any number of
    such commands at once.
    """
    from rlaif.api.sampling import sample as draw
    from rlaif.api.sharded import sample_shards
    from rlaif.data.shards.folder import is_shard_folder

    if part or ray or is_shard_folder(Path(prompts)):
        if limit is not None:
            raise UserError("--limit excludes a folder of shards; split the first N prompts")
        settled = settings or []
        report = sample_shards(
            prompts,
            model=model,
            out=out,
            split=split,
            part=part,
            fleet=fleet_of(ray, gpus, workers),
            config=settled,
        )
        print_report(report, out)
        return
    samples = draw(prompts, model=model, out=out, split=split, limit=limit, config=settings or [])
    answered = len({response.prompt.id for response in samples})
    output().print(f"{len(samples)} responses to {answered} prompts: {out}", highlight=False)
