"""`rlaif sample`: responses of a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli import complete
from rlaif.cli.options import OutFile, Settings, output


def sample(
    prompts: Annotated[
        str,
        typer.Argument(
            help="'quickstart', 'facts' or a JSONL file of prompts.",
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
) -> None:
    """Sample responses from a policy. A killed run resumes where it stopped."""
    from rlaif.api.sampling import sample as draw

    samples = draw(prompts, model=model, out=out, split=split, limit=limit, config=settings or [])
    answered = len({response.prompt.id for response in samples})
    output().print(f"{len(samples)} responses to {answered} prompts: {out}", highlight=False)
