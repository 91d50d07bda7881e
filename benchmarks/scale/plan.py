"""Hours, hosts, disk and the bottleneck of a million to a billion pairs, from costs measured here.

    python -m benchmarks.scale.plan                          # measures in short, and plans
    python -m benchmarks.scale.plan --measure costs.json     # 500 and 4 000 pairs, and plans
    python -m benchmarks.scale.plan --costs costs.json --hosts 32 --reads-rate 60 [--json]
    python -m benchmarks.scale.plan --costs costs.json --check 1000 10000

--measure runs the chain split, sample, label, stats, verify, export and prepare as a user would, at
two sizes: CPU seconds of every process, bytes of every file and of the RPCs. The judge is a real
server on a real socket, with a real tokenizer and a fake engine that answers at once; pairs have a
prompt of 70 words and two responses of 75. So everything but the GPUs' work is measured. GPUs,
hosts, network and the length of responses are ASSUMED, and can be set: --help has the defaults.
CPU time grows by up to a half beside other work; --rounds takes the least. Labels by a fake engine
are all alike, and shrink more on disk than real ones.
The equations are in benchmarks/scale/planning/arithmetic.py.

--check runs the chain at other sizes, and prints what the costs predict beside what it took.

The last line is one JSON object; with --json it is the only one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from itertools import count
from pathlib import Path

from benchmarks.scale.planning.arithmetic import Assumptions, PairsPlan, plan
from benchmarks.scale.planning.costs import MeasuredCosts

PAIRS = (10**6, 10**7, 10**8, 10**9)
QUICK, SIZES = (200, 1000), (500, 4000)
TERA = 1e12
HELP = {
    "hosts": "hosts",
    "gpus_per_host": "GPUs of a host",
    "cores_per_host": "CPU cores of a host",
    "processes_per_host": "labelers of a host, and later preparers",
    "gpus_per_judge": "GPUs over which one judge server is split",
    "reads_rate": "judge reads a second of one GPU",
    "sampler_rate": "tokens a second that one GPU samples",
    "training_rate": "tokens a second that one GPU trains on",
    "response_tokens": "tokens of a response",
    "epochs": "passes of the training over the pairs",
    "network_gbit": "Gbit a second of a host's network",
    "within_hours": "hours within which all should be done, for the last column",
}


def measure(sizes: Sequence[int], given: argparse.Namespace) -> MeasuredCosts:
    """Run the chain at two sizes."""
    from benchmarks.scale.planning.measuring import bench, fsync_seconds

    with (
        tempfile.TemporaryDirectory(dir=given.folder) as name,
        bench(Path(name), given.tokenizer, given.principles, given.shard_rows) as chain,
    ):
        journal = chain.journal_bytes()
        numbers = count(1)
        rounds = [
            [chain.figures(rows, next(numbers)) for rows in sizes] for _ in range(given.rounds)
        ]
        # Of CPU time the least counts: the least disturbed by what else the machine does.
        few, many = (least([one[place] for one in rounds]) for place in (0, 1))
        return MeasuredCosts(
            machine=f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores used",
            tokenizer=given.tokenizer,
            principles=given.principles,
            shard_rows=given.shard_rows,
            sizes=(sizes[0], sizes[1]),
            figures={figure: (few[figure], many[figure]) for figure in few},
            journal_bytes=journal,
            fsync_s=fsync_seconds(Path(name)),
        )


def least(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The least of each figure.

    >>> least([{"cpu.label": 3.0, "reads": 8.0}, {"cpu.label": 2.0, "reads": 8.0}])
    {'cpu.label': 2.0, 'reads': 8.0}
    """
    return {figure: min(one[figure] for one in rounds) for figure in rounds[0]}


def check(
    costs: MeasuredCosts, sizes: Sequence[int], folder: Path | None
) -> Iterator[dict[str, object]]:
    """The chain at these sizes: name, pairs, predicted, measured and ratio of every figure."""
    from benchmarks.scale.planning.measuring import bench

    lines, numbers = costs.lines(), count(100)
    with (
        tempfile.TemporaryDirectory(dir=folder) as name,
        bench(Path(name), costs.tokenizer, costs.principles, costs.shard_rows) as chain,
    ):
        for rows in sizes:
            for figure, found in chain.figures(rows, next(numbers)).items():
                predicted = lines[figure].at(rows)
                yield {
                    "figure": figure,
                    "pairs": rows,
                    "predicted": round(predicted, 2),
                    "measured": round(found, 2),
                    "ratio": round(predicted / found, 3) if found else None,
                }


def table(plans: Sequence[PairsPlan], within_hours: float) -> str:
    """One line for each number of pairs."""
    names = [stage.stage for stage in plans[0].stages]
    within = f"hosts for {within_hours:g} h"
    head = ["pairs", *(f"{name} h" for name in names), "all h", "bottleneck", "disk TB", within]
    rows = [head]
    for one in plans:
        hours = [f"{stage.hours:,.1f}" for stage in one.stages]
        most = one.bottleneck
        slow = f"{most.stage}: {most.resource}, {most.hours / one.hours:.0%}"
        hosts = "none: 1 process" if one.hosts is None else f"{one.hosts:,}"
        disk = f"{sum(one.disk.values()) / TERA:,.3f}"
        rows.append([f"{one.pairs:.3g}", *hours, f"{one.hours:,.1f}", slow, disk, hosts])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def as_json(costs: MeasuredCosts, given: Assumptions, plans: Sequence[PairsPlan]) -> str:
    """Everything, in one line."""
    whole = {
        "name": "plan",
        "measured": costs.model_dump(),
        "measured_a_pair": asdict(costs.of_a_pair()),
        "assumed": asdict(given),
        "plans": [asdict(one) for one in plans],
    }
    return json.dumps(whole)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--measure", type=Path, metavar="FILE", help="measure, and save it here")
    source.add_argument("--costs", type=Path, metavar="FILE", help="plan with what was measured")
    parser.add_argument("--check", type=int, nargs="+", default=[], metavar="PAIRS")
    parser.add_argument("--pairs", type=int, nargs="+", default=PAIRS)
    parser.add_argument("--json", action="store_true", help="print no table")
    measuring = parser.add_argument_group("what is measured")
    measuring.add_argument("--sizes", type=int, nargs=2, help="pairs; the second is larger")
    measuring.add_argument("--rounds", type=int, default=1, help="of both sizes; the least counts")
    measuring.add_argument("--tokenizer", default="smollm2-135m", help="a model's folder or name")
    measuring.add_argument("--principles", type=int, default=1, help="reads are twice as many")
    measuring.add_argument("--shard-rows", type=int, default=500)
    measuring.add_argument("--folder", type=Path, help="on the disk to measure")
    assumed = parser.add_argument_group("what is assumed, not measured")
    for field in fields(Assumptions):
        kind = type(field.default)
        text = f"{HELP[field.name]}; ASSUMED: {field.default:g}"
        name = f"--{field.name.replace('_', '-')}"
        assumed.add_argument(name, type=kind, default=field.default, help=text)
    return parser.parse_args()


def main() -> None:
    """Measure or read costs, then check or plan."""
    given = parsed()
    if given.costs:
        costs = MeasuredCosts.read(given.costs)
    else:
        costs = measure(given.sizes or (SIZES if given.measure else QUICK), given)
    if given.measure:
        given.measure.write_text(costs.model_dump_json(indent=1) + "\n", encoding="utf-8")
    if given.check:
        for line in check(costs, given.check, given.folder):
            print(json.dumps(line), flush=True)
        return
    assumed = Assumptions(**{f.name: getattr(given, f.name) for f in fields(Assumptions)})
    plans = [plan(pairs, costs.of_a_pair(), assumed) for pairs in given.pairs]
    if not given.json:
        print("measured, a pair:", asdict(costs.of_a_pair()))
        print("ASSUMED, not measured:", asdict(assumed))
        print(table(plans, assumed.within_hours))
    print(as_json(costs, assumed, plans))


if __name__ == "__main__":
    main()
