"""`rlaif judge bench`: a judge on public benchmarks, beside what needs no judge."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from constitution import DEFAULT_CONSTITUTION
from constitution.errors import UserError
from rlaif.cli import complete
from rlaif.cli.judge.options import Fresh, Protocol, bulk_judge, longest_wait
from rlaif.cli.options import (
    DEFAULT_SERVER,
    AsJson,
    ConstitutionName,
    OwnJudge,
    RewardFolder,
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
    from rlaif.bench.result import BenchResult
    from rlaif.evaluation.judges.worth import JudgeWorth
    from rlaif.gold_sets.questions import GoldQuestion, GoldSet
    from rlaif.models.reward_model import RewardModel

GoldFiles = Annotated[
    list[Path],
    typer.Argument(
        help="Files of gold questions: RewardBench 1 and 2, RM-Bench, JudgeBench, HHH, LLMBar, "
        "PandaLM, XSTest, or pairs (prompt, chosen, rejected); JSONL, JSON or Parquet.",
        metavar="FILE...",
    ),
]
FormatName = Annotated[
    str,
    typer.Option(
        "--format", help="The files' format; default: recognized by their columns (docs/bench.md)."
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="Ask N questions of each file, drawn with the seed.", metavar="N"),
]
FloorTrain = Annotated[
    Path | None,
    typer.Option(
        help="Fit the floors on this file's questions, in place of cross-validation.",
        metavar="FILE",
    ),
]
BenchFolder = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o",
        help="The folder for answers and bench.json; default: in the cache. A killed run resumes.",
    ),
]  # fmt: skip
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be asked and read, and stop.")
]


def judge_bench(
    files: GoldFiles,
    format: FormatName = "",
    constitution: ConstitutionName = "",
    server: Server = DEFAULT_SERVER,
    wait: Wait = False,
    wait_timeout: WaitTimeout = None,
    judge: OwnJudge = "",
    limit: Limit = None,
    obedience: Annotated[
        int,
        typer.Option(
            min=0,
            help="Ask N questions of each file by the inverted principles, too, and say whether "
            "the labels turn around; 0: none. Not with --scores.",
            metavar="N",
        ),
    ] = 100,
    inverted: Annotated[
        str,
        typer.Option(
            help="A constitution with the same principles, each asking the opposite; default: "
            "made from the principles' texts, as --dry-run shows them.",
            metavar="FILE",
            autocompletion=complete.constitutions,
        ),
    ] = "",
    scores: Annotated[
        bool,
        typer.Option("--scores", help="Score each response alone instead of comparing pairs."),
    ] = False,
    floor_train: FloorTrain = None,
    protocol: Protocol = "",
    sample_principles: SamplePrinciples = None,
    rationale: Annotated[
        int,
        typer.Option(
            min=0, metavar="TOKENS", help="Let the judge write a rationale before each read."
        ),
    ] = 0,
    fresh: Fresh = False,
    seed: Seed = 0,
    out: BenchFolder = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Judge questions whose right answers are known; print the leaderboards' figures.

    Beside them: what needs no judge (random, the longer response, surface features, a bag of
    words), how far the labels follow length and position, and whether they turn around with the
    principle. Intervals are 95 %, clustered by prompt.
    """
    from rlaif.bench.obedience import inverse_of, require_same_principles
    from rlaif.models.catalog import cache_folder

    # Everything that can be refused is refused before a judge is loaded.
    gold = _load(files, format, limit, seed)
    train = _train(floor_train, gold)
    if inverted and (scores or not obedience):
        raise UserError(
            "--inverted is for obedience, which is not measured with "
            f"{'--scores' if scores else '--obedience 0'}; leave one of them out"
        )
    opposite = _constitution(inverted) if inverted else None
    expected = _constitution(constitution) if _is_local(constitution) else None
    if opposite and expected:
        require_same_principles(expected, opposite, inverted)
    if dry_run:
        shown = expected or _constitution(DEFAULT_CONSTITUTION)
        _print_plan(
            gold, shown, opposite or inverse_of(shown), 0 if scores else obedience, seed, scores
        )
        return
    from rlaif.bench.judge import JudgeBench, uncalibrated
    from rlaif.bench.result import result
    from rlaif.bench.worth import worth

    folder = out or cache_folder() / "bench"
    found: list[BenchResult] = []
    problems: list[str] = []
    waited = longest_wait(wait, wait_timeout)
    with bulk_judge(judge, constitution, folder / "judge.log", server, waited) as client:
        by = expected or client.constitution(constitution)
        if opposite:
            require_same_principles(by, opposite, inverted)
        served = client.server_info().model
        asked = JudgeBench(
            client=client,
            folder=folder,
            constitution=by,
            inverted=opposite or inverse_of(by),
            obedience_questions=0 if scores else obedience,
            options=uncalibrated(
                protocol=protocol,
                sample_principles=sample_principles,
                seed=seed,
                max_rationale_tokens=rationale,
                use_store=not fresh,
            ),
            by_scores=scores,
            seed=seed,
        )
        name = f"{served.name if served else 'judge'} by {by.name} {by.version}"
        for each, questions in gold:
            answered = asked.answer(questions)
            measured = result(each, questions, answered, name, seed=seed, floor_train=train)
            if measured is None:
                problems.append(_unanswered(each, answered.unanswered))
            else:
                found.append(measured)
    known = worth(found, served, f"{by.name} {by.version}") if served else []
    _finish(found, problems, folder, as_json, known)


def reward_bench(
    folder: RewardFolder,
    files: GoldFiles,
    format: FormatName = "",
    model: Annotated[
        str,
        typer.Option(
            help="The base model, where it is no longer where it was trained.",
            autocompletion=complete.models,
        ),
    ] = "",
    limit: Limit = None,
    floor_train: FloorTrain = None,
    seed: Seed = 0,
    out: BenchFolder = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Score responses whose right answers are known; print the leaderboards' figures.

    Beside them: what needs no model (random, the longer response, surface features, a bag of
    words), and how far the scores follow length. Intervals are 95 %, clustered by prompt.
    """
    from rlaif.models.catalog import cache_folder
    from rlaif.models.reward.weights import read_facts

    gold = _load(files, format, limit, seed)
    train = _train(floor_train, gold)
    read_facts(folder)  # raises for what is not a reward model
    if dry_run:
        for each, questions in gold:
            responses = sum(len(question.responses) for question in questions)
            _say(f"{_described(each, questions)}; {responses} responses to score")
        return
    from rlaif.bench.result import result
    from rlaif.bench.reward import load_reward_model, reward_answers

    loaded: RewardModel = load_reward_model(folder, model)
    kept = out or cache_folder() / "bench"
    found: list[BenchResult] = []
    problems: list[str] = []
    for each, questions in gold:
        answered = reward_answers(questions, folder, loaded, kept)
        measured = result(each, questions, answered, f"{folder}", seed=seed, floor_train=train)
        if measured is None:
            problems.append(_unanswered(each, answered.unanswered))
        else:
            found.append(measured)
    _finish(found, problems, kept, as_json)


# ── shared ───────────────────────────────────────────────────────────────────────────────────

_Gold = list[tuple["GoldSet", "Sequence[GoldQuestion]"]]


def _load(files: Sequence[Path], format: str, limit: int | None, seed: int) -> _Gold:
    from rlaif.gold_sets.questions import draw, load_gold_set

    sets = [load_gold_set(path, format or None) for path in files]
    return [(each, draw(each.questions, limit, seed)) for each in sets]


def _train(path: Path | None, gold: _Gold) -> Sequence[GoldQuestion] | None:
    """The questions to fit floors on; refused where the prompts that are not asked are too few."""
    if path is None:
        return None
    from rlaif.gold_sets.floors import FEWEST_PROMPTS
    from rlaif.gold_sets.questions import read_gold

    train = read_gold(path)
    for each, questions in gold:
        asked = {question.prompt_id for question in questions}
        others = {question.prompt_id for question in train} - asked
        if len(others) < FEWEST_PROMPTS:
            raise UserError(
                f"{path}: too few prompts to fit floors on that {each.path.name} does not ask: "
                f"{len(others)}; give {FEWEST_PROMPTS} or more, or leave out --floor-train"
            )
    return train


def _is_local(constitution: str) -> bool:
    """Whether the text names a YAML file; other names are the server's."""
    return "/" in constitution or constitution.endswith((".yaml", ".yml"))


def _constitution(name: str) -> Constitution:
    from constitution import Constitution

    return Constitution.load(name)


def _unanswered(gold: GoldSet, reasons: dict[str, int]) -> str:
    """The problem of a file without an answer: its reasons, and what helps against the first."""
    counts = ", ".join(f"{reason} {n}" for reason, n in reasons.items())
    remedy = (
        "raise the model's context, or give shorter questions"
        if next(iter(reasons), "") == "too_long"
        else "see the judge's log, or ask another judge"
    )
    return f"{gold.path}: no question could be answered ({counts}); {remedy}"


def _print_plan(
    gold: _Gold,
    constitution: Constitution,
    inverse: Constitution,
    obedience: int,
    seed: int,
    scores: bool,
) -> None:
    from rlaif.bench.plan import count_reads, drawn_places

    for each, questions in gold:
        reads = count_reads(questions, constitution, scores)
        places = drawn_places(len(questions), obedience, seed)
        more = count_reads([questions[n] for n in places], constitution, scores)
        _say(
            f"{_described(each, questions)}; {reads} reads by {constitution.name}, and {more} by "
            "its inversion"
        )
    if obedience:
        for principle in inverse.principles:
            _say(f"inverted {principle.id}: {principle.compare}")


def _described(gold: GoldSet, questions: Sequence[GoldQuestion]) -> str:
    prompts = len({question.prompt_id for question in questions})
    groups = len({question.group for question in questions})
    left_out = sum(gold.left_out.values())
    text = (
        f"{gold.path.name} ({gold.format}): {len(questions)} of {len(gold.questions)} questions, "
        f"{prompts} prompts, {groups} groups"
    )
    return f"{text}, {left_out} rows left out" if left_out else text


def _finish(
    found: Sequence[BenchResult],
    problems: Sequence[str],
    folder: Path,
    as_json: bool,
    known_worth: Sequence[JudgeWorth] = (),
) -> None:
    """Show the results, and then raise UserError for the files without an answer."""
    if found:
        _show(found, folder, as_json, known_worth)
    if problems:
        raise UserError("\n".join(problems))


def _show(
    found: Sequence[BenchResult], folder: Path, as_json: bool, known_worth: Sequence[JudgeWorth]
) -> None:
    import json

    from rlaif.bench.result import as_json as to_json
    from rlaif.bench.table import print_overview, print_result
    from rlaif.data.records import write_json

    content = to_json(found, known_worth)
    write_json(folder / "bench.json", content)
    if as_json:
        print(json.dumps(content, ensure_ascii=False))
        return
    for each in found:
        print_result(each, output())
    if len(found) > 1:
        print_overview(found, output())
    print(f"results: {folder / 'bench.json'}", file=sys.stderr)


def _say(text: str) -> None:
    output().print(text, highlight=False, markup=False, soft_wrap=True)
