"""The planted table read further: arms less one another by seed, their spread, and their price.

    python -m benchmarks.planted.paired benchmarks/planted/results.jsonl

Two arms of one seed share prompts, samples and labels, so their difference is far surer than the
intervals of either. "All" is the mean over accuracies of each seed. Student's t over seeds, 95 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median, stdev

from benchmarks.planted.arms import ARMS
from benchmarks.planted.table import CellResult
from rlaif.data.records import read_jsonl
from rlaif.evaluation.intervals import mean_estimate

PAIRS = (
    ("dpo_soft", "dpo_hard"), ("dpo_soft", "sft"), ("ppo_rloo", "dpo_soft"),
    ("ppo_rloo", "ppo_gae"), ("ppo_rloo", "ppo_grpo"), ("ppo_rloo", "best_of_n"),
    ("best_of_n", "dpo_soft"), ("rest", "sft"),
)  # fmt: skip


def differences(
    results: Sequence[CellResult], first: str, second: str, accuracies: Sequence[float]
) -> list[float]:
    """Gain of the first arm less that of the second, by seed, over the accuracies on average.

    A seed that lacks one of them is left out.
    """
    gains = {(r.arm, r.accuracy, r.seed): r.gain for r in results}
    found = []
    for seed in sorted({r.seed for r in results}):
        cells = [[(arm, a, seed) for arm in (first, second)] for a in accuracies]
        if all(key in gains for cell in cells for key in cell):
            found.append(fmean(gains[one] - gains[other] for one, other in cells))
    return found


def paired_table(results: Sequence[CellResult]) -> str:
    """Differences by label accuracy and over all, then spread over seeds and processor seconds."""
    accuracies = sorted({result.accuracy for result in results})
    columns = " | ".join(f"labels right {a:.0%}" for a in accuracies)
    lines = [
        "Planted judge (simulated by rules, no model): gain of an arm less another's, by seed.", "",
        f"| | {columns} | all |", "|---" * (len(accuracies) + 2) + "|",
    ]  # fmt: skip
    for first, second in PAIRS:
        sets = [*([a] for a in accuracies), accuracies]
        cells = (_interval(differences(results, first, second, each)) for each in sets)
        lines.append(f"| {first} - {second} | " + " | ".join(cells) + " |")
    lines += ["", "Standard deviation of the gain over seeds; processor seconds, median.", "",
              f"| | {columns} | seconds |", "|---" * (len(accuracies) + 2) + "|"]  # fmt: skip
    for arm in ARMS:
        own = [result for result in results if result.arm == arm]
        gains = ([r.gain for r in own if r.accuracy == accuracy] for accuracy in accuracies)
        spread = (f"{stdev(values):.3f}" if len(values) > 1 else "—" for values in gains)
        seconds = [r.cpu_seconds for r in own if r.cpu_seconds is not None]
        price = f"{median(seconds):.0f}" if seconds else "—"
        lines.append(f"| {arm} | " + " | ".join(spread) + f" | {price} |")
    return "\n".join(lines)


def _interval(values: Sequence[float]) -> str:
    if not values:
        return "—"
    found = mean_estimate(values)
    if found.low is None or found.high is None:
        return f"{found.value:+.3f}"
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def main() -> None:
    """Print the tables of a file of results, for each length bias in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("results", type=Path)
    results = read_jsonl(parser.parse_args().results, CellResult)
    for bias in sorted({result.length_bias for result in results}):
        print(f"\nlength bias {bias:g}\n")
        print(paired_table([result for result in results if result.length_bias == bias]))


if __name__ == "__main__":
    main()
