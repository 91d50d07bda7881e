"""`rlaif sample` and `rlaif label`: prompts in, responses out; responses in, preferences out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from constitution.errors import UserError
from rlaif.commands import (
    DEFAULT_SERVER,
    ConstitutionName,
    OutFile,
    OutFolder,
    OwnJudge,
    SamplePrinciples,
    Seed,
    Server,
    Settings,
    configured,
    output,
)


def sample(
    prompts: Annotated[str, typer.Argument(help="'quickstart' or a JSONL file of prompts.")],
    model: Annotated[str, typer.Option(help="The policy: short name, folder or hub id.")],
    settings: Settings = None,
    out: OutFile = Path("samples.jsonl"),
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
    out: OutFolder = Path("labels"),
    sample_principles: SamplePrinciples = None,
    seed: Seed = 0,
    all_pairs: Annotated[
        bool, typer.Option("--all-pairs", help="Every pair of a prompt's responses, not one.")
    ] = False,
) -> None:
    """Label pairs of responses; every label is kept as it arrives, a second run asks the rest."""
    from judge_service.judgment import JudgeOptions
    from rlaif.judging import judge_client
    from rlaif.labeling import label as ask
    from rlaif.labeling import pairs_from_samples
    from rlaif.records import Sample, read_jsonl

    pairs = pairs_from_samples(
        read_jsonl(samples, Sample), pairs_per_prompt=None if all_pairs else 1, seed=seed
    )
    if not pairs.comparisons:
        raise UserError(
            f"{samples}: no prompt has two different responses; sample with n=2 or more"
        )
    with judge_client(judge, constitution, out / "judge.log", server) as client:
        summary = ask(
            pairs.comparisons,
            client,
            out,
            constitution=constitution,
            options=JudgeOptions(sample_principles=sample_principles, seed=seed),
            identical=pairs.identical,
        )
    output().print(
        f"{summary.judged} labels, {summary.unjudged} unjudged: {out / 'preferences.parquet'}",
        highlight=False,
    )
