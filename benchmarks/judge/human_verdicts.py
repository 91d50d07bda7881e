"""Win rates corrected by a few human verdicts: coverage with a judge that errs in one direction.

    python -m benchmarks.judge.human_verdicts [--runs 1000] [--judged 400]

People would prefer the policy with a known probability. A judge agrees with them with probability
`accuracy`, and else says that the policy won. For each number of human verdicts: the share of runs
whose 95 % interval holds the truth, and the interval's mean width,

    judge      by the judge alone, Wilson's over all prompts
    people     by people alone, Wilson's over the prompts that they saw
    both       PPI++ as `--human` prints it (rlaif/evaluation/human_verdicts.py)

The last line is one JSON object: name, ours, peer, unit, ratio: the worst coverage of both and of
the judge alone.
"""

from __future__ import annotations

import argparse
import json
import random
from statistics import fmean

from rich.console import Console
from rich.table import Table

from rlaif.evaluation.human_verdicts import prediction_powered_mean
from rlaif.evaluation.intervals import Estimate, share_estimate

HUMANS = (20, 60)
TRUTHS = (0.55, 0.8)
ACCURACIES = (0.55, 0.7, 0.85, 0.95)


def simulate(
    rng: random.Random, truth: float, accuracy: float, humans: int, judged: int
) -> tuple[Estimate, Estimate, Estimate]:
    """The win rate by the judge, by people, and by both."""
    people = [float(rng.random() < truth) for _ in range(judged)]
    judge = [y if rng.random() < accuracy else 1.0 for y in people]
    both, _ = prediction_powered_mean(people[:humans], judge[:humans], judge[humans:])
    return share_estimate(judge), share_estimate(people[:humans]), both


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--judged", type=int, default=400)
    args = parser.parse_args()

    table = Table("humans", "truth", "accuracy", "judge", "people", "both")
    worst = [1.0, 1.0, 1.0]
    for humans in HUMANS:
        for truth in TRUTHS:
            for accuracy in ACCURACIES:
                rng = random.Random(f"human {humans} {truth} {accuracy}")
                runs = [
                    simulate(rng, truth, accuracy, humans, args.judged) for _ in range(args.runs)
                ]
                cells = []
                for i, estimates in enumerate(zip(*runs, strict=True)):
                    bounds = [(e.low or 0.0, e.high or 0.0) for e in estimates]
                    covered = fmean(low <= truth <= high for low, high in bounds)
                    width = fmean(high - low for low, high in bounds)
                    worst[i] = min(worst[i], covered)
                    cells.append(f"{100 * covered:.1f} % ({100 * width:.0f} points)")
                table.add_row(str(humans), f"{truth}", f"{accuracy}", *cells)
    Console(width=110).print(table)
    judge, _, both = worst
    result = {"name": "worst coverage with a biased judge", "ours": both, "peer": judge}
    ratio = both / judge if judge else None
    print(json.dumps({**result, "unit": "share of runs", "ratio": ratio}))


if __name__ == "__main__":
    main()
