"""Learning rates for the planted table, chosen on seeds that the table does not use.

    python -m benchmarks.planted.rates OUT                       # every rate
    python -m benchmarks.planted.rates OUT --names dpo,ppo

For each kind of training, FIRST_GUESS times 1/3, 1 and 3 is tried at a label accuracy of 80 % on
HELD_BACK seeds, and on by the same factor where the best rate is the first or the last. What counts
is the mean gain in gold of the arms that train with it; the reward model is judged by the best-of-n
that it chooses. Every training's result is a file in OUT/results: kill it and start it again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from benchmarks.planted.sampling import sampling_here
from benchmarks.planted.table import measured, prepared
from rlaif.data.records import write_json

HELD_BACK = (1000, 1001)
ACCURACY = 0.8
FIRST_GUESS: Mapping[str, float] = {"reward": 2e-3, "sft": 5e-4, "dpo": 6e-4, "ppo": 3e-4}
FACTOR = 3.0
TRIED: Mapping[str, Sequence[str]] = {
    "reward": ["best_of_n"],
    "sft": ["sft", "rest"],
    "dpo": ["dpo_soft", "dpo_hard"],
    "ppo": ["ppo_rloo", "ppo_gae"],
}
"""Name of a rate → the arms that show it; the reward model's first, since others use it."""


def gain(out: Path, arm: str, rates: Mapping[str, float], name: str, seed: int) -> float:
    """The gain in gold of one training, measured or read from OUT/results."""
    folder = out / "results"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{arm}-{name}-{rates[name]:.2g}-seed-{seed}.json"
    if not path.is_file():
        cell = replace(prepared(out, ACCURACY, 0.0, seed), rates=rates)
        if name == "reward":
            shutil.rmtree(cell.folder / "reward", ignore_errors=True)
        result = measured(cell, arm, ACCURACY, 0.0)
        write_json(path, result.model_dump())
        shutil.rmtree(cell.folder / arm, ignore_errors=True)
        print(f"{path.stem}: {result.gain:+.3f}, {result.seconds:.0f} s", file=sys.stderr)
    return float(json.loads(path.read_text(encoding="utf-8"))["gain"])


def mean_gain(out: Path, name: str, rates: Mapping[str, float]) -> float:
    """Over the arms that show this rate, and the seeds; printed arm by arm."""
    found = {
        arm: fmean(gain(out, arm, rates, name, seed) for seed in HELD_BACK) for arm in TRIED[name]
    }
    arms = ", ".join(f"{arm} {value:+.3f}" for arm, value in found.items())
    print(f"{name} {rates[name]:.2g}: {arms}", flush=True)
    return fmean(found.values())


def main() -> None:
    """Try every rate, and print the gain of each and the best of each name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    parser.add_argument("--names", default=",".join(TRIED), help="separated by commas")
    given = parser.parse_args()
    names = given.names.split(",")
    if unknown := [name for name in names if name not in TRIED]:
        parser.error(f"unknown rate: {unknown[0]}; expected some of {', '.join(TRIED)}")
    best = dict(FIRST_GUESS)
    with sampling_here():
        for name in names:
            gains: dict[float, float] = {}
            waiting = [best[name] / FACTOR, best[name], best[name] * FACTOR]
            while waiting:
                rate = waiting.pop(0)
                gains[rate] = mean_gain(given.out, name, best | {name: rate})
                best_rate = max(gains, key=gains.__getitem__)
                if not waiting and best_rate in (min(gains), max(gains)):
                    waiting = [best_rate * (FACTOR if best_rate == max(gains) else 1 / FACTOR)]
            best[name] = best_rate
            if name == "reward":  # the arms after it train their own, at the rate that was best
                for folder in given.out.glob("seed-*/accuracy-*/reward"):
                    shutil.rmtree(folder)
    print(json.dumps(best))


if __name__ == "__main__":
    main()
