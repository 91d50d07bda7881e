"""`rlaif judge promote`: adopt what judges held-back gold pairs better."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from constitution import DEFAULT_CONSTITUTION
from constitution.errors import UserError
from rlaif.cli.judge.options import DryRun, KnownConstitution
from rlaif.cli.options import DEFAULT_SERVER, AsJson, OwnJudge, Seed, Server, output

if TYPE_CHECKING:
    from rich.console import Console

    from judge_service.client.sync import JudgeClient
    from rlaif.labels.promotion.candidates import Candidate
    from rlaif.labels.promotion.promote import PromotionReport

RECORD = "promotions.jsonl"

Candidates = Annotated[
    list[str] | None,
    typer.Option(
        "--candidate",
        help="reader or calibration (fitted here), calibration:FILE, constitution:NAME or FILE, "
        "protocol:NAME, judge:MODEL or server:HOST:PORT; repeatable.  [default: reader]",
    ),
]
By = Annotated[
    str,
    typer.Option(
        help="accuracy or log_loss; by default accuracy, and log_loss for curves, which change no "
        "verdict."
    ),
]


def promote_judge(
    gold: Annotated[
        Path,
        typer.Option(help="Gold questions: prompt, chosen, rejected, or a benchmark's own rows."),
    ],
    candidate: Candidates = None,
    constitution: KnownConstitution = DEFAULT_CONSTITUTION,
    server: Server = DEFAULT_SERVER,
    judge: OwnJudge = "",
    by: By = "",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use a sample of N prompts, drawn with the seed.")
    ] = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Calibration file for an adopted reader or curve; default: where a server looks "
            "for it.",
        ),
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Adopt a reader, calibration, wording, protocol or judge if it judges held-back gold better.

    What is fitted here is fitted on half of the prompts, drawn with the seed, and all candidates
    are tested on the others: the interval of the paired gain must be above 0, at a level that they
    share. Exits with 1 if none is adopted. After a kill, the same command continues.
    """
    from constitution import Constitution
    from judge_service.judge.calibration import (
        calibration_file,
        read_calibrations,
        write_calibration,
    )
    from rlaif.api.judging import judge_of
    from rlaif.feedback.connection import ADDRESS
    from rlaif.labels.promotion.candidates import Candidate, Kind
    from rlaif.labels.promotion.gain import Metric
    from rlaif.labels.promotion.promote import (
        JudgeAsItIs,
        gold_pairs,
        promote,
        record,
        require_enough_prompts,
        sample_prompts,
    )
    from rlaif.models.catalog import cache_folder

    # Report invalid files now rather than after an hour of judging.
    if by and by not in list(Metric):
        raise UserError(f"unknown metric: {by!r}; --by takes {' or '.join(Metric)}")
    named = [Candidate.parse(text) for text in candidate or ["reader"]]
    if len(set(named)) < len(named):
        raise UserError("a candidate is named twice; give each once")
    loaded = Constitution.load(constitution)
    judge_of(judge, "" if judge else server, constitution)
    for each in named:
        if each.kind is Kind.JUDGE:
            judge_of(each.value, "", constitution)
        elif each.kind is Kind.SERVER and not ADDRESS.fullmatch(each.value):
            raise UserError(f"invalid candidate: '{each}'; write server:HOST:PORT")
        elif each.kind is Kind.CONSTITUTION:
            Constitution.load(each.value)
        elif each.kind is Kind.CALIBRATION and each.value:
            read_calibrations(Path(each.value))
    pairs = sample_prompts(gold_pairs(gold), limit, seed)
    require_enough_prompts(pairs, named)
    folder = cache_folder() / "calibrations"
    path = out or calibration_file(constitution, folder)
    if path.exists():
        read_calibrations(path)
    if dry_run:
        reads = [2 * sum(p.applies_to(pair.prompt) for p in loaded.principles) for pair in pairs]
        _print_plan(named, len(pairs), sum(reads), path)
        return

    command = shlex.join(["rlaif", *sys.argv[1:]])
    report = promote(
        pairs,
        JudgeAsItIs(judge, server, constitution),
        named,
        _connect(folder / "judge.log"),
        folder / f"{loaded.name}.promotion.journal.jsonl",
        metric=Metric(by) if by else None,
        seed=seed,
        command=command,
    )
    record(folder / RECORD, report, gold, command)
    if report.calibration is not None:
        write_calibration(path, report.calibration)
    if as_json:
        written = str(path) if report.calibration else None
        digest = report.calibration.sha256 if report.calibration else None
        print(json.dumps({**asdict(report), "file": written, "sha256": digest}))
    else:
        found = path == calibration_file(constitution, folder)
        _print_report(output(), report, path, folder / RECORD, found=found)
    if report.adopted is None:
        raise typer.Exit(1)


def _connect(
    log: Path,
) -> Callable[[str, str, Sequence[str]], AbstractContextManager[JudgeClient]]:
    """Opens the clients that promote.py asks for; servers started for them log to one file."""
    from rlaif.feedback.client import judge_client

    return lambda model, server, constitutions: judge_client(model, constitutions, log, server)


def _print_plan(candidates: Sequence[Candidate], pairs: int, reads: int, path: Path) -> None:
    own = sum(candidate.needs_reads for candidate in candidates)
    output().print(
        f"would judge {pairs} pairs with about {reads} reads, and the test rows again for each of "
        f"{own} candidates with reads of their own; an adopted reader or curve would be written to "
        f"{path}",
        highlight=False,
    )


def _print_report(
    out: Console, report: PromotionReport, path: Path, log: Path, *, found: bool
) -> None:
    """Print the trials and what follows. found: whether a server looks for `path` by itself."""
    from rich.table import Table

    table = Table(
        "candidate", "by", "now", "candidate's", "gain, interval", "pairs", "unjudged", ""
    )
    for each in report.trials:
        low, high = each.gain.low, each.gain.high
        interval = "" if low is None or high is None else f"  [{low:+.3f}, {high:+.3f}]"
        table.add_row(
            each.name,
            str(each.metric),
            f"{each.base:.3f}",
            f"{each.candidate:.3f}",
            f"{each.gain.value:+.3f}{interval}",
            str(each.pairs),
            str(each.unjudged),
            "adopted" if each is report.adopted else "better" if each.passed else "not better",
        )
    out.print(table)

    def say(text: str) -> None:
        out.print(text, markup=False, highlight=False)

    prompts = max((each.gain.n for each in report.trials), default=0)
    by = report.judge.constitution
    say(f"now: {report.judge.model.name} by {by.name} {by.version}")
    say(
        f"tested on {report.tested_on} pairs of {prompts} prompts; fitted on {report.fitted_on} "
        f"others. Intervals are 95 % for all candidates together."
    )
    if report.adopted is None:
        say("nothing is adopted: no interval is above 0 on 20 judged prompts or more")
    elif report.calibration is not None:
        digest = report.calibration.sha256
        flag = "this constitution" if found else f"--calibration {path}"
        say(
            f"written to {path} (sha256 {digest[:16]}…): servers started with {flag} apply it, and "
            "`rlaif labels recalibrate` applies it to labels that you have"
        )
    else:
        say(f"judge with {report.adopted.name} from now on: nothing had to be written for it")
    say(f"recorded in {log}")
