"""Judging until the answer is clear: coverage and cost of the interval that `--until` uses.

    python -m benchmarks.judge.stopping [--runs 1000] [--prompts 400] [--chunk 16]

A simulated policy wins a prompt against the start with a known probability (a tenth of prompts are
ties). Its interval is looked at after every chunk of prompts, and judging stops at the first look
whose interval excludes ½, or at the last prompt. For each true win rate:

    settled    share of runs that stopped before the last prompt
    prompts    judged per run, mean; saved: the share of all prompts that was not judged
    covered    share of runs whose interval at the stop holds the true rate
    wrong      share of runs that stopped on the wrong side of ½; at a rate of ½, on either

by the anytime interval (rlaif/evaluation/anytime.py), and by Wilson's under the same looks, whose
promise of 95 % is for one look at a number of prompts that was fixed before.

The last line is one JSON object: name, ours, peer, unit, ratio: the worst coverage of both.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.console import Console
from rich.table import Table

from rlaif.evaluation.anytime import anytime_interval
from rlaif.evaluation.intervals import wilson

RATES = (0.5, 0.55, 0.6, 0.7, 0.8)
TIES = 0.1
Interval = Callable[[Sequence[float]], tuple[float, float]]


@dataclass(frozen=True)
class Stop:
    """Where one run stopped."""

    prompts: int
    low: float
    high: float

    @property
    def excludes_half(self) -> bool:
        return not self.low <= 0.5 <= self.high


def wilson_interval(values: Sequence[float]) -> tuple[float, float]:
    return wilson(fmean(values), len(values))


def outcomes(rng: random.Random, rate: float, prompts: int) -> list[float]:
    """1 win, ½ tie, 0 loss, with mean `rate`."""
    wins = rate - TIES / 2
    draws = [rng.random() for _ in range(prompts)]
    return [1.0 if draw < wins else 0.5 if draw < wins + TIES else 0.0 for draw in draws]


def stop_of(values: Sequence[float], interval: Interval, chunk: int) -> Stop:
    """The first look whose interval excludes ½, or the last."""
    for n in range(chunk, len(values) + chunk, chunk):
        seen = values[:n]
        stop = Stop(len(seen), *interval(seen))
        if stop.excludes_half:
            break
    return stop


def row(rate: float, stops: Sequence[Stop], prompts: int) -> tuple[float, ...]:
    """settled, mean prompts, saved, covered, wrong."""
    judged = fmean(stop.prompts for stop in stops)
    wrong = [
        stop.excludes_half and (rate == 0.5 or (stop.low > 0.5) != (rate > 0.5)) for stop in stops
    ]
    return (
        fmean(stop.prompts < prompts for stop in stops),
        judged,
        1 - judged / prompts,
        fmean(stop.low <= rate <= stop.high for stop in stops),
        fmean(wrong),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--chunk", type=int, default=16)
    args = parser.parse_args()

    console, began = Console(width=100), time.perf_counter()
    table = Table("rate", "interval", "settled", "prompts", "saved", "covered", "wrong")
    worst: dict[str, float] = {}
    for rate in RATES:
        rng = random.Random(f"stopping {rate}")
        runs = [outcomes(rng, rate, args.prompts) for _ in range(args.runs)]
        for name, interval in (("anytime", anytime_interval), ("wilson", wilson_interval)):
            stops = [stop_of(values, interval, args.chunk) for values in runs]
            settled, judged, saved, covered, wrong = row(rate, stops, args.prompts)
            worst[name] = min(worst.get(name, 1.0), covered)
            shares = (f"{100 * share:.1f} %" for share in (saved, covered, wrong))
            table.add_row(f"{rate:.2f}", name, f"{100 * settled:.1f} %", f"{judged:.0f}", *shares)
    console.print(table)
    console.print(
        f"{args.runs} runs of at most {args.prompts} prompts, a look every {args.chunk}; "
        f"{time.perf_counter() - began:.0f} s"
    )
    ours, peer = worst["anytime"], worst["wilson"]
    result = {"name": "worst coverage under optional stopping", "ours": ours, "peer": peer}
    print(json.dumps({**result, "unit": "share of runs", "ratio": ours / peer}))


if __name__ == "__main__":
    main()
