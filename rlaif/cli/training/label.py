"""`rlaif label`: pairs of responses become labels. (`rlaif labels` looks at them: labels.py)"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from constitution.errors import UserError
from rlaif.cli.data.shards import (
    GpusOption,
    PartOption,
    RayOption,
    WorkersOption,
    fleet_of,
    print_report,
)
from rlaif.cli.judge.options import longest_wait, suggest_wait
from rlaif.cli.options import (
    DEFAULT_SERVER,
    ConstitutionName,
    OutFolder,
    OwnJudge,
    SamplePrinciples,
    Seed,
    Server,
    Wait,
    WaitTimeout,
    output,
)

if TYPE_CHECKING:
    from rlaif.feedback.counts import LabelingSummary
    from rlaif.labels.update import Update

AllPairs = Annotated[
    bool,
    typer.Option("--all-pairs", help="Label every pair of a prompt's responses, not just one."),
]
MaxLengthRatio = Annotated[
    float | None,
    typer.Option(
        min=1,
        help="Only pairs whose longer response has at most so many times the characters of the "
        "shorter one; default: any.",
    ),
]
FilterOption = Annotated[
    float | None,
    typer.Option(
        "--filter",
        min=0,
        max=1,
        help="First drop responses that the judge rates below minus this by any principle, on a "
        "scale from -1 to 1; default: none.",
        metavar="MARGIN",
    ),
]
UpdateOption = Annotated[
    bool,
    typer.Option(
        "--update",
        help="Label again after an edit of the constitution: keeps the previous labels as "
        "preferences.previous.parquet, and prints what changed and what it cost.",
    ),
]
ReplaceOption = Annotated[
    bool,
    typer.Option(
        "--replace",
        help="If the folder holds labels by another constitution, judge or options: label again, "
        "and keep the old file as preferences.CONSTITUTION-VERSION.DIGEST.parquet.",
    ),
]
OldConstitution = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="With --update: the constitution before the edit. Reads are then taken from the "
        "receipts, and only changed principles are judged again.",
        metavar="OLD.yaml",
    ),
]


def label(
    samples: Annotated[
        Path,
        typer.Argument(
            help="Samples of `rlaif sample`, lines of a prompt and its responses (docs/data.md), "
            "or a folder of shards."
        ),
    ],
    constitution: ConstitutionName = "",
    server: Server = DEFAULT_SERVER,
    wait: Wait = False,
    wait_timeout: WaitTimeout = None,
    judge: OwnJudge = "",
    out: OutFolder = Path("labels"),
    sample_principles: SamplePrinciples = None,
    seed: Seed = 0,
    all_pairs: AllPairs = False,
    max_length_ratio: MaxLengthRatio = None,
    filter_margin: FilterOption = None,
    replace: ReplaceOption = False,
    update: UpdateOption = False,
    old: OldConstitution = None,
    part: PartOption = "",
    ray: RayOption = "",
    gpus: GpusOption = None,
    workers: WorkersOption = None,
) -> None:
    """Label pairs of responses. Labels are saved as they arrive; a killed run resumes.

    Labels made by another constitution, judge or options are not overwritten: see --replace and
    --update. Of a folder of shards a folder of as many shards is made, by any number of such
    commands at once.
    """
    from rlaif.api.labeling import label as label_pairs
    from rlaif.api.labeling import update_labels
    from rlaif.api.sharded import label_shards
    from rlaif.data.shards.folder import is_shard_folder

    _check_label_options(constitution, old, update, replace)
    sharded = bool(part or ray) or is_shard_folder(samples)
    if sharded and (update or replace):
        raise UserError(
            "--update and --replace exclude a folder of shards; label into another --out"
        )
    if filter_margin is not None and update:
        raise UserError("--filter and --update exclude each other; label again with --replace")
    max_wait = longest_wait(wait, wait_timeout)
    asked: dict[str, Any] = {
        "out": out,
        "judge": judge,
        "server": "" if judge else server,
        "constitution": constitution,
        "wait": max_wait,
        "pairs_per_prompt": None if all_pairs else 1,
        "max_length_ratio": max_length_ratio,
        "sample_principles": sample_principles,
        "seed": seed,
    }
    with suggest_wait(judge, server, max_wait):
        if sharded:
            report = label_shards(
                samples,
                part=part,
                fleet=fleet_of(ray, gpus, workers),
                filter_margin=filter_margin,
                **asked,
            )
            print_report(report, out)
            return
        if update:
            updated = update_labels(samples, old=old or "", **asked)
            _print_labels(updated.summary, out, _describe_update(updated))
            return
        summary = label_pairs(samples, replace_labels=replace, filter_margin=filter_margin, **asked)
    counts = (
        f"{summary.asked_reads} reads computed, {summary.asked_stored_reads} from the store, "
        f"{summary.pairs - summary.asked} pairs already answered"
    )
    _print_labels(summary, out, counts)


def _check_label_options(constitution: str, old: Path | None, update: bool, replace: bool) -> None:
    if old and not update:
        raise UserError(
            "--from needs --update, which starts from that constitution; give --update too"
        )
    if old and not constitution:
        raise UserError(
            "--from OLD.yaml needs the edited constitution; name it with --constitution"
        )
    if replace and update:
        raise UserError("--replace and --update exclude each other; give one of them")


def _print_labels(summary: LabelingSummary, out: Path, details: str) -> None:
    from judge_service.planted.file import PREFIX
    from rlaif.feedback.undecided import undecided_warning

    console, made_by = output(), summary.judge.constitution
    console.print(
        f"{summary.judged} labels by {made_by.name} {made_by.version}, "
        f"{summary.unjudged} unjudged: {out / 'preferences.parquet'}",
        highlight=False,
    )
    if summary.filtered:
        reasons = ", ".join(f"{principle} {n}" for principle, n in summary.filtered.items())
        console.print(
            f"{sum(summary.filtered.values())} responses were dropped, as they break a principle: "
            f"{reasons}",
            highlight=False,
        )
    if summary.unrated:
        console.print(
            f"{summary.unrated} responses could not be rated by the filter, and were kept",
            highlight=False,
        )
    if summary.identical:
        console.print(
            f"{summary.identical} responses left out: identical to another one to their prompt",
            highlight=False,
        )
    if summary.cut_off:
        console.print(
            f"{summary.cut_off} of {summary.pairs} pairs hold a response that was cut off by its "
            "length limit: no training teaches an end for it",
            highlight=False,
        )
    if summary.unequal:
        console.print(
            f"{summary.unequal} pairs were not drawn: their lengths differ by more than "
            "--max-length-ratio",
            highlight=False,
        )
    warning = undecided_warning(summary.undecided, summary.judged, summary.mean_entropy)
    if warning:
        console.print(warning, highlight=False)
    if (model := summary.judge.model).name.startswith(PREFIX):
        console.print(f"labeled by {model.name}: planted, simulated by rules, no model")
    if summary.kept:
        console.print(f"earlier labels are kept: {out / summary.kept}", highlight=False)
    console.print(details, highlight=False)


def _describe_update(done: Update) -> str:
    """What an update changed and saved, in words."""
    change = done.change
    lines = [
        f"{change.changed} of {change.compared} labels changed their chosen response"
        + ("" if change.mean_change is None else f", mean |Δ prob| {change.mean_change:.4f}")
    ]
    if change.added or change.dropped:
        lines.append(f"{change.added} labels are new, {change.dropped} are gone")
    if done.reuse:
        lines.append(
            f"{done.reuse.labels} labels from receipts; reworded or new principles: "
            + (", ".join(done.reuse.changed) or "none")
        )
    saved = "" if done.saved is None else f" ({done.saved:.1%} saved)"
    lines.append(
        f"{done.reads} reads computed, {done.stored_reads} from the store and receipts{saved}"
    )
    return "\n".join(lines)
