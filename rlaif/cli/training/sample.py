"""`rlaif sample`: responses of a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli import complete
from rlaif.cli.options import (
    OutFile,
    Settings,
    output,
    report_split,
)


def sample(
    prompts: Annotated[
        str,
        typer.Argument(
            help="'quickstart' or a JSONL file of prompts.", autocompletion=complete.prompts
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
    from rlaif.data.prompts import read_prompts
    from rlaif.generation import offline
    from rlaif.generation.config import SamplingConfig
    from rlaif.models import catalog
    from rlaif.settings import configured

    prompt_set = read_prompts(prompts)
    selected = prompt_set.of(split)[:limit]
    if split:
        report_split(prompt_set)
    config = configured(SamplingConfig, settings, {})
    samples = offline.sample(catalog.resolve(model), selected, out, config)
    output().print(f"{len(samples)} responses to {len(selected)} prompts: {out}", highlight=False)
