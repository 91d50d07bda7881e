"""`rlaif constitution test | diff | ablate | try`: measure the effect of edits."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from constitution.errors import UserError
from rlaif.cli import complete
from rlaif.cli.judge.options import GOLD_PAIRS
from rlaif.cli.options import DEFAULT_SERVER, AsJson, OwnJudge, Server, output

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, MutableMapping, Sequence

    from constitution import Constitution
    from judge_service.client.sync import JudgeClient
    from rlaif.constitution_tools.examples import Answer, ExampleOutcome

ConstitutionFile = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        help="A YAML file, or the name of a shipped constitution.",
        autocompletion=complete.constitutions,
    ),
]
Labels = Annotated[
    Path, typer.Option(help="Labels with receipts: the preferences.parquet written by rlaif label.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N labels.")]


@contextmanager
def _judge(model: str, server: str) -> Iterator[JudgeClient]:
    """A client to a running judge or one started here; requests carry the constitution."""
    from rlaif.feedback.client import judge_client

    with (
        tempfile.TemporaryDirectory(prefix="rlaif-judge-") as folder,
        judge_client(model, "", Path(folder) / "judge.log", server) as client,
    ):
        yield client


# ── test ─────────────────────────────────────────────────────────────────────────────────────


def run_examples(
    name: ConstitutionFile,
    server: Server = DEFAULT_SERVER,
    judge: OwnJudge = "",
    principle: Annotated[
        list[str] | None, typer.Option(help="Test only the examples of this principle; repeatable.")
    ] = None,
    tie_margin: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Largest distance from 0.5 of an expected tie.")
    ] = 0.1,
    as_json: AsJson = False,
    junit: Annotated[
        Path | None, typer.Option(help="Also write the outcomes as JUnit XML.", metavar="FILE")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Run again on every save, judging only what changed.")
    ] = False,
) -> None:
    """Test whether the judge decides the examples of each principle as expected.

    Each example is judged by its own principle alone, in both orders. Exits with 1 if any fails.
    """
    from constitution import Constitution
    from rlaif.constitution_tools.examples import cases

    if watch and not Path(name).is_file():
        raise UserError(f"no such file: --watch {name}; give a file, not a shipped constitution")
    if not watch:
        cases(Constitution.load(name), principle or ())  # raises before a judge is started
    memory: dict[str, Answer] = {}
    with _judge(judge, server) as client:

        def run() -> bool:
            constitution = Constitution.load(name)
            outcomes = _judge_examples(constitution, client, principle or (), tie_margin, memory)
            _report_outcomes(outcomes, constitution, tie_margin, as_json, junit)
            return all(outcome.passed for outcome in outcomes)

        if watch:
            _on_every_save(Path(name), run)
        elif not run():
            raise typer.Exit(1)


def _on_every_save(file: Path, run: Callable[[], object]) -> None:
    """Run now and after every save until Ctrl-C; errors of an invalid file are printed."""
    from rlaif.constitution_tools.watch import saves

    try:
        for _ in saves(file):
            try:
                run()
            except UserError as error:
                print(error, file=sys.stderr)
            print(f"waiting for changes of {file}; stop with Ctrl-C", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("\nstopped watching", file=sys.stderr)


def _judge_examples(
    constitution: Constitution,
    client: JudgeClient,
    principles: Collection[str],
    tie_margin: float,
    memory: MutableMapping[str, Answer],
) -> tuple[ExampleOutcome, ...]:
    from rlaif.constitution_tools.examples import cases, judge_cases
    from rlaif.progress import progress

    selected = cases(constitution, principles)
    with progress("examples", len(selected), "examples") as report:
        return judge_cases(
            selected, constitution, client.stream, memory, tie_margin=tie_margin, report=report
        )


def _report_outcomes(
    outcomes: Sequence[ExampleOutcome],
    constitution: Constitution,
    tie_margin: float,
    as_json: bool,
    junit: Path | None,
) -> None:
    from rlaif.constitution_tools.examples import summarize
    from rlaif.constitution_tools.junit import junit_xml
    from rlaif.constitution_tools.tables import print_outcomes
    from rlaif.data.records import atomic_open

    # The JUnit file comes in addition to either output.
    summary = summarize(outcomes, constitution)
    if junit:
        with atomic_open(junit) as out:
            out.write(junit_xml(constitution.name, outcomes))
    if not as_json:
        print_outcomes(outcomes, summary, output())
        return
    report = {
        "constitution": constitution.name,
        "constitution_sha256": constitution.digest,
        "tie_margin": tie_margin,
        "summary": asdict(summary),
        "examples": [_example(outcome) for outcome in outcomes],
    }
    print(json.dumps(report, ensure_ascii=False), flush=True)


def _example(outcome: ExampleOutcome) -> dict[str, object]:
    return {**asdict(outcome), "spread": outcome.spread, "passed": outcome.passed}


# ── diff ─────────────────────────────────────────────────────────────────────────────────────


def diff(
    old: Annotated[str, typer.Argument(help="The constitution the labels were made by.")],
    new: Annotated[str, typer.Argument(help="The edited constitution.")],
    labels: Labels,
    server: Server = DEFAULT_SERVER,
    judge: OwnJudge = "",
    limit: Limit = None,
    show: Annotated[
        int, typer.Option(min=0, help="Number of flips to show with their texts.")
    ] = 10,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show how much would be read, and stop.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show which stored labels an edit flips, how confidently, and which principles moved them.

    Only what the edit changed is read; a change of weights alone needs no judge. After a kill, the
    same command continues from diff.journal.jsonl beside the labels.
    """
    from constitution import Constitution
    from rlaif.constitution_tools.changes import list_changes
    from rlaif.constitution_tools.diff import Fresh, compare_labels, plan, read_missing, summary
    from rlaif.constitution_tools.tables import print_changes, print_difference, print_plan
    from rlaif.data.datasets import read_preferences

    before, after = Constitution.load(old), Constitution.load(new)
    changes = list_changes(before, after)
    planned = plan(read_preferences(labels), before, after, limit)
    console = output() if not as_json else None
    if console:
        print_changes(changes, console)
        print_plan(planned, console)
    if not planned.labels:
        raise UserError(
            f"{labels}: no label was made by {old} in its current form (sha256 "
            f"{before.digest[:12]}…); give the constitution the labels were made by as OLD, or "
            "label again"
        )
    report = {"changes": [asdict(change) for change in changes], "labels": len(planned.labels),
              "left_out": planned.left_out, "reads_wanted": planned.reads,
              "reads_of_a_full_relabel": planned.full_reads}  # fmt: skip
    if dry_run:
        if as_json:
            print(json.dumps(report, ensure_ascii=False))
        return
    fresh = Fresh()
    if planned.reads:
        with _judge(judge, server) as client:
            fresh = read_missing(planned, client, labels.with_name("diff.journal.jsonl"))
    difference = compare_labels(planned, fresh.answers)
    if console:
        print_difference(difference, planned, fresh.usage, show, console)
    else:
        report |= {**summary(difference, show), "usage": asdict(fresh.usage)}
        print(json.dumps(report, ensure_ascii=False))


# ── ablate ───────────────────────────────────────────────────────────────────────────────────


def ablate(
    name: ConstitutionFile,
    labels: Labels,
    gold: Annotated[Path | None, GOLD_PAIRS] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for pictures of the redundancy matrix."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show each principle's effect on stored labels, redundant principles, and accuracy on gold.

    Computed from the votes in the labels' receipts, without a judge.
    """
    from constitution import Constitution
    from rlaif.constitution_tools.ablate import redundancy, tabulate
    from rlaif.constitution_tools.ablation_report import AblationReport
    from rlaif.data.datasets import read_preferences
    from rlaif.labels.calibrate import load_gold

    constitution = Constitution.load(name)
    preferences = read_preferences(labels)
    table = tabulate(preferences, constitution, load_gold(gold) if gold else ())
    if not table.labels:
        raise UserError(
            f"{labels}: none of {len(preferences)} labels was made by {name} in its current form "
            f"(sha256 {constitution.digest[:12]}…); update them with: rlaif label --update"
        )
    report = AblationReport.of(table, constitution, len(preferences) - table.labels)
    # matplotlib is imported only if pictures are wanted.
    if out:
        from rlaif.constitution_tools.figures import draw_redundancy

        out.mkdir(parents=True, exist_ok=True)
        r = redundancy(table.probs)
        for suffix in ("svg", "png"):
            draw_redundancy(table.principles, r, out / f"redundancy.{suffix}")
    if as_json:
        print(json.dumps(report.as_dict(), ensure_ascii=False))
        return
    report.print(output())
    if out:
        output().print(f"redundancy matrix: {out / 'redundancy.svg'} and .png", highlight=False)


# ── try ──────────────────────────────────────────────────────────────────────────────────────


def try_(name: ConstitutionFile, server: Server = DEFAULT_SERVER, judge: OwnJudge = "") -> None:
    """Type a prompt and two responses and see the votes, while editing the file.

    A text ends with a line containing a single '.'; @FILE reads it from a file.
    """
    from constitution import Constitution
    from rlaif.constitution_tools.tables import print_votes
    from rlaif.constitution_tools.try_session import run_session

    Constitution.load(name)  # raises before a judge is started
    console = output()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    with _judge(judge, server) as client:
        try:
            run_session(
                name,
                iter(sys.stdin.readline, ""),
                lambda pair, constitution: client.compare(
                    pair.conversation,
                    pair.response_a,
                    pair.response_b,
                    constitution=constitution,
                ),
                say,
                lambda answer: print_votes(answer, console),
            )
        except KeyboardInterrupt:
            say("")
