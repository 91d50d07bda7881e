"""Accuracy and calibration of a judge's labels on pairs labeled by people.

    python -m benchmarks.judge.quality [--data DIR] [--files hhh_221.jsonl ...] [--limit 40]
        [--skip 100] [--constitution NAME|FILE ...] [--protocol pairwise pointwise]
        [--rationale 0 80] [--rationale-samples 3]

Each file of DIR holds JSON lines {id, prompt, chosen, rejected, category}; without --data the
worked examples of the shipped constitutions are the pairs. Every combination of
constitution, protocol and rationale is one row, all on the same pairs, next to the baseline of
picking the longer response. Answers are stored in --work: an interrupted run resumes with the rest.
The server's store is off, so that seconds measure computation.

    one order    accuracy of a single read order: the mean over both orders
    averaged     accuracy of the label (both orders), with Wilson's 95 % interval
    consistent   share of pairs where both orders name the same response
    ECE          of the raw label, and after calibration on held-out folds (grouped by prompt)
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table

from constitution import Constitution
from judge_service.judge.aggregation import weighted_prob
from judge_service.judge.calibration_metrics import accuracy, right
from judge_service.judge.label_probs import prob_a
from judge_service.types import Comparison, JudgeOptions, Judgment, Order
from rlaif.evaluation.intervals import wilson
from rlaif.feedback.client import judge_client
from rlaif.feedback.labeler import judge_pairs
from rlaif.labels.calibrate import GoldPair, choose, comparison, load_gold, longer_is_right
from rlaif.models import catalog

CONSTITUTION = "overall"
FOLDS = 5


@dataclass(frozen=True)
class QualityRow:
    """One judged gold pair: P(chosen is better), averaged and in each order."""

    file: str
    category: str
    pair: GoldPair
    averaged: float
    in_order: tuple[float, ...]  # one per order that was read
    consistent: bool | None


@dataclass(frozen=True)
class Variant:
    """One combination of options, and its results."""

    name: str
    rows: tuple[QualityRow, ...]
    unjudged: int
    reads: int
    seconds: float | None  # None: some answers are from an earlier run

    def summary(self) -> dict[str, float | int | str | None]:
        """Accuracy with its 95 % interval, consistency, calibration and cost, by name."""
        probs = [row.averaged for row in self.rows]
        fit = choose(probs, [row.pair.prompt_digest for row in self.rows], FOLDS, seed=0)
        low, high = wilson(fit.before.accuracy, len(probs))
        consistent = [row.consistent for row in self.rows if row.consistent is not None]
        return {
            "variant": self.name,
            "n": len(probs),
            "unjudged": self.unjudged,
            "one_order": fmean(fmean(map(right, row.in_order)) for row in self.rows),
            "averaged": fit.before.accuracy,
            "low": low,
            "high": high,
            "longer": longer_is_right(row.pair for row in self.rows),
            "consistent": fmean(consistent) if consistent else None,
            "ece": fit.before.ece,
            "ece_calibrated": fit.after.ece,
            "nll": fit.before.nll,
            "nll_calibrated": fit.after.nll,
            "calibration": fit.method,
            "reads": self.reads,
            "seconds_per_judgment": self.seconds and self.seconds / (len(probs) + self.unjudged),
        }


def in_each_order(judgment: Judgment) -> tuple[float, ...]:
    """P(A) in each order, averaged over the principles with equal weights."""
    by_order: dict[Order, list[float]] = defaultdict(list)
    for vote in judgment.votes:
        if vote.order_gap is not None:
            for read in vote.reads:
                by_order[read.order].append(prob_a(read))
    if not by_order:
        return (weighted_prob(judgment.votes, {}),)
    return tuple(fmean(probs) for probs in by_order.values())


def judge_all(
    gold: Sequence[tuple[str, str, GoldPair]],
    model: str,
    constitution: str,
    options: JudgeOptions,
    name: str,
    work: Path,
) -> Variant:
    """Judge the gold pairs with one combination of options.

    name: of the variant. work: folder that keeps the answers, so that a later run resumes.
    """
    # Ids are unique only within a file.
    pairs = [comparison(pair) for _, _, pair in gold]
    pairs = [
        Comparison(f"{file}/{pair.id}", pair.conversation, pair.response_a, pair.response_b)
        for (file, _, _), pair in zip(gold, pairs, strict=True)
    ]
    with judge_client(model, constitution, work / "judge.log") as client:
        answers = judge_pairs(pairs, client, work / "answers.journal.jsonl", options=options)

    # Response A is the one with the smaller hash: turn P(A) into P(chosen).
    results = list(answers.by_pair())
    rows = []
    for (file, category, pair), (compared, answer) in zip(gold, results, strict=True):
        if isinstance(answer, Judgment):
            is_a = compared.response_a == pair.chosen
            probs = [p if is_a else 1.0 - p for p in (answer.prob_a, *in_each_order(answer))]
            rows.append(
                QualityRow(
                    file, category, pair, probs[0], tuple(probs[1:]), answer.position_consistent
                )
            )
    reads = sum(answer.usage.reads for _, answer in results)
    seconds = answers.seconds if answers.judged_now == len(gold) else None
    return Variant(name, tuple(rows), len(gold) - len(rows), reads, seconds)


def gold_files(data: Path) -> list[Path]:
    """The JSONL files of a folder that hold pairs with a chosen and a rejected response."""
    paths = sorted(data.glob("*.jsonl"))
    return [path for path in paths if '"rejected"' in path.read_text(encoding="utf-8")[:100_000]]


def load(
    data: Path, files: Sequence[str], skip: int, limit: int
) -> list[tuple[str, str, GoldPair]]:
    """(file, category, pair) of `limit` pairs per file, without those that `skip` alone selects."""
    rows = []
    for file in files:
        path = data / file
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
        category = {line["id"]: line.get("category", "").split("|")[0] for line in lines}
        left_out = {pair.id for pair in load_gold(path, skip)} if skip else set()
        drawn = (pair for pair in load_gold(path, skip + limit) if pair.id not in left_out)
        rows += [(path.stem, category[pair.id], pair) for pair in drawn]
    return rows


def shipped_examples(limit: int) -> list[tuple[str, str, GoldPair]]:
    """(constitution, trait, pair) of up to `limit` worked examples of every constitution."""
    rows = []
    for name in Constitution.library_names():
        constitution = Constitution.load(name)
        decided = [
            (p, e) for p in constitution.principles for e in p.examples if e.preferred != "TIE"
        ]
        for n, (principle, example) in enumerate(decided[:limit]):
            good, bad = example.response_a, example.response_b
            if example.preferred == "B":
                good, bad = bad, good
            pair = GoldPair(id=str(n), prompt=example.conversation, chosen=good, rejected=bad)
            rows.append((name, principle.trait, pair))
    return rows


def show(variants: Sequence[Variant], console: Console) -> None:
    """Print a line per variant, then a line per file and per category of 8 pairs or more."""
    # One line per variant.
    columns = ("n", "one order", "averaged [95 %]", "longer", "consistent", "ECE", "calibrated")
    table = Table("judge", *columns, "s each")
    for variant in variants:
        s = variant.summary()
        same = "-" if s["consistent"] is None else f"{s['consistent']:.2f}"
        table.add_row(
            variant.name,
            f"{s['n']}",
            f"{s['one_order']:.2f}",
            f"{s['averaged']:.2f} [{s['low']:.2f}, {s['high']:.2f}]",
            f"{s['longer']:.2f}",
            same,
            f"{s['ece']:.3f}",
            f"{s['ece_calibrated']:.3f} ({s['calibration']})",
            f"{s['seconds_per_judgment']:.1f}" if s["seconds_per_judgment"] else "-",
        )
    console.print(table)

    # One line per file, and per category with enough pairs.
    by_category = Table("averaged accuracy of", "n", "longer", *(v.name for v in variants))
    keys = sorted({(row.file, row.category) for v in variants for row in v.rows})
    files = sorted({file for file, _ in keys})
    shown = [(file, "") for file in files] + [key for key in keys if _many(variants, key)]
    for file, category in shown:
        groups = [
            [r for r in v.rows if r.file == file and category in ("", r.category)] for v in variants
        ]
        by_category.add_row(
            f"{file}/{category}" if category else file,
            str(len(groups[0])),
            f"{longer_is_right(r.pair for r in groups[0]):.2f}",
            *(f"{accuracy([r.averaged for r in group]):.2f}" if group else "-" for group in groups),
        )
    console.print(by_category)


def _many(variants: Sequence[Variant], key: tuple[str, str]) -> bool:
    """Whether a category has enough pairs to be informative."""
    return sum((row.file, row.category) == key for row in variants[0].rows) >= 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of gold pairs")
    parser.add_argument("--files", nargs="+", help="default: every *.jsonl with chosen, rejected")
    parser.add_argument(
        "--skip", type=int, default=0, help="skip the pairs that --limit SKIP would select"
    )
    parser.add_argument("--limit", type=int, default=40, help="pairs per file")
    parser.add_argument("--model", default="qwen2.5-coder-1.5b")
    parser.add_argument("--constitution", nargs="+", default=[CONSTITUTION])
    parser.add_argument("--protocol", nargs="+", default=["pairwise"])
    parser.add_argument("--rationale", nargs="+", type=int, default=[0], help="tokens")
    parser.add_argument("--rationale-samples", type=int, default=1, help="averaged (T = 1)")
    parser.add_argument("--sample-principles", type=int)
    parser.add_argument("--work", type=Path, help="folder for answers; default: a temporary one")
    parser.add_argument("--out", type=Path, help="also write all summaries here, as JSON")
    options = parser.parse_args()
    if options.data:
        files = options.files or [path.name for path in gold_files(options.data)]
        gold = load(options.data, files, options.skip, options.limit)
    else:
        gold = shipped_examples(options.limit)

    # Each combination of options judges the same pairs; its answers go to the same journal.
    work = options.work or Path(tempfile.mkdtemp(prefix="judge_quality_"))
    variants = []
    combinations = itertools.product(options.constitution, options.protocol, options.rationale)
    for constitution, protocol, rationale in combinations:
        judge_options = JudgeOptions(
            protocol=protocol,
            max_rationale_tokens=rationale,
            rationale_samples=options.rationale_samples if rationale else 1,
            sample_principles=options.sample_principles,
            calibrated=False,
            use_store=False,
        )
        suffix = f" +{rationale}x{options.rationale_samples}" if rationale else ""
        name = f"{Path(constitution).stem} {protocol}{suffix}"
        model = catalog.resolve(options.model)
        variants.append(judge_all(gold, model, constitution, judge_options, name, work))

    # Report the most accurate variant against picking the longer response.
    show(variants, Console(width=150))
    summaries = [variant.summary() for variant in variants]
    best = max(summaries, key=lambda s: float(s["averaged"] or 0.0))
    result = {
        "name": f"judge accuracy, {options.model}, {best['variant']}, {best['n']} pairs",
        "ours": round(float(best["averaged"] or 0.0), 4),
        "peer": round(float(best["longer"] or 0.0), 4),
        "unit": "accuracy (peer: pick the longer)",
        "ratio": round(float(best["averaged"] or 0.0) / max(1e-9, float(best["longer"] or 0.0)), 3),
        "variants": summaries,
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
