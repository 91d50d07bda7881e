"""`rlaif judge …`: ask a judge server, and find out how far its answers can be trusted."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from constitution import DEFAULT_CONSTITUTION
from constitution.errors import UserError
from rlaif.cli.judge import response as one_response
from rlaif.cli.judge.options import (
    Fresh,
    Protocol,
    Text,
    asked_judge,
    describe,
    longest_wait,
    read_text,
)
from rlaif.cli.options import (
    DEFAULT_SERVER,
    AsJson,
    ConstitutionName,
    OwnJudge,
    SamplePrinciples,
    Seed,
    Server,
    Wait,
    WaitTimeout,
    output,
)

if TYPE_CHECKING:
    from judge_service.types import Judgment

app = typer.Typer(help="Ask a judge server.", no_args_is_help=True)

Rationale = Annotated[
    int,
    typer.Option(min=0, metavar="TOKENS", help="Let the judge write so much before each read."),
]
Raw = Annotated[bool, typer.Option("--raw", help="Without the server's calibration.")]


@app.command(
    epilog='Example: rlaif judge compare "My parcel is late" "Sorry! I will call the depot and '
    'write to you by noon." "Someone will look into it."'
)
def compare(
    prompt: Text,
    response_a: Text,
    response_b: Text,
    constitution: ConstitutionName = "",
    server: Server = DEFAULT_SERVER,
    wait: Wait = False,
    wait_timeout: WaitTimeout = None,
    judge: OwnJudge = "",
    sample_principles: SamplePrinciples = None,
    seed: Seed = 0,
    rationale: Rationale = 0,
    protocol: Protocol = "",
    raw: Raw = False,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Which of two responses is better, how surely, and by which principles."""
    from judge_service.types import JudgeOptions, Unjudged

    options = JudgeOptions(
        sample_principles=sample_principles,
        seed=seed,
        max_rationale_tokens=rationale,
        protocol=protocol,
        calibrated=not raw,
        use_store=not fresh,
    )
    waited = longest_wait(wait, wait_timeout)
    with asked_judge(judge, constitution, server, waited) as (client, law):
        found = client.compare(
            read_text(prompt), read_text(response_a), read_text(response_b), law, options
        )
    if as_json:
        print(json.dumps(asdict(found), ensure_ascii=False))
        return
    if isinstance(found, Unjudged):
        raise UserError(f"no judgment ({found.reason.value}): {found.detail}")
    _show_judgment(found)


def _show_judgment(found: Judgment) -> None:
    from rich.table import Table

    table = Table("principle", "trait", "P(A better)", "order gap")
    for vote in found.votes:
        gap = "-" if vote.order_gap is None else f"{vote.order_gap:.2f}"
        table.add_row(vote.principle_id, vote.trait, f"{vote.prob_a:.3f}", gap)
    out = output()
    for vote in found.votes:
        for read in vote.reads:
            if read.rationale:
                out.print(f"[bold]{vote.principle_id}[/bold], order {read.order}:", highlight=False)
                out.print(read.rationale, markup=False, highlight=False, soft_wrap=True)
    out.print(table)
    traits = ", ".join(f"{trait} {prob:.2f}" for trait, prob in found.trait_probs.items())
    out.print(
        f"[bold]{found.verdict.value}[/bold]  P(A better) = {found.prob_a:.3f}, "
        f"spread {found.spread:.3f} over principles and orders  ({traits})"
    )
    calibration = found.provenance.calibration
    if calibration and found.raw_prob_a is not None:
        out.print(
            f"calibrated from {found.raw_prob_a:.3f} (calibration {calibration[:16]}…)",
            highlight=False,
        )
    law = f"{found.provenance.constitution_name} {found.provenance.constitution_version}"
    out.print(
        f"by {law}, {found.provenance.protocol}: {describe(found.usage, found.seconds)}",
        highlight=False,
    )


@app.command(epilog='Example: rlaif judge rank "Name a fruit" "An apple." "A stone." "Pears!"')
def rank(
    prompt: Text,
    candidates: Annotated[list[str], typer.Argument(help="Two or more texts, or @FILEs.")],
    constitution: ConstitutionName = "",
    server: Server = DEFAULT_SERVER,
    wait: Wait = False,
    wait_timeout: WaitTimeout = None,
    judge: OwnJudge = "",
    sample_principles: SamplePrinciples = None,
    seed: Seed = 0,
    protocol: Protocol = "",
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Order candidates by Bradley-Terry strength over judged pairs."""
    from rich.table import Table

    from judge_service.types import JudgeOptions

    texts = [read_text(candidate) for candidate in candidates]
    options = JudgeOptions(
        sample_principles=sample_principles, seed=seed, protocol=protocol, use_store=not fresh
    )
    waited = longest_wait(wait, wait_timeout)
    with asked_judge(judge, constitution, server, waited) as (client, law):
        found = client.rank(read_text(prompt), texts, law, options)
    if as_json:
        print(json.dumps(asdict(found), ensure_ascii=False))
        return
    table = Table("rank", "strength", "± s.e.", "candidate")
    for one in found.candidates:
        text = texts[one.index].replace("\n", " ")
        shown = text if len(text) <= 90 else text[:87] + "..."
        table.add_row(str(one.rank), f"{one.strength:+.2f}", f"{one.standard_error:.2f}", shown)
    output().print(table)
    output().print(describe(found.usage, found.seconds), highlight=False)


app.command(epilog='Example: rlaif judge score "Name a fruit" "An apple."')(one_response.score)
app.command(epilog='Example: rlaif judge critique "Name a fruit" "A stone." --principle correct')(
    one_response.critique
)
app.command(epilog='Example: rlaif judge revise "Name a fruit" "A stone." "A stone is no fruit."')(
    one_response.revise
)
app.command(
    epilog='Example: rlaif judge preview "Name a fruit" "An apple." "A stone." '
    "--sample-principles 1"
)(one_response.preview)


@app.command(
    epilog="Example: rlaif judge calibrate --gold pairs.jsonl -c overall --judge qwen2.5-coder-1.5b"
)
def calibrate(
    gold: Annotated[
        Path,
        typer.Option(help="JSONL of pairs with a known better one: prompt, chosen, rejected."),
    ],
    constitution: Annotated[
        str,
        typer.Option("--constitution", "-c", help="The name of a constitution, or a YAML file."),
    ] = DEFAULT_CONSTITUTION,
    server: Server = DEFAULT_SERVER,
    judge: OwnJudge = "",
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation.")] = 5,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only N of the pairs, drawn with the seed.")
    ] = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Calibration file; default where a server looks for it."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be asked and written; do nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fit a temperature or an isotonic curve to gold pairs, so that 0.8 is right 8 times in 10.

    The table is of held-back pairs. Killed and started again, it asks for what is missing.
    """
    from constitution import Constitution
    from judge_service.judge import calibration as store
    from rlaif.feedback.client import judge_client
    from rlaif.labels import calibrate as calibrating
    from rlaif.models.catalog import cache_folder

    law = Constitution.load(constitution)
    pairs = calibrating.load_gold(gold, limit, seed)
    folder = cache_folder() / "calibrations"
    found_by_servers = store.calibration_file(constitution, folder)
    path = out or found_by_servers
    if path.exists():
        store.read_calibrations(path)  # a broken file is told now, not after an hour of asking
    if dry_run:
        reads = 2 * sum(p.applies_to(pair.prompt) for pair in pairs for p in law.principles)
        output().print(
            f"would ask for {len(pairs)} pairs, about {reads} reads, and write {path}",
            highlight=False,
        )
        return
    with judge_client(judge, constitution, folder / "judge.log", server) as client:
        report = calibrating.calibrate(
            pairs,
            client,
            folder / f"{law.name}.journal.jsonl",
            constitution=constitution,
            folds=folds,
            seed=seed,
        )
    store.write_calibration(path, report.calibration)
    digest = report.calibration.sha256
    if as_json:
        print(json.dumps({**asdict(report), "file": str(path), "sha256": digest}))
        return
    calibrating.print_report(report, output())
    use = f"a server started from now on with --constitution {constitution} applies it"
    if path != found_by_servers:
        use = f"servers look for it in {found_by_servers}"
    output().print(f"stored in {path}; {use} (sha256 {digest[:16]}…)", highlight=False)
