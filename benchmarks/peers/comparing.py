"""Rounds in alternating order, medians over the counted steps, and the printed table."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.peers.sides import SideOutcome, run

Side = Callable[[Path], SideOutcome]


def parser(doc: str) -> argparse.ArgumentParser:
    """The options that all these benchmarks have."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--model", default="smollm2-135m")
    made.add_argument("--data", type=Path, help="JSONL instead of the shipped examples")
    made.add_argument("--full", action="store_true", help="full fine-tuning on both sides, no LoRA")
    made.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    made.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    made.add_argument("--rounds", type=int, default=2, help="each side once per round")
    made.add_argument("--learning-rate", type=float, default=1e-4)
    made.add_argument("--out", type=Path, help="also write the JSON object here")
    made.add_argument("--keep", type=Path, help="keep jobs and logs in this new folder")
    return made


LORA = {
    "rank": 16,
    "alpha": 32.0,
    "targets": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


def common_job(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that every side of every benchmark gets.

    `autocast`, with full fine-tuning in bfloat16: float32 weights, the forward cast, on both sides.
    With LoRA both hold a bfloat16 base under float32 adapters, and nothing is cast.
    """
    from hardware.dtypes import dtype_name
    from rlaif.models import catalog

    dtype = dtype_name(options.dtype)
    return {
        "model": catalog.resolve(options.model),
        "dtype": dtype,
        "full": options.full,
        "autocast": options.full and dtype == "bfloat16",
        "lora": LORA,
        "learning_rate": options.learning_rate,
        "threads": options.threads,
    }


def described(options: argparse.Namespace, job: Mapping[str, Any]) -> str:
    """The model, how it is fine-tuned and the dtype, for a result's name."""
    return f"{options.model}, {'full' if job['full'] else 'LoRA'}, {job['dtype']}"


def folder(options: argparse.Namespace) -> Path:
    """Where jobs, logs and outputs go."""
    if options.keep is None:
        return Path(tempfile.mkdtemp(prefix="rlaif-bench-"))
    options.keep.mkdir(parents=True)
    return options.keep.resolve()


def side(module: str, job: Mapping[str, Any], python: str = sys.executable) -> Side:
    """A side that runs a module of benchmarks/peers with this job.

    python: another interpreter, for a peer that needs other versions.
    """
    return lambda folder: run(python, module, job, folder)


def alternate(sides: Mapping[str, Side], rounds: int, folder: Path) -> dict[str, list[SideOutcome]]:
    """Every side once per round, in reverse order every second round; the outcomes by side."""
    found: dict[str, list[SideOutcome]] = {name: [] for name in sides}
    for place in range(rounds):
        for name in list(sides)[:: 1 if place % 2 == 0 else -1]:
            print(f"round {place + 1} of {rounds}: {name} ...", file=sys.stderr, flush=True)
            found[name].append(sides[name](folder / f"{place}-{name.replace(' ', '-')}"))
    return found


def median_seconds(outcomes: Sequence[SideOutcome]) -> float:
    """Median seconds per step over all rounds of a side."""
    return statistics.median(chain.from_iterable(o.seconds for o in outcomes))


def peak_gib(outcomes: Sequence[SideOutcome]) -> float:
    """The largest peak of a side's rounds, GiB."""
    return max(o.peak_gib for o in outcomes)


def show_losses(ours: SideOutcome, peer: SideOutcome) -> float:
    """Print both loss curves; returns the largest difference between them."""
    print("loss, step by step")
    for name, outcome in (("ours", ours), ("peer", peer)):
        print(f"  {name}  " + " ".join(f"{loss:.4f}" for loss in outcome.losses))
    apart = max(abs(a - b) for a, b in zip(ours.losses, peer.losses, strict=True))
    print(f"  largest difference {apart:.1e}")
    return apart


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, 110 columns wide."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    Console(width=110).print(table)


def finish(result: Mapping[str, Any], out: Path | None) -> None:
    """Print the result as one JSON line, and write it to `out` if given."""
    line = json.dumps(result)
    if out:
        out.write_text(line + "\n", encoding="utf-8")
    print(line)
