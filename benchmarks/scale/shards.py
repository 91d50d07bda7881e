"""Memory of commands on folders of shards, at n rows and at ten times as many.

    python -m benchmarks.scale.shards [--rows 10000]

Every command runs in a process of its own; what is printed is its largest resident memory (MiB) and
its seconds. Labels are copies of a few real ones, by a planted judge (simulated by rules, no
model), with ids and prompts of their own; `label` itself is measured at a tenth of the rows. A
command whose memory depends on the rows shows it in the last column.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import rlaif
from benchmarks.planted.served import serving
from constitution.schema import Message
from rlaif.data.datasets import read_preferences
from rlaif.data.records import write_jsonl

HERE = Path(__file__).parents[1] / "planted"
RULES, JUDGE = HERE / "constitution.yaml", HERE / "judge.yaml"
FACTOR = 10
_MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
sys.exit(code)
"""


def measured(*words: str | Path) -> tuple[float, float]:
    """(largest resident MiB, seconds) of one `rlaif` command."""
    command = [sys.executable, "-m", "rlaif", *map(str, words)]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, *command], check=True, stdout=subprocess.PIPE, text=True
    )
    return float(done.stdout), time.monotonic() - began


def write_samples(file: Path, prompts: int) -> Path:
    """Two responses to each prompt."""
    with file.open("w", encoding="utf-8") as lines:
        for n in range(prompts):
            texts = [f"Use a towel, as in 19{n % 90 + 10}. Please.", f"No. {n}. Try. Or not."]
            row = {"prompt": f"How do I open jar number {n}? " * 5, "responses": texts}
            lines.write(json.dumps(row) + "\n")
    return file


def write_labels(file: Path, folder: Path, server: str, rows: int) -> Path:
    """Copies of eight labels with their receipts; every two have a prompt of their own."""
    few = rlaif.label(write_samples(folder / "few.jsonl", 8), server=server, out=folder / "few")
    assert few.judged == 8
    labels = read_preferences(folder / "few" / "preferences.parquet")
    write_jsonl(
        file,
        (
            labels[n % 8].model_copy(
                update={
                    "id": f"copy-{n}",
                    "prompt": (Message(role="user", content=f"jar number {n // 2}?"),),
                }
            )
            for n in range(rows)
        ),
    )
    return file


def at(rows: int, folder: Path, server: str) -> dict[str, tuple[float, float]]:
    """Memory and seconds of every command at so many rows."""
    samples = write_samples(folder / "samples.jsonl", rows // 2)
    labels = write_labels(folder / "labels.jsonl", folder, server, rows)
    fewer = write_samples(folder / "fewer.jsonl", rows // FACTOR)
    size = ("--rows", "1000", "--out")
    found = {
        "shards split (samples)": measured("shards", "split", samples, *size, folder / "samples"),
        "shards split (labels)": measured("shards", "split", labels, *size, folder / "labels"),
    }
    measured("shards", "split", fewer, "--rows", "200", "--out", folder / "fewer")
    by = ("-c", RULES)
    found["label (a tenth)"] = measured(
        "label", folder / "fewer", "--server", server, *by, "--out", folder / "labeled"
    )
    found["shards status"] = measured("shards", "status", folder / "labels")
    found["labels stats"] = measured("labels", "stats", folder / "labels", *by)
    found["labels verify --offline"] = measured(
        "labels", "verify", folder / "labels", "--offline", *by
    )
    found["labels export"] = measured(
        "labels", "export", folder / "labels", "--out", folder / "export.jsonl"
    )
    return found


def main() -> None:
    """Measure at n and at ten times n rows, and print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=10_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made, serving(JUDGE, RULES) as server:
        results = []
        for rows in (given.rows, given.rows * FACTOR):
            folder = Path(made) / str(rows)
            folder.mkdir()
            results.append(at(rows, folder, server))
    few, many = results
    print(f"this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    for name in few:
        (small, quick), (large, long) = few[name], many[name]
        print(
            json.dumps(
                {
                    "command": name,
                    "rows": [given.rows, given.rows * FACTOR],
                    "mib": [round(small), round(large)],
                    "seconds": [round(quick, 1), round(long, 1)],
                    "mib_more": round(large - small),
                }
            )
        )


if __name__ == "__main__":
    main()
