"""What bends a judge away from length: figures from the reads of `length_reads.py`. No model.

    python -m benchmarks.judge.length reads.jsonl [--seed 0]

Half of the prompts, drawn with the seed, are the choose-rows: readers, the temperature and the
slope on length are fitted on these. The other half are the test-rows. Ways of judging:

    joint                 the shipped judge: the principle of `overall`, both orders averaged
    WORDING, N shots      other wordings; the joint one after N worked examples
    residual              joint log-odds minus their regression on ln(length of A / length of B)
    reader                fitted to the joint reads (judge_service/judge/reader.py)
    reader, no length     the same without the length of the responses
    reader, all wordings  fitted to the reads of every wording
    longer                picks the longer response, without a read

    accuracy   with Wilson's 95 % interval; a tie counts ½
    gain       in accuracy over `joint` on the same rows, with the interval of `promote`
    longer     share of rows on which the longer response is chosen; in brackets that of `joint` on
               the same rows
    slope      of the log-odds on the log length ratio, through 0: how much length decides; likewise
    similar    accuracy on rows whose lengths differ by at most a quarter, and their number

A third table has all rows, for the ways that nothing is fitted for. The last line is one JSON
object: name, ours (reader), peer (joint), unit, ratio, on the test-rows.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table

from benchmarks.judge.length_reads import JOINT
from constitution.schema import Principle
from judge_service.engine import LabelLogprobs
from judge_service.judge.aggregation import vote
from judge_service.judge.calibration_metrics import accuracy, clipped, nll, right
from judge_service.judge.label_probs import interpret, prob_first
from judge_service.judge.reader import LENGTH, FittedReader, Lengths, features
from judge_service.types import Order, PrincipleVote
from rlaif.evaluation.intervals import by_prompt, wilson
from rlaif.labels.promotion.fit_reader import GoldReads, fit_reader
from rlaif.labels.promotion.gain import held_back_prompts, paired_gain

SIMILAR = 1.25
FEWEST = 16  # rows of a way that is shown


@dataclass(frozen=True)
class JudgedRow:
    """A gold pair with its votes by way of asking; A is better if `a_is_right`."""

    id: str
    file: str
    prompt: str
    a_is_right: bool
    lengths: Lengths
    votes: Mapping[str, PrincipleVote]

    @property
    def log_ratio(self) -> float:
        """ln(characters of A / characters of B)."""
        return math.log(self.lengths.a / self.lengths.b)


def read_rows(path: Path) -> list[JudgedRow]:
    """The rows of a file of `length_reads.py`."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    votes: dict[tuple[str, str], dict[str, PrincipleVote]] = defaultdict(dict)
    first: dict[tuple[str, str], dict[str, object]] = {}
    for line in lines:
        key = line["file"], line["id"]
        principle = Principle(
            id=line["way"].replace(" ", "-").replace(",", ""), trait="t", compare="c",
            critique="c", revise="r",
        )  # fmt: skip
        reads = [
            interpret(LabelLogprobs(tuple(logprobs), 0, 0), Order(order), "")
            for order, logprobs in line["logprobs"].items()
        ]
        made = vote(principle, reads, 0.1)
        if made is not None:
            votes[key][line["way"]] = made
            first.setdefault(key, line)
    return [
        JudgedRow(
            id=f"{file}/{id}",
            file=file,
            prompt=str(line["prompt"]),
            a_is_right=line["chosen"] == "A",
            lengths=Lengths(*line["characters"]),  # type: ignore[misc]
            votes=votes[file, id],
        )
        for (file, id), line in first.items()
        if JOINT in votes[file, id]
    ]


# ── ways of judging: P(A is better) by row id ────────────────────────────────────────────────


def by_wording(rows: Sequence[JudgedRow], way: str) -> dict[str, float]:
    """The averaged orders of one way of asking, on the rows that were read so."""
    return {row.id: row.votes[way].prob_a for row in rows if way in row.votes}


def slope(rows: Sequence[JudgedRow], probs: Mapping[str, float]) -> float:
    """Least squares through 0 of the log-odds of A on the log length ratio."""
    xy = [(row.log_ratio, _logit(probs[row.id])) for row in rows if row.id in probs]
    return math.fsum(x * y for x, y in xy) / max(1e-12, math.fsum(x * x for x, _ in xy))


def residual(rows: Sequence[JudgedRow], choose: Sequence[JudgedRow]) -> dict[str, float]:
    """The joint judge with its slope on length, as on the choose-rows, taken out."""
    joint = by_wording(rows, JOINT)
    b = slope(choose, joint)
    return {row.id: prob_first(_logit(joint[row.id]) - b * row.log_ratio, 0.0) for row in rows}


def by_reader(
    rows: Sequence[JudgedRow], choose: Sequence[JudgedRow], ways: Sequence[str], length: bool
) -> tuple[dict[str, float], FittedReader]:
    """A reader of the given ways, fitted on the choose-rows that have them all."""

    def found(row: JudgedRow) -> dict[str, float]:
        values = features([row.votes[way] for way in ways], row.lengths)
        return {name: x for name, x in values.items() if length or name != LENGTH}

    def complete(some: Sequence[JudgedRow]) -> list[JudgedRow]:
        return [row for row in some if all(way in row.votes for way in ways)]

    reader = fit_reader([
        GoldReads(row.prompt, found(row), float(row.a_is_right)) for row in complete(choose)
    ])  # fmt: skip
    probs = {
        row.id: reader.prob_a([row.votes[way] for way in ways], row.lengths)
        for row in complete(rows)
    }
    return probs, reader


def longer(rows: Sequence[JudgedRow]) -> dict[str, float]:
    """1 for the longer response, ½ for equal lengths."""
    return {row.id: 0.5 + 0.5 * _sign(row.lengths.a - row.lengths.b) for row in rows}


def _sign(x: float) -> float:
    return 0.0 if x == 0 else math.copysign(1.0, x)


def _logit(prob: float) -> float:
    p = clipped(prob)
    return math.log(p / (1 - p))


# ── figures ──────────────────────────────────────────────────────────────────────────────────


def figures(
    rows: Sequence[JudgedRow], probs: Mapping[str, float], joint: Mapping[str, float]
) -> dict[str, str]:
    """One line of the table, over the rows that this way has judged."""
    judged = [row for row in rows if row.id in probs]
    if len(judged) < 2:
        return {"n": str(len(judged))}
    qs = [_toward_right(row, probs) for row in judged]
    share = accuracy(qs)
    low, high = wilson(share, len(qs))
    gain = paired_gain(by_prompt(
        (row.prompt, right(q) - right(_toward_right(row, joint)))
        for row, q in zip(judged, qs, strict=True)
    ))  # fmt: skip
    similar = [
        q for row, q in zip(judged, qs, strict=True) if abs(row.log_ratio) <= math.log(SIMILAR)
    ]
    return {
        "n": str(len(qs)),
        "accuracy": f"{share:.2f} [{low:.2f}, {high:.2f}]",
        "gain": f"{gain.value:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]",
        "NLL": f"{nll(qs):.3f}",
        "longer": f"{longer_chosen(judged, probs):.2f} ({longer_chosen(judged, joint):.2f})",
        "slope": f"{slope(judged, probs):+.2f} ({slope(judged, joint):+.2f})",
        "similar": f"{accuracy(similar):.2f} ({len(similar)})" if similar else "-",
    }


def longer_chosen(rows: Sequence[JudgedRow], probs: Mapping[str, float]) -> float:
    """Share of the rows with different lengths on which the longer response is chosen."""
    unequal = [row for row in rows if row.lengths.a != row.lengths.b]
    return fmean(right(probs[r.id] if r.log_ratio > 0 else 1 - probs[r.id]) for r in unequal)


def _toward_right(row: JudgedRow, probs: Mapping[str, float]) -> float:
    return probs[row.id] if row.a_is_right else 1 - probs[row.id]


def all_ways(
    rows: Sequence[JudgedRow], choose: Sequence[JudgedRow]
) -> tuple[dict[str, dict[str, float]], dict[str, FittedReader]]:
    """P(A) of every row by every way, and the fitted readers."""
    asked = [
        way
        for way in dict.fromkeys(way for row in rows for way in row.votes)
        if sum(way in row.votes for row in rows) >= FEWEST
    ]
    ways = {way: by_wording(rows, way) for way in asked}
    ways["residual"] = residual(rows, choose)
    readers: dict[str, FittedReader] = {}
    most = [way for way in asked if len(ways[way]) > len(rows) / 2]
    wordings = [way for way in most if "shots" not in way]
    for name, of, length in (
        ("reader", [JOINT], True),
        ("reader, no length", [JOINT], False),
        ("reader, all wordings", wordings, True),
    ):
        if name == "reader, all wordings" and len(of) < 2:
            continue
        ways[name], readers[name] = by_reader(rows, choose, of, length)
    ways["longer"] = longer(rows)
    return ways, readers


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reads", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = read_rows(options.reads)
    test_prompts = held_back_prompts((row.prompt for row in rows), options.seed)
    parts = {
        "choose-rows": [row for row in rows if row.prompt not in test_prompts],
        "test-rows": [row for row in rows if row.prompt in test_prompts],
    }
    ways, readers = all_ways(rows, parts["choose-rows"])
    console = Console(width=150)
    columns = ("n", "accuracy", "gain", "NLL", "longer", "slope", "similar")
    for part, own in parts.items():
        table = Table(part, *columns)
        for way, probs in ways.items():
            found = figures(own, probs, ways[JOINT])
            table.add_row(way, *(found.get(column, "-") for column in columns))
        console.print(table)
    table = Table("all rows", *columns)
    for way in [way for way in ways if any(way in row.votes for row in rows)] + ["longer"]:
        # Nothing was fitted for these. Gains are on rows that were read in both ways.
        found = figures(rows, ways[way], ways[JOINT])
        table.add_row(way, *(found.get(column, "-") for column in columns))
    console.print(table)
    by_file = Table("accuracy on test-rows of", "n", *ways)
    for file in sorted({row.file for row in rows}):
        own = [row for row in parts["test-rows"] if row.file == file]
        cells = [
            [_toward_right(row, probs) for row in own if row.id in probs] for probs in ways.values()
        ]
        by_file.add_row(file, str(len(own)), *(f"{accuracy(c):.2f}" if c else "-" for c in cells))
    console.print(by_file)
    for name, reader in readers.items():
        weights = ", ".join(f"{feature} {weight:+.2f}" for feature, weight in reader.weights)
        console.print(f"{name}: ridge {reader.ridge:g}; {weights}", highlight=False)

    test = parts["test-rows"]
    ours, peer = (
        accuracy([_toward_right(row, ways[way]) for row in test]) for way in ("reader", JOINT)
    )
    result = {
        "name": f"accuracy of a fitted reader beside the judge it reads, {len(test)} test-rows",
        "ours": round(ours, 4),
        "peer": round(peer, 4),
        "unit": "accuracy",
        "ratio": round(ours / peer, 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
