"""`rlaif labels …`: one label with its receipt, all of them counted, checked, or exported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from constitution.errors import UserError
from rlaif.cli.options import DEFAULT_SERVER, AsJson, OutFile, OwnJudge, Seed, Server, output

if TYPE_CHECKING:
    from rich.console import Console

    from constitution import Constitution
    from rlaif.data.records import Preference
    from rlaif.evaluation.intervals import Estimate
    from rlaif.feedback.receipts import Receipt
    from rlaif.labels.statistics import LabelStats, TraitWeights
    from rlaif.labels.verify import OfflineReport, Replay

app = typer.Typer(help="Look at labels, check and export them.", no_args_is_help=True)

LabelFile = Annotated[
    Path, typer.Argument(help="preferences.parquet, a .jsonl of preferences, or their folder.")
]
Laws = Annotated[
    list[str] | None,
    typer.Option(
        "--constitution",
        "-c",
        help="A constitution the labels were made by, where it is none of the shipped; may be "
        "given more than once.",
    ),
]


class Form(StrEnum):
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
    """One label: its texts, every vote with its reads, and where it came from."""
    from rlaif.data.datasets import iter_preferences
    from rlaif.feedback.receipts import parse_receipt

    some: list[str] = []
    for label in iter_preferences(_file(file)):
        if label.id == id:
            break
        if len(some) < 3:
            some.append(label.id)
    else:
        known = f"it has {', '.join(some)}, …" if some else "it holds no labels"
        raise UserError(f"{file}: no label with the id {id!r}; {known}")
    found = parse_receipt(label)
    if as_json:
        shown = {**label.model_dump(exclude={"receipt"}), "receipt": json.loads(label.receipt)}
        print(json.dumps(shown, ensure_ascii=False))
        return
    _show(output(), label, found)


def _show(out: Console, label: Preference, found: Receipt) -> None:
    from rich.table import Table

    def say(text: str) -> None:
        out.print(text, markup=False, highlight=False)

    for message in label.prompt:
        say(f"{message.role}: {message.content}")
    other = "B" if found.chosen == "A" else "A"
    say(f"\nchosen (response {found.chosen}): {label.chosen_text}")
    say(f"\nrejected (response {other}): {label.rejected_text}\n")
    traits = ", ".join(f"{t} {p:.3f}" for t, p in label.traits.items() if p is not None)
    say(f"P(chosen is better) = {label.prob_chosen:.4f}   by trait: {traits}")
    gap = "-" if found.order_gap is None else f"{found.order_gap:.3f}"
    same = {True: "yes", False: "no", None: "-"}[found.position_consistent]
    say(f"verdict {found.verdict.value}, order gap {gap}, same response in both orders: {same}")
    table = Table("principle", "trait", "weight", "P(A)", "order", "P(first)", "log-probs", "mass")
    for vote in found.votes:
        for place, read in enumerate(vote.reads):
            first = place == 0
            table.add_row(
                vote.principle_id if first else "",
                vote.trait if first else "",
                f"{vote.weight:g}" if first else "",
                f"{vote.prob_a:.4f}" if first else "",
                read.order.value + (" (stored)" if read.stored else ""),
                f"{read.prob_first:.4f}",
                f"{read.logprob_first:.4f} {read.logprob_second:.4f}",
                f"{read.label_mass:.3f}",
            )
    out.print(table)
    origin = found.provenance
    say(
        f"constitution {origin.constitution_name} {origin.constitution_version}, "
        f"sha256 {origin.constitution_sha256}"
    )
    model = origin.model
    say(f"model {model.name}, {model.dtype}, {model.engine}, weights {model.weights_sha256}")
    say(f"template {origin.template_version}, read {origin.protocol}, seed {origin.seed}")
    say(
        f"calibration {origin.calibration}, before it P(A) = {found.raw_prob_a:.4f}"
        if origin.calibration
        else "calibration none"
    )


# ── stats ────────────────────────────────────────────────────────────────────────────────────


@app.command(epilog="Example: rlaif labels stats labels")
def stats(file: LabelFile, constitution: Laws = None, as_json: AsJson = False) -> None:
    """Balance, sureness, consistency, principles, abstentions, and whether longer is chosen."""
    from rlaif.data.datasets import iter_preferences
    from rlaif.labels.statistics import read_unjudged
    from rlaif.labels.statistics import stats as count

    path = _file(file)
    found = count(iter_preferences(path), _trait_weights(constitution), read_unjudged(path))
    if as_json:
        print(json.dumps(asdict(found), ensure_ascii=False))
    else:
        _print_stats(output(), found)


def _print_stats(out: Console, found: LabelStats) -> None:
    from rich.table import Table

    def say(text: str) -> None:
        out.print(text, markup=False, highlight=False)

    say(f"{found.labels} labels of {found.prompts} prompts, {found.ties} ties")
    for kind, counts in (("constitution", found.constitutions), ("judge", found.models)):
        say(f"{kind}: " + "; ".join(f"{name}: {n}" for name, n in counts.items()))
    if found.unjudged:
        reasons = ", ".join(f"{reason} {n}" for reason, n in found.unjudged.items())
        say(f"without a label: {sum(found.unjudged.values())} ({reasons})")
    say(f"chosen was called A: {_share(found.chosen_a)}")
    say(f"chosen is the longer: {_share(found.chosen_longer)}")
    say(f"same response in both orders: {_number(found.position_consistency)}")
    say(f"order gap, mean: {_number(found.mean_order_gap)}")
    mass, lowest = _number(found.mean_label_mass), _number(found.lowest_label_mass)
    say(f"label mass, mean: {mass}, lowest {lowest}")
    say(f"reads: {found.reads}, of these stored {found.stored_reads}; void {found.void_reads}")
    say(f"prob_chosen, mean: {found.mean_prob_chosen:.3f}")
    width, most = 0.5 / len(found.histogram), max(found.histogram)
    for place, n in enumerate(found.histogram):
        low = 0.5 + place * width
        say(f"  {low:.2f} - {low + width:.2f} {'█' * round(40 * n / most):40} {n}")
    say("P(chosen) by trait: " + ", ".join(f"{t} {p:.3f}" for t, p in found.traits.items()))
    table = Table("principle", "trait", "labels", "P(A)", "P(chosen)", "decides", "agrees", "gap")
    for p in found.principles:
        table.add_row(
            p.principle_id,
            p.trait,
            str(p.labels),
            f"{p.mean_prob_a:.3f}",
            f"{p.mean_prob_chosen:.3f}",
            f"{p.decides:.1%}",
            f"{p.agrees:.1%}",
            _number(p.mean_order_gap),
        )
    out.print(table)


def _share(found: Estimate) -> str:
    return f"{found.value:.1%} (95 %: {found.low:.1%} to {found.high:.1%})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


# ── verify ───────────────────────────────────────────────────────────────────────────────────


@app.command(epilog="Example: rlaif labels verify labels --sample 50 --judge qwen2.5-coder-1.5b")
def verify(
    file: LabelFile,
    server: Server = DEFAULT_SERVER,
    judge: OwnJudge = "",
    sample: Annotated[int, typer.Option(min=1, help="Labels drawn (seeded) and recomputed.")] = 50,
    seed: Seed = 0,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Largest |Δ P| allowed; by default 0.02 for labels made in bfloat16, 0.0025 in "
            "float16, 0.001 in float32.",
        ),
    ] = None,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="Recompute every label from its own reads; no judge."),
    ] = False,
    constitution: Laws = None,
    as_json: AsJson = False,
) -> None:
    """Compute labels again and compare; exit code 1 when they do not reproduce."""
    from rlaif.data.datasets import iter_preferences
    from rlaif.feedback.client import judge_client
    from rlaif.labels.verify import draw, replay, verify_offline

    path = _file(file)
    found: OfflineReport | Replay
    if offline:
        found = verify_offline(iter_preferences(path), _trait_weights(constitution))
        if not found.labels:
            raise UserError(f"{path}: the file holds no labels: nothing to verify")
        told = _told_offline(found)
    else:
        drawn = draw(iter_preferences(path), sample, seed)
        if not drawn:
            raise UserError(f"{path}: the file holds no labels: nothing to verify")
        log, names = path.with_name("verify.judge.log"), constitution or ""
        with judge_client(judge, names, log, server) as client:
            found = replay(drawn, client, tolerance, _laws(constitution))
        told = _told_replay(found)
    if as_json:
        print(json.dumps({"passed": found.passed, **asdict(found)}, ensure_ascii=False))
    else:
        output().print(told, markup=False, highlight=False)
    if not found.passed:
        raise typer.Exit(1)


def _told_offline(found: OfflineReport) -> str:
    lines = [
        f"{found.labels} labels recomputed from their reads, {found.wrong} differ",
        *found.examples,
    ]
    lines += [
        f"{n} labels by {law}: the sum over traits was not checked; give it with --constitution"
        for law, n in found.without_weights.items()
    ]
    return "\n".join(lines)


def _told_replay(found: Replay) -> str:
    lines = [
        f"{found.recomputed} of {found.sampled} labels recomputed with {found.reads} reads",
        f"|Δ P|: largest {found.largest:.6f}"
        + (f" ({found.largest_id})" if found.largest_id else "")
        + f", mean {found.mean:.6f}; tolerance {found.tolerance:g}, beyond it {found.beyond}",
        f"|Δ log-prob| of a read: largest {found.largest_logprob:.6f}",
        f"another response chosen: {found.chosen_differs}",
        f"asked in other words, by the digest of the prompt: {found.asked_differently}",
    ]
    lines += [
        f"{n} labels not recomputed: the judge does not serve {law}; give it with --constitution"
        for law, n in found.no_constitution.items()
    ]
    lines += [f"{n} labels by another judge: {what}" for what, n in found.other_model.items()]
    lines += [f"{n} labels not recomputed: {why}" for why, n in found.no_answer.items()]
    lines.append("they reproduce" if found.passed else "they do not reproduce")
    return "\n".join(lines)


# ── export ───────────────────────────────────────────────────────────────────────────────────


@app.command(epilog="Example: rlaif labels export labels --format openrlhf --out pairs.jsonl")
def export(
    file: LabelFile,
    out: OutFile,
    form: Annotated[Form, typer.Option("--format", help="Whose columns.")] = Form.TRL,
    min_prob: Annotated[
        float, typer.Option(min=0.5, max=1, help="Only labels with at least this prob_chosen.")
    ] = 0.5,
) -> None:
    """Write the labels as TRL, OpenRLHF or a plain script reads them."""
    from rlaif.data.datasets import iter_preferences
    from rlaif.labels.export import export as write

    done = write(iter_preferences(_file(file)), out, form.value, min_prob)
    output().print(
        f"{done.written} labels: {out}; {done.left_out} under --min-prob {min_prob:g} left out",
        markup=False,
        highlight=False,
    )


# ── shared ───────────────────────────────────────────────────────────────────────────────────


def _file(path: Path) -> Path:
    return path / "preferences.parquet" if path.is_dir() else path


def _laws(given: list[str] | None) -> list[Constitution]:
    """The shipped constitutions and the ones given."""
    from constitution import Constitution

    return [Constitution.load(name) for name in (*Constitution.library_names(), *(given or ()))]


def _trait_weights(given: list[str] | None) -> TraitWeights:
    known: Mapping[str, Mapping[str, float]] = {
        law.digest: law.trait_weights for law in _laws(given)
    }
    return known.get
