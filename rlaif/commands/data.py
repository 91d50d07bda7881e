"""`rlaif sample` and `rlaif label`: prompts in, responses out; responses in, preferences out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from constitution.errors import UserError
from rlaif.commands import (
    DEFAULT_SERVER,
    ConstitutionName,
    Out,
    OwnJudge,
    SamplePrinciples,
    Seed,
    Server,
    Settings,
    configured,
    output,
    progress_output,
)


def sample(
    prompts: Annotated[str, typer.Argument(help="'quickstart' or a JSONL file of prompts.")],
    model: Annotated[str, typer.Option(help="The policy: short name, folder or hub id.")],
    settings: Settings = None,
    out: Out = Path("samples.jsonl"),
    split: Annotated[str, typer.Option(help="Only this split: train or heldout.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N prompts.")] = None,
) -> None:
    """Draw responses from a policy. Killed and started again, it goes on where it was."""
    from rlaif import models
    from rlaif.prompts import load_prompts
    from rlaif.sampling import SamplingConfig
    from rlaif.sampling import sample as draw

    found = load_prompts(prompts, split or None)[:limit]
    config = configured(SamplingConfig, settings, {})
    samples = draw(models.resolve(model), found, out, config)
    output().print(f"{len(samples)} responses to {len(found)} prompts: {out}", highlight=False)


def label(
    samples: Annotated[Path, typer.Argument(help="A JSONL file of samples; see: rlaif sample.")],
    constitution: ConstitutionName = "hhh",
    server: Server = DEFAULT_SERVER,
    judge: OwnJudge = "",
    out: Out = Path("labels"),
    sample_principles: SamplePrinciples = None,
    seed: Seed = 0,
    all_pairs: Annotated[
        bool, typer.Option("--all-pairs", help="Every pair of a prompt's responses, not one.")
    ] = False,
) -> None:
    """Label pairs of responses; every label is kept as it arrives, a second run asks the rest."""
    from judge_service.judgment import JudgeOptions
    from rlaif.labeling import label_samples, serving
    from rlaif.records import Sample, read_jsonl

    found = read_jsonl(samples, Sample)
    if not found:
        raise UserError(f"{samples}: no samples in it; make some with `rlaif sample`")
    options = JudgeOptions(sample_principles=sample_principles, seed=seed)
    console = progress_output()
    with serving(judge, constitution, out / "server.log", server, console) as address:
        summary = label_samples(
            found,
            address,
            constitution,
            out,
            options=options,
            pairs_per_prompt=None if all_pairs else 1,
            console=console,
        )
    output().print(
        f"{summary.judged} labels, {summary.unjudged} unjudged: {out / 'preferences.parquet'}",
        highlight=False,
    )
