"""`rlaif judge compare | rank | calibrate | promote`: use a judge server, and improve it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from constitution import DEFAULT_CONSTITUTION
from constitution.errors import UserError
from rlaif.cli.judge import bench, promote, response
from rlaif.cli.judge.options import (
    GOLD_PAIRS,
    DryRun,
    Fresh,
    KnownConstitution,
    Protocol,
    Text,
    describe,
    longest_wait,
    open_judge,
    read_text,
    say_if_planted,
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
    from collections.abc import Sequence

    from constitution import Constitution
    from judge_service.types import Judgment
    from rlaif.labels.calibrate import GoldPair

app = typer.Typer(help="Judge responses, and calibrate the judge.", no_args_is_help=True)

Rationale = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="TOKENS",
        help="Let the judge write a rationale of up to this many tokens before each read.",
    ),
]
CalibrationFile = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Calibration file; default: where a server looks for it."),
]
Raw = Annotated[bool, typer.Option("--raw", help="Do not apply the server's calibration.")]


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
    """Judge which of two responses is better, how confidently, and by which principles."""
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
    with open_judge(judge, constitution, server, waited) as (client, by):
        answer = client.compare(
            read_text(prompt), read_text(response_a), read_text(response_b), by, options
        )
    if as_json:
        print(json.dumps(asdict(answer), ensure_ascii=False))
        return
    if isinstance(answer, Unjudged):
        raise UserError(f"no judgment ({answer.reason.value}): {answer.detail}")
    _show_judgment(answer)


def _show_judgment(judgment: Judgment) -> None:
    from rich.table import Table

    # Rationales first: the table and the verdict then stay in sight.
    table = Table("principle", "trait", "P(A better)", "order gap")
    for vote in judgment.votes:
        gap = "-" if vote.order_gap is None else f"{vote.order_gap:.2f}"
        table.add_row(vote.principle_id, vote.trait, f"{vote.prob_a:.3f}", gap)
    out = output()
    for vote in judgment.votes:
        for read in vote.reads:
            if read.rationale:
                out.print(f"[bold]{vote.principle_id}[/bold], order {read.order}:", highlight=False)
                out.print(read.rationale, markup=False, highlight=False, soft_wrap=True)
    out.print(table)
    traits = ", ".join(f"{trait} {prob:.2f}" for trait, prob in judgment.trait_probs.items())
    out.print(
        f"[bold]{judgment.verdict.value}[/bold]  P(A better) = {judgment.prob_a:.3f}, "
        f"spread {judgment.spread:.3f} over principles and orders  ({traits})"
    )
    origin = judgment.provenance
    raw = judgment.raw_prob_a
    if origin.reader and raw is not None:
        out.print(f"{raw:.3f} before the reader {origin.reader[:16]}…", highlight=False)
    if origin.calibration and raw is not None:
        digest = origin.calibration[:16]
        out.print(f"calibrated from {raw:.3f} (calibration {digest}…)", highlight=False)
    constitution = f"{origin.constitution_name} {origin.constitution_version}"
    out.print(
        f"by {constitution}, {origin.protocol}: {describe(judgment.usage, judgment.seconds)}",
        highlight=False,
    )
    say_if_planted(origin)


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
    """Rank candidates by their Bradley-Terry strength over judged pairs."""
    from rich.table import Table

    from judge_service.types import JudgeOptions, Judgment

    texts = [read_text(candidate) for candidate in candidates]
    options = JudgeOptions(
        sample_principles=sample_principles, seed=seed, protocol=protocol, use_store=not fresh
    )
    waited = longest_wait(wait, wait_timeout)
    with open_judge(judge, constitution, server, waited) as (client, by):
        ranking = client.rank(read_text(prompt), texts, by, options)
    if as_json:
        print(json.dumps(asdict(ranking), ensure_ascii=False))
        return
    table = Table("rank", "strength", "± s.e.", "candidate")
    for ranked in ranking.candidates:
        text = texts[ranked.index].replace("\n", " ")
        shown = text if len(text) <= 90 else text[:87] + "..."
        strength, error = f"{ranked.strength:+.2f}", f"{ranked.standard_error:.2f}"
        table.add_row(str(ranked.rank), strength, error, shown)
    output().print(table)
    output().print(describe(ranking.usage, ranking.seconds), highlight=False)
    judged = (answer for _, _, answer in ranking.pairs if isinstance(answer, Judgment))
    if (first := next(judged, None)) is not None:
        say_if_planted(first.provenance)


app.command(epilog='Example: rlaif judge score "Name a fruit" "An apple."')(response.score)
app.command(epilog='Example: rlaif judge critique "Name a fruit" "A stone." --principle correct')(
    response.critique
)
app.command(epilog='Example: rlaif judge revise "Name a fruit" "A stone." "Not a fruit."')(
    response.revise
)
app.command(
    epilog='Example: rlaif judge preview "Name a fruit" "An apple." "A stone." '
    "--sample-principles 1"
)(response.preview)

app.command(
    "bench",
    epilog="Examples: rlaif judge bench hhh.jsonl --judge qwen2.5-coder-1.5b --limit 100; "
    "rlaif judge bench reward-bench.parquet rm-bench.json --server 127.0.0.1:50051 --dry-run",
)(bench.judge_bench)


app.command(
    "promote",
    epilog="Example: rlaif judge promote --gold pairs.jsonl --candidate reader "
    "--candidate constitution:mine.yaml --judge qwen2.5-coder-1.5b",
)(promote.promote_judge)


@app.command(
    "calibrate",
    epilog="Example: rlaif judge calibrate --gold pairs.jsonl -c overall "
    "--judge qwen2.5-coder-1.5b",
)
def calibrate_judge(
    gold: Annotated[Path, GOLD_PAIRS],
    constitution: KnownConstitution = DEFAULT_CONSTITUTION,
    server: Server = DEFAULT_SERVER,
    judge: OwnJudge = "",
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation.")] = 5,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use a sample of N pairs, drawn with the seed.")
    ] = None,
    seed: Seed = 0,
    out: CalibrationFile = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Fit a temperature or an isotonic curve to gold pairs, so that 0.8 is right 8 times in 10.

    The metrics shown are of held-back pairs. After a kill, the same command continues.
    """
    from constitution import Constitution
    from judge_service.judge.calibration import (
        calibration_file,
        read_calibrations,
        write_calibration,
    )
    from rlaif.feedback.client import judge_client
    from rlaif.labels.calibrate import calibrate, load_gold
    from rlaif.labels.calibration_report import print_report
    from rlaif.models.catalog import cache_folder

    # Report invalid files now rather than after an hour of judging.
    loaded = Constitution.load(constitution)
    pairs = load_gold(gold, limit, seed)
    folder = cache_folder() / "calibrations"
    default_path = calibration_file(constitution, folder)
    path = out or default_path
    if path.exists():
        read_calibrations(path)
    if dry_run:
        _print_plan(pairs, loaded, path)
        return
    with judge_client(judge, constitution, folder / "judge.log", server) as client:
        report = calibrate(
            pairs,
            client,
            folder / f"{loaded.name}.journal.jsonl",
            constitution=constitution,
            folds=folds,
            seed=seed,
        )
    before = read_calibrations(path) if path.exists() else []
    write_calibration(path, report.calibration)
    digest = report.calibration.sha256
    if as_json:
        print(json.dumps({**asdict(report), "file": str(path), "sha256": digest}))
        return
    print_report(report, output())
    use = f"servers started with --constitution {constitution} will apply it"
    if path != default_path:
        use = f"servers look for it in {default_path}"
    output().print(f"written to {path}; {use} (sha256 {digest[:16]}…)", highlight=False)
    for other in before:
        if other.kind == "reader" and other.key == report.calibration.key:
            output().print(
                f"it replaces the reader {other.sha256[:16]}…; `rlaif judge promote` would have "
                "compared the two",
                highlight=False,
            )


def _print_plan(pairs: Sequence[GoldPair], constitution: Constitution, path: Path) -> None:
    reads = 2 * sum(p.applies_to(pair.prompt) for pair in pairs for p in constitution.principles)
    output().print(
        f"would judge {len(pairs)} pairs with about {reads} reads, and write {path}",
        highlight=False,
    )
