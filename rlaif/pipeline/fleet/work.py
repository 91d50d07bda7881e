"""How a stage has its rows made by a fleet, and takes them back as files of its own.

    prompts, samples ─ split ─► STAGE/shards/KEY/in ─ workers ─► STAGE/shards/KEY/out ─► the stage

Samples are copied from the shards. Labels and revisions are not: the workers' journals of the
judge's answers are appended to the stage's own, and the stage then does what it does without a
fleet, with nothing left to ask. So its files, counts and marks are those of any other run, and a
run may go on with a fleet or without one. KEY is a digest of all that the stage declares: shards of
other settings are never taken. The folder goes when the stage is finished; until then a killed run
makes only the shards that are missing.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pydantic import BaseModel

from constitution.errors import UserError
from constitution.schema import Constitution
from judge_service.planted.file import planted_file
from judge_service.types import Conversation, Unjudged, Writing, WritingOptions
from rlaif.data.journal import Journal
from rlaif.data.records import Prompt, Sample, write_jsonl
from rlaif.data.shards.folder import Holds, is_shard_folder, read_list
from rlaif.data.shards.split import split
from rlaif.distributed.fleet import RayFleet
from rlaif.feedback.client import JudgeWhenNeeded
from rlaif.feedback.pairs import digest
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.fleet.config import FleetConfig
from rlaif.pipeline.fleet.places import fleet_of
from rlaif.pipeline.recipe import ModelSpec, Recipe
from rlaif.pipeline.runner import digested
from rlaif.pipeline.stage import Stage
from rlaif.sharding.jobs import ShardJob
from rlaif.sharding.judge import read_server_info
from rlaif.sharding.run import Outcome, ShardsReport, look, make_shards

SHARDS = "shards"


class FleetWorkError(UserError):
    """Shards of a stage that were not made: which, and what to do."""


def require_fleet(recipe: Recipe, stages: Iterable[Stage]) -> None:
    """Raises FleetError where a stage needs a fleet that is not there, or that is too small."""
    fleet = next(filter(None, (fleet_of(stage, recipe) for stage in stages)), None)
    if fleet is not None:
        _ray(fleet).require()


def _ray(fleet: FleetConfig) -> RayFleet:
    return RayFleet(fleet.ray, fleet.gpus, fleet.workers)


# ── shards ───────────────────────────────────────────────────────────────────────────────────


@contextmanager
def shards_made(
    stage: Stage,
    context: RunContext,
    records: Iterable[Prompt | Sample],
    job: Callable[[tuple[str, ...]], ShardJob],
) -> Iterator[Path]:
    """Yields the folder of the shards that the fleet made from the records; removes it at the end.

    job: from the names of the shards. Raises FleetWorkError where some were not made.
    """
    fleet = fleet_of(stage, context.recipe)
    assert fleet is not None, f"{stage.name} has no fleet"
    whole = stage.folder.absolute() / SHARDS
    folder = whole / digest([digested(stage, context), fleet.rows])[:16]
    for other in whole.glob("*"):  # of other settings
        if other != folder:
            shutil.rmtree(other)
    rows, source, out = folder / "rows.jsonl", folder / "in", folder / "out"
    write_jsonl(rows, records)
    holds: Holds = "prompts" if stage.kind == "sample" else "samples"
    split([rows], source, fleet.rows, holds)
    if not is_shard_folder(out) or look(out).there < len(read_list(source).shards):
        report = make_shards(source, out, job(read_list(source).shards), fleet=_ray(fleet))
        _require_all(stage, report)
    yield out
    shutil.rmtree(whole)


def _require_all(stage: Stage, report: ShardsReport) -> None:
    """Say what became of the shards. Raises FleetWorkError where not all are there."""
    made = report.outcomes.get(Outcome.MADE, 0)
    print(
        f"{stage.name}: {report.there} of {report.shards} shards, {made} made by this run; tries "
        f"lost with their worker {report.retried}, set aside {len(report.failed)}",
        file=sys.stderr,
    )
    if missing := report.shards - report.there:
        failed = "".join(f"\n  {name}: {error}" for name, error in report.failed.items())
        raise FleetWorkError(
            f"{missing} of {report.shards} shards are missing; run again: it makes only those"
            f"{failed}"
        )


def anywhere(name: str) -> str:
    """A model or constitution as it can be named on any host that shares these folders."""
    if (planted := planted_file(name)) is not None:
        return f"planted:{os.path.abspath(planted)}"
    return os.path.abspath(name) if os.path.exists(name) else name


def judge_flags(judge: ModelSpec) -> tuple[str, ...]:
    """The flags that a worker's own judge is started with."""
    return ("--dtype", judge.dtype, *judge.flags)


def judge_gpus(stage: Stage, recipe: Recipe) -> int:
    """GPUs over which a worker's judge is split; 0: as it finds them."""
    fleet = fleet_of(stage, recipe)
    return int(fleet.gpus) if fleet is not None and fleet.gpus > 1 else 0


# ── answers ──────────────────────────────────────────────────────────────────────────────────


class AnsweredJudge(JudgeWhenNeeded):
    """A judge whose answers are in the stage's journals: it is started for none that is there."""

    def critique(
        self,
        conversation: Conversation,
        response: str,
        constitution: str | Constitution,
        options: WritingOptions,
    ) -> Writing | Unjudged:
        """As JudgeClient.critique."""
        return self._judge().critique(conversation, response, constitution, options)

    def revise(
        self,
        conversation: Conversation,
        response: str,
        critique: str,
        constitution: str | Constitution,
        options: WritingOptions,
    ) -> Writing | Unjudged:
        """As JudgeClient.revise."""
        return self._judge().revise(conversation, response, critique, constitution, options)


@contextmanager
def answered(
    stage: Stage,
    context: RunContext,
    samples: Sequence[Sample],
    job: Callable[[tuple[str, ...]], ShardJob],
) -> Iterator[AnsweredJudge]:
    """Yields a judge whose answers about the samples the fleet has put into the stage's journals.

    job: keeps its journals. Raises as `shards_made`.
    """
    judge, constitution = stage.source("judge").spec, stage.options.constitution
    with shards_made(stage, context, _by_prompt(samples), job) as out, ExitStack() as stack:
        for journals in sorted(out.glob("*.journal")):
            _append(sorted(journals.iterdir()), stage.folder / f"{journals.name}.jsonl")
        log = stage.folder / "judge.log"
        yield AnsweredJudge(
            read_server_info(out),
            lambda: stack.enter_context(context.judge_client(judge, constitution, log)),
        )


def _by_prompt(samples: Sequence[Sample]) -> Iterator[Sample]:
    """The samples with all to one prompt together, whichever file they are from."""
    groups: dict[str, list[Sample]] = {}
    for each in samples:
        groups.setdefault(each.prompt.id, []).append(each)
    return (each for group in groups.values() for each in group)


def _append(files: Sequence[Path], journal: Path) -> None:
    """Add the lines of files to a journal. Of an answer that is there twice the last one counts."""
    with Journal(journal, BaseModel):  # cuts what a kill left of a line
        pass
    with journal.open("ab") as out:
        for file in files:
            with file.open("rb") as lines:
                shutil.copyfileobj(lines, out)
        out.flush()
        os.fsync(out.fileno())
