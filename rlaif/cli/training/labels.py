"""`rlaif labels …`: show, count, verify, recalibrate and export labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from constitution.errors import UserError
from rlaif.cli.options import (
    DEFAULT_SERVER,
    AsJson,
    OutFile,
    OutFolder,
    OwnJudge,
    Seed,
    Server,
    output,
)

if TYPE_CHECKING:
    from rich.console import Console

    from constitution import Constitution
    from rlaif.data.records import Preference
    from rlaif.evaluation.intervals import Estimate
    from rlaif.feedback.receipts import Receipt
    from rlaif.labels.statistics import LabelStats, TraitWeights
    from rlaif.labels.verify import OfflineReport, Replay

app = typer.Typer(help="Show, verify, recalibrate and export labels.", no_args_is_help=True)

LabelFile = Annotated[
    Path, typer.Argument(help="preferences.parquet, a .jsonl of preferences, or their folder.")
]
Constitutions = Annotated[
    list[str] | None,
    typer.Option(
        "--constitution",
        "-c",
        help="A constitution the labels were made by, if it is not a shipped one; repeatable.",
    ),
]


class Form(StrEnum):
    """The output format of `export`."""

    TRL = "trl"
    OPENRLHF = "openrlhf"
    JSONL = "jsonl"


# ── show ─────────────────────────────────────────────────────────────────────────────────────


@app.command(epilog="Example: rlaif labels show labels/preferences.parquet parcel-7/0-1")
def show(
    file: LabelFile,
    id: Annotated[str, typer.Argument(help="The label's id.")],
    as_json: AsJson = False,
) -> None:
    """Show one label: its texts, every vote with its reads, and its origin."""
    from rlaif.data.datasets import iter_preferences
    from rlaif.feedback.receipts import parse_receipt

    first_ids: list[str] = []
    for label in iter_preferences(_file(file)):
        if label.id == id:
            break
        if len(first_ids) < 3:
            first_ids.append(label.id)
    else:
        known = f"its ids are {', '.join(first_ids)}, …" if first_ids else "it contains no labels"
        raise UserError(f"{file}: unknown label id: {id!r}; {known}")
    receipt = parse_receipt(label)
    if as_json:
        shown = {**label.model_dump(exclude={"receipt"}), "receipt": json.loads(label.receipt)}
        print(json.dumps(shown, ensure_ascii=False))
        return
    _show(output(), label, receipt)


def _show(out: Console, label: Preference, receipt: Receipt) -> None:
    from rlaif.terminal_tables import print_table

    def say(text: str) -> None:
        out.print(text, markup=False, highlight=False)

    # The pair and the label.
    for message in label.prompt:
        say(f"{message.role}: {message.content}")
    other = "B" if receipt.chosen == "A" else "A"
    say(f"\nchosen (response {receipt.chosen}): {label.chosen_text}")
    say(f"\nrejected (response {other}): {label.rejected_text}\n")
    traits = ", ".join(f"{t} {p:.3f}" for t, p in label.traits.items() if p is not None)
    say(f"P(chosen is better) = {label.prob_chosen:.4f}   by trait: {traits}")
    gap = "-" if receipt.order_gap is None else f"{receipt.order_gap:.3f}"
    same = {True: "yes", False: "no", None: "-"}[receipt.position_consistent]
    say(f"verdict {receipt.verdict.value}, order gap {gap}, same response in both orders: {same}")
    # Its reads, under the vote that each belongs to.
    rows = []
    for vote in receipt.votes:
        for place, read in enumerate(vote.reads):
            first = place == 0
            rows.append([
                vote.principle_id if first else "",
                vote.trait if first else "",
                f"{vote.weight:g}" if first else "",
                f"{vote.prob_a:.4f}" if first else "",
                read.order.value + (" (stored)" if read.stored else ""),
                f"{read.prob_first:.4f}",
                f"{read.logprob_first:.4f} {read.logprob_second:.4f}",
                f"{read.label_mass:.3f}",
            ])  # fmt: skip
    headings = ("principle", "trait", "weight", "P(A)", "order", "P(first)", "log-probs", "mass")
    print_table(out, headings, rows, folded={"principle", "trait", "order", "log-probs"})
    # Its origin.
    origin = receipt.provenance
    say(
        f"constitution {origin.constitution_name} {origin.constitution_version}, "
        f"sha256 {origin.constitution_sha256}"
    )
    model = origin.model
    say(f"model {model.name}, {model.dtype}, {model.engine}, weights {model.weights_sha256}")
    say(f"template {origin.template_version}, read {origin.protocol}, seed {origin.seed}")
    applied = [("reader", origin.reader), ("calibration", origin.calibration)]
    named = [f"{what} {digest}" for what, digest in applied if digest]
    say(f"{named[0]}, P(A) before it = {receipt.raw_prob_a:.4f}" if named else "calibration none")


# ── stats ────────────────────────────────────────────────────────────────────────────────────


@app.command("stats", epilog="Example: rlaif labels stats labels")
def show_stats(
    file: LabelFile, constitution: Constitutions = None, as_json: AsJson = False
) -> None:
    """Show balance, confidence, consistency, principles, abstentions and length bias."""
    from rlaif.data.datasets import iter_preferences
    from rlaif.labels.statistics import read_unjudged, stats

    path = _file(file)
    counted = stats(iter_preferences(path), _trait_weights(constitution), read_unjudged(path))
    if as_json:
        print(json.dumps(asdict(counted), ensure_ascii=False))
    else:
        _print_stats(output(), counted)


def _print_stats(out: Console, stats: LabelStats) -> None:
    from rlaif.feedback.undecided import undecided_warning
    from rlaif.terminal_tables import print_table

    def say(text: str) -> None:
        out.print(text, markup=False, highlight=False)

    say(f"{stats.labels} labels of {stats.prompts} prompts, {stats.ties} ties")
    if stats.cut_off:
        say(f"{stats.cut_off} with a response that was cut off by its length limit")
    for kind, counts in (("constitution", stats.constitutions), ("judge", stats.models)):
        say(f"{kind}: " + "; ".join(f"{name}: {n}" for name, n in counts.items()))
    if stats.unjudged:
        reasons = ", ".join(f"{reason} {n}" for reason, n in stats.unjudged.items())
        say(f"without a label: {sum(stats.unjudged.values())} ({reasons})")
    say(f"chosen is response A: {_share(stats.chosen_a)}")
    say(f"chosen is longer: {_share(stats.chosen_longer)}")
    say(f"same response in both orders: {_number(stats.position_consistency)}")
    say(f"order gap, mean: {_number(stats.mean_order_gap)}")
    mass, lowest = _number(stats.mean_label_mass), _number(stats.lowest_label_mass)
    say(f"label mass, mean: {mass}, lowest {lowest}")
    say(f"reads: {stats.reads}, {stats.stored_reads} of them stored; void: {stats.void_reads}")
    entropy = f"entropy, mean: {stats.mean_entropy:.3f} bits"
    say(f"prob_chosen, mean: {stats.mean_prob_chosen:.3f}; {entropy}")
    if warning := undecided_warning(stats.undecided, stats.labels, stats.mean_entropy):
        say(warning)
    # The histogram, scaled to its largest bin; then each principle.
    width, most = 0.5 / len(stats.histogram), max(stats.histogram)
    for place, n in enumerate(stats.histogram):
        low = 0.5 + place * width
        say(f"  {low:.2f} - {low + width:.2f} {'█' * round(40 * n / most):40} {n}")
    say("P(chosen) by trait: " + ", ".join(f"{t} {p:.3f}" for t, p in stats.traits.items()))
    rows = [
        [
            p.principle_id,
            p.trait,
            str(p.labels),
            f"{p.mean_prob_a:.3f}",
            f"{p.mean_prob_chosen:.3f}",
            f"{p.decides:.1%}",
            f"{p.agrees:.1%}",
            _number(p.mean_order_gap),
        ]
        for p in stats.principles
    ]
    headings = ("principle", "trait", "labels", "P(A)", "P(chosen)", "decides", "agrees", "gap")
    print_table(out, headings, rows, folded={"principle", "trait"})


def _share(share: Estimate) -> str:
    return f"{share.value:.1%} (95 %: {share.low:.1%} to {share.high:.1%})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


# ── verify ───────────────────────────────────────────────────────────────────────────────────


@app.command(epilog="Example: rlaif labels verify labels --sample 50 --judge qwen2.5-coder-1.5b")
def verify(
    file: LabelFile,
    server: Server = DEFAULT_SERVER,
    judge: OwnJudge = "",
    sample: Annotated[
        int, typer.Option(min=1, help="Number of labels to draw with the seed and recompute.")
    ] = 50,
    seed: Seed = 0,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Largest |Δ P| allowed; default: 0.02 for labels made in bfloat16, 0.0025 in "
            "float16, 0.001 in float32.",
        ),
    ] = None,
    offline: Annotated[
        bool,
        typer.Option(
            "--offline", help="Recompute every label from its own reads, without a judge."
        ),
    ] = False,
    constitution: Constitutions = None,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(
            "--calibration",
            help="With --offline: a file of calibrations that receipts name, so that what they "
            "made is recomputed too; repeatable.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Recompute labels and compare; exits with 1 if they do not reproduce."""
    from rlaif.data.datasets import iter_preferences
    from rlaif.feedback.client import judge_client
    from rlaif.labels.verify import draw, replay, verify_offline

    if calibration and not offline:
        raise UserError("--calibration needs --offline: a replay compares what comes before it")
    # Both ways give a report with `passed`; only a replay needs a judge.
    path = _file(file)
    report: OfflineReport | Replay
    if offline:
        from judge_service.judge.calibration import read_calibrations

        named = [fitted for file in calibration or () for fitted in read_calibrations(file)]
        report = verify_offline(iter_preferences(path), _trait_weights(constitution), named)
        if not report.labels:
            raise UserError(f"{path}: the file contains no labels to verify; give another file")
        text = _offline_text(report)
    else:
        drawn = draw(iter_preferences(path), sample, seed)
        if not drawn:
            raise UserError(f"{path}: the file contains no labels to verify; give another file")
        log, names = path.with_name("verify.judge.log"), constitution or ""
        with judge_client(judge, names, log, server) as client:
            report = replay(drawn, client, tolerance, _load_constitutions(constitution))
        text = _replay_text(report)
    if as_json:
        print(json.dumps({"passed": report.passed, **asdict(report)}, ensure_ascii=False))
    else:
        output().print(text, markup=False, highlight=False)
    if not report.passed:
        raise typer.Exit(1)


def _offline_text(report: OfflineReport) -> str:
    lines = [
        f"{report.labels} labels recomputed from their reads, {report.wrong} differ",
        *report.examples,
    ]
    lines += [
        f"{n} labels by {name}: the sum over traits was not checked; "
        "give the constitution with --constitution"
        for name, n in report.without_weights.items()
    ]
    return "\n".join(lines)


def _replay_text(report: Replay) -> str:
    lines = [
        f"{report.recomputed} of {report.sampled} labels recomputed with {report.reads} reads",
        f"|Δ P|: largest {report.largest:.6f}"
        + (f" ({report.largest_id})" if report.largest_id else "")
        + f", mean {report.mean:.6f}; tolerance {report.tolerance:g}, above it {report.beyond}",
        f"|Δ log-prob| of a read: largest {report.largest_logprob:.6f}",
        f"labels with another chosen response: {report.chosen_differs}",
        f"labels with another prompt, by its digest: {report.asked_differently}",
    ]
    lines += [
        f"{n} labels not recomputed: the judge does not serve {name}; "
        "give the constitution with --constitution"
        for name, n in report.no_constitution.items()
    ]
    lines += [f"{n} labels by another judge: {what}" for what, n in report.other_model.items()]
    lines += [f"{n} labels not recomputed: {reason}" for reason, n in report.no_answer.items()]
    lines.append("the labels reproduce" if report.passed else "the labels do not reproduce")
    return "\n".join(lines)


# ── recalibrate ──────────────────────────────────────────────────────────────────────────────


@app.command(
    epilog="Example: rlaif labels recalibrate labels --calibration overall.calibration.json "
    "--out recalibrated"
)
def recalibrate(
    file: LabelFile,
    calibration: Annotated[
        Path, typer.Option(help="Calibration file; its entry for these labels is applied.")
    ],
    out: OutFolder,
) -> None:
    """Apply a calibration or a fitted reader to labels from their receipts, without a read."""
    from rlaif.data.datasets import iter_preferences
    from rlaif.data.records import write_preferences
    from rlaif.labels.recalibrate import Recalibrated, find_calibration, recalibrate_all

    path, target = _file(file), out / "preferences.parquet"
    if target.exists():
        raise UserError(f"{target}: exists already; choose another folder with --out")
    first = next(iter_preferences(path), None)
    if first is None:
        raise UserError(f"{path}: the file contains no labels; give another file")
    fitted, counts = find_calibration(calibration, first), Recalibrated()
    write_preferences(target, recalibrate_all(iter_preferences(path), fitted, counts))
    output().print(
        f"{counts.labels} labels by {fitted.kind} {fitted.sha256[:16]}…: {target}; "
        f"{counts.changed} choose the other response now",
        markup=False,
        highlight=False,
    )


# ── export ───────────────────────────────────────────────────────────────────────────────────


@app.command(
    "export", epilog="Example: rlaif labels export labels --format openrlhf --out pairs.jsonl"
)
def export_labels(
    file: LabelFile,
    out: OutFile,
    form: Annotated[Form, typer.Option("--format", help="The format to write.")] = Form.TRL,
    min_prob: Annotated[
        float, typer.Option(min=0.5, max=1, help="Only labels with at least this prob_chosen.")
    ] = 0.5,
) -> None:
    """Export labels for TRL or OpenRLHF, or as plain JSON lines."""
    from rlaif.data.datasets import iter_preferences
    from rlaif.labels.export import export

    done = export(iter_preferences(_file(file)), out, form.value, min_prob)
    said = f"{done.written} labels: {out}; {done.left_out} below --min-prob {min_prob:g} left out"
    output().print(said, markup=False, highlight=False, soft_wrap=True)


# ── shared ───────────────────────────────────────────────────────────────────────────────────


def _file(path: Path) -> Path:
    from rlaif.data.datasets import labels_at

    return labels_at(path)


def _load_constitutions(names: list[str] | None) -> list[Constitution]:
    """The shipped constitutions and the named ones."""
    from constitution import Constitution

    return [Constitution.load(name) for name in (*Constitution.library_names(), *(names or ()))]


def _trait_weights(names: list[str] | None) -> TraitWeights:
    known: Mapping[str, Mapping[str, float]] = {
        constitution.digest: constitution.trait_weights
        for constitution in _load_constitutions(names)
    }
    return known.get
