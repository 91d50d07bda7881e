"""What the benchmarks on pairs (DPO, reward model, SFT) share: options, job, sides."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.peers import comparing
from benchmarks.peers.data import SEED, PairJob, choose_pairs


def options_of(doc: str | None) -> argparse.Namespace:
    """The command line of a benchmark of training on pairs. doc: its module's docstring."""
    parser = comparing.parser(doc or "")
    parser.add_argument("--batch", type=int, default=4, help="pairs per optimizer step")
    parser.add_argument("--steps", type=int, default=4, help="per round; the first is not counted")
    parser.add_argument("--max-tokens", type=int, default=512, help="longer pairs are left out")
    options = parser.parse_args()
    if options.steps < 2:
        parser.error("--steps: at least 2, since the first is not counted")
    return options


def job_and_work(options: argparse.Namespace, algorithm: str) -> tuple[dict[str, Any], PairJob]:
    """The job for both sides, still without its files, and the pairs it trains on."""
    import transformers

    job = comparing.common_job(options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["model"])
    work = choose_pairs(tokenizer, options.data, options.steps, options.batch, options.max_tokens)
    order = sft_order(len(work.pairs), options.batch) if algorithm == "sft" else work.order
    return {
        **job,
        "algorithm": algorithm,
        "batch": options.batch,
        "max_tokens": options.max_tokens,
        "epochs": 1,
        "order": order,
        "rows": work.rows(),
        "prepare": False,
    }, work


def sft_order(count: int, batch: int) -> list[list[int]]:
    """Our SFT's order of one source: it mixes sources, so it is not that of the pairs' trainers."""
    from rlaif.algorithms.sft.lessons import mixture
    from rlaif.batching.encode import in_groups

    picks = mixture([count], [1.0], count, SEED)
    return [[pick.row for pick in group] for group in in_groups(picks, batch)]


def prepared(job: dict[str, Any], work: PairJob, folder: Path) -> dict[str, Any]:
    """The job with its files: the pairs as records, and our starting weights."""
    job = {
        **job,
        "preferences": str(work.write(folder / "preferences.jsonl")),
        "initial": str(folder / "initial"),
    }
    comparing.side("our_training", {**job, "prepare": True})(folder / "prepare")
    return job


def our_side(job: dict[str, Any]) -> comparing.Side:
    """Our trainer of the job's algorithm."""
    return comparing.side("our_training", job)


def peer_side(job: dict[str, Any]) -> comparing.Side:
    """TRL's trainer of the job's algorithm."""
    return comparing.side("trl_training", job)


def compare(options: argparse.Namespace, algorithm: str, title: str, unit: str) -> dict[str, Any]:
    """Measure ours beside TRL's trainer of the same name, print both, return the result object."""
    job, work = job_and_work(options, algorithm)
    folder = comparing.folder(options)
    job = prepared(job, work, folder)
    sides = {"ours": our_side(job), "TRL": peer_side(job)}
    found = comparing.alternate(sides, options.rounds, folder)
    speed = {n: options.batch / comparing.median_seconds(o) for n, o in found.items()}
    peak = {n: round(comparing.peak_gib(o), 2) for n, o in found.items()}
    print(f"{comparing.described(options, job)}; {work.described()}; {options.threads} threads")
    apart = comparing.show_losses(found["ours"][0], found["TRL"][0])
    comparing.show_table(
        ("side", unit, "ours is", "peak GiB"),
        [
            (name, f"{value:.3f}", f"{speed['ours'] / value:.2f}x", f"{peak[name]:.2f}")
            for name, value in speed.items()
        ],
    )
    return {
        "name": f"{title}, {comparing.described(options, job)}, {work.described()}",
        "ours": round(speed["ours"], 4),
        "peer": round(speed["TRL"], 4),
        "unit": unit,
        "ratio": round(speed["ours"] / speed["TRL"], 2),
        "largest_loss_difference": apart,
        "peak_gib": peak,
        "threads": options.threads,
    }
