"""`rlaif constitution test | diff | ablate | try`: edit a constitution with confidence."""

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
from rlaif.cli.options import DEFAULT_SERVER, AsJson, OwnJudge, Server, output

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, MutableMapping, Sequence

    from constitution import Constitution
    from judge_service.client.sync import JudgeClient
    from rlaif.constitution_tools.examples import Answer, ExampleOutcome

Law = Annotated[
    str, typer.Argument(metavar="FILE", help="A YAML file, or the name of a shipped constitution.")
]
Labels = Annotated[
    Path, typer.Option(help="Labels with receipts: the preferences.parquet of rlaif label.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N labels.")]


@contextmanager
def _judge(model: str, server: str) -> Iterator[JudgeClient]:
    """A running judge, or one of our own; its constitution is sent with every question."""
    from rlaif.feedback.client import judge_client

    with (
        tempfile.TemporaryDirectory(prefix="rlaif-judge-") as folder,
        judge_client(model, "", Path(folder) / "judge.log", server) as client,
    ):
        yield client


# ── test ─────────────────────────────────────────────────────────────────────────────────────


def check(
    name: Law,
    server: Server = DEFAULT_SERVER,
    judge: OwnJudge = "",
    principle: Annotated[
        list[str] | None, typer.Option(help="Only the examples of this principle; repeatable.")
    ] = None,
    tie_margin: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="How far from 0.5 an expected tie may be.")
    ] = 0.1,
    as_json: AsJson = False,
    junit: Annotated[
        Path | None, typer.Option(help="Write the outcomes as JUnit XML, too.", metavar="FILE")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Run again on every save, asking only what changed.")
    ] = False,
) -> None:
    """Does the judge decide every principle's examples as their author means?

    Each example is asked of its own principle alone, in both orders. Exits with 1 if any fails.
    """
    from constitution import Constitution
    from rlaif.constitution_tools.examples import cases

    if watch and not Path(name).is_file():
        raise UserError(f"--watch {name}: no such file; a constitution that ships cannot change")
    if not watch:
        cases(Constitution.load(name), principle or ())  # mistakes are told before a judge starts
    memory: dict[str, Answer] = {}
    with _judge(judge, server) as client:

        def run() -> bool:
            law = Constitution.load(name)
            outcomes = _ask_examples(law, client, principle or (), tie_margin, memory)
            _tell_outcomes(outcomes, law, tie_margin, as_json, junit)
            return all(outcome.passed for outcome in outcomes)

        if watch:
            _on_every_save(Path(name), run)
        elif not run():
            raise typer.Exit(1)


def _on_every_save(file: Path, run: Callable[[], object]) -> None:
    """Until Ctrl-C. A file that is broken for the moment is told, and its mending waited for."""
    from rlaif.constitution_tools.watch import saves

    try:
        for _ in saves(file):
            try:
                run()
            except UserError as error:
                print(error, file=sys.stderr)
            print(f"waiting for {file} to be saved; Ctrl-C ends", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("\nno longer watching", file=sys.stderr)


def _ask_examples(
    law: Constitution,
    client: JudgeClient,
    principles: Collection[str],
    tie_margin: float,
    memory: MutableMapping[str, Answer],
) -> tuple[ExampleOutcome, ...]:
    from rlaif.constitution_tools.examples import cases, judge_cases
    from rlaif.progress import progress

    found = cases(law, principles)
    with progress("examples", len(found), "examples") as report:
        return judge_cases(found, law, client.stream, memory, tie_margin=tie_margin, report=report)


def _tell_outcomes(
    outcomes: Sequence[ExampleOutcome],
    law: Constitution,
    tie_margin: float,
    as_json: bool,
    junit: Path | None,
) -> None:
    from rlaif.constitution_tools.examples import summarize
    from rlaif.constitution_tools.junit import junit_xml
    from rlaif.constitution_tools.tables import print_outcomes
    from rlaif.data.records import atomic_open

    summary = summarize(outcomes, law)
    if junit:
        with atomic_open(junit) as out:
            out.write(junit_xml(law.name, outcomes))
    if not as_json:
        print_outcomes(outcomes, summary, output())
        return
    told = {
        "constitution": law.name,
        "constitution_sha256": law.digest,
        "tie_margin": tie_margin,
        "summary": asdict(summary),
        "examples": [_example(outcome) for outcome in outcomes],
    }
    print(json.dumps(told, ensure_ascii=False), flush=True)


def _example(outcome: ExampleOutcome) -> dict[str, object]:
    return {**asdict(outcome), "spread": outcome.spread, "passed": outcome.passed}


# ── diff ─────────────────────────────────────────────────────────────────────────────────────


def diff(
    old: Annotated[str, typer.Argument(help="The constitution that the labels were made under.")],
    new: Annotated[str, typer.Argument(help="The edited one.")],
    labels: Labels,
    server: Server = DEFAULT_SERVER,
    judge: OwnJudge = "",
    limit: Limit = None,
    show: Annotated[int, typer.Option(min=0, help="How many flips to show with their texts.")] = 10,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be read; ask nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Which stored labels an edit flips, how surely, and what moved them.

    Only what the edit changed is read; a change of weights alone needs no judge at all. Killed and
    started again, it goes on from diff.journal.jsonl beside the labels.
    """
    from constitution import Constitution
    from rlaif.constitution_tools import diff as differences
    from rlaif.constitution_tools.changes import list_changes
    from rlaif.constitution_tools.tables import print_changes, print_difference, print_plan
    from rlaif.data.datasets import read_preferences

    before, after = Constitution.load(old), Constitution.load(new)
    changes = list_changes(before, after)
    planned = differences.plan(read_preferences(labels), before, after, limit)
    told = output() if not as_json else None
    if told:
        print_changes(changes, told)
        print_plan(planned, told)
    if not planned.labels:
        raise UserError(
            f"{labels}: no label was made under {old} as it is now (sha256 {before.digest[:12]}…); "
            "give the constitution that labeled as OLD, or label again"
        )
    report = {"changes": [asdict(change) for change in changes], "labels": len(planned.labels),
              "left_out": planned.left_out, "reads_wanted": planned.reads,
              "reads_of_a_full_relabel": planned.full_reads}  # fmt: skip
    if dry_run:
        if as_json:
            print(json.dumps(report, ensure_ascii=False))
        return
    fresh = differences.Fresh()
    if planned.reads:
        with _judge(judge, server) as client:
            journal = labels.with_name("diff.journal.jsonl")
            fresh = differences.read_missing(planned, client, journal)
    found = differences.compare_labels(planned, fresh.answers)
    if told:
        print_difference(found, planned, fresh.usage, show, told)
    else:
        report |= {**differences.summary(found, show), "usage": asdict(fresh.usage)}
        print(json.dumps(report, ensure_ascii=False))


# ── ablate ───────────────────────────────────────────────────────────────────────────────────


def ablate(
    name: Law,
    labels: Labels,
    gold: Annotated[
        Path | None,
        typer.Option(help="JSONL of pairs with a known better one: prompt, chosen, rejected."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the redundancy matrix as pictures."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What each principle does to stored labels, which repeat each other, and what gold says.

    Read from the votes in the labels' receipts: no judge is asked.
    """
    from constitution import Constitution
    from rlaif.constitution_tools import ablate as ablation
    from rlaif.constitution_tools.ablation_report import AblationReport
    from rlaif.data.datasets import read_preferences
    from rlaif.labels.calibrate import load_gold

    law = Constitution.load(name)
    preferences = read_preferences(labels)
    table = ablation.tabulate(preferences, law, load_gold(gold) if gold else ())
    if not table.labels:
        raise UserError(
            f"{labels}: none of {len(preferences)} labels was made under {name} as it is now "
            f"(sha256 {law.digest[:12]}…); bring them up to date with: rlaif label --update"
        )
    report = AblationReport.of(table, law, len(preferences) - table.labels)
    if out:
        from rlaif.constitution_tools.figures import draw_redundancy

        out.mkdir(parents=True, exist_ok=True)
        r = ablation.redundancy(table.probs)
        for ending in ("svg", "png"):
            draw_redundancy(table.principles, r, out / f"redundancy.{ending}")
    if as_json:
        print(json.dumps(report.as_dict(), ensure_ascii=False))
        return
    report.print(output())
    if out:
        output().print(f"redundancy matrix: {out / 'redundancy.svg'} and .png", highlight=False)


# ── try ──────────────────────────────────────────────────────────────────────────────────────


def try_(name: Law, server: Server = DEFAULT_SERVER, judge: OwnJudge = "") -> None:
    """Type a prompt and two responses, see the votes; edit the file meanwhile.

    A text ends with a line that holds a single '.'; @FILE takes a file's text.
    """
    from constitution import Constitution
    from rlaif.constitution_tools.tables import print_votes
    from rlaif.constitution_tools.try_session import hold

    Constitution.load(name)  # a mistake in it is told before a judge is started
    console = output()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    with _judge(judge, server) as client:
        try:
            hold(
                name,
                iter(sys.stdin.readline, ""),
                lambda pair, law: client.compare(
                    pair.conversation, pair.response_a, pair.response_b, constitution=law
                ),
                say,
                lambda found: print_votes(found, console),
            )
        except KeyboardInterrupt:
            say("")
