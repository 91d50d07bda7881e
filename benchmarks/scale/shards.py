"""Memory of commands on folders of shards, at n rows and at ten times as many.

    python -m benchmarks.scale.shards [--rows 500] [--shard-rows 100] [--only COMMAND ...]

Every command runs in a process of its own. Printed are its largest resident memory (MiB), that of
its children, such as the process that samples, and CPU seconds. A command whose memory depends on
the rows shows it in the last column. A row is a pair, a response to revise, or a prompt to which
two responses of at most 4 tokens are sampled.

No judge's and no policy's model: the judge is a real server with a fake engine, the policy random
with 50 000 weights. Labels that are read are copies of eight of that judge's, with ids and prompts
of their own. With `--rows 10000` this takes most of an hour; `--only` runs some of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import rlaif
from benchmarks.scale.planning.commands import CommandUse, measured, peak_mib
from constitution.schema import Message
from rlaif.data.datasets import read_preferences
from rlaif.data.records import write_jsonl
from tests.support.service.server_process import ServerProcess
from tests.support.service.serving import one_principle

FACTOR = 10
SAVE = "import sys; from pathlib import Path; from tests.support.training.tiny_model import *; "
SAVE += "save_tiny_model(Path(sys.argv[1]))"
SAMPLING = ("n=2", "max_new_tokens=4", "engine=transformers", "dtype=float32")


def write_samples(file: Path, prompts: int) -> Path:
    """Two responses to each prompt."""
    with file.open("w", encoding="utf-8") as lines:
        for n in range(prompts):
            texts = [f"Use a towel, as in 19{n % 90 + 10}. Please.", f"No. {n}. Try. Or not."]
            row = {"prompt": f"How do I open jar number {n}? " * 5, "responses": texts}
            lines.write(json.dumps(row) + "\n")
    return file


def write_prompts(file: Path, prompts: int) -> Path:
    """Short prompts."""
    with file.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps({"prompt": f"Jar {n}?"}) + "\n" for n in range(prompts))
    return file


class MeasuredRows:
    """The commands at a number of rows. rules: the constitution that the server judges by."""

    def __init__(self, rows: int, shard_rows: int, folder: Path, server: str, rules: str) -> None:
        self._rows, self._folder = rows, folder
        self._by = ("-c", rules)
        self._server = server
        self._size = ("--rows", str(shard_rows), "--out")
        self._model = str(folder / "model")

    def commands(self) -> dict[str, Callable[[], CommandUse]]:
        """Name → what runs and measures it, in an order that gives each its source."""
        labels, served = self._folder / "labels", ("--server", self._server, *self._by)
        made = self._folder / "made"
        return {
            "shards split (prompts)": lambda: self._split(write_prompts, "prompts", self._rows),
            "sample": lambda: measured(
                "sample", self._folder / "prompts", "--model", self._saved(), "--out",
                made / "samples", *SAMPLING, f"prompts_per_chunk={self._size[1]}",
            ),
            "shards split (samples)": lambda: self._split(write_samples, "samples", self._rows),
            "label": lambda: measured(
                "label", self._folder / "samples", *served, "--out", made / "labels"
            ),
            "revise": lambda: measured(
                "revise", self._half(), *served, "--out", made / "lessons", "--gate", "0.5"
            ),
            "shards split (labels)": lambda: self._split(self._write_labels, "labels", self._rows),
            "shards status": lambda: measured("shards", "status", labels),
            "labels stats": lambda: measured("labels", "stats", labels, *self._by),
            "labels verify --offline": lambda: measured(
                "labels", "verify", labels, "--offline", *self._by
            ),
            "labels export": lambda: measured(
                "labels", "export", labels, "--out", made / "export.jsonl"
            ),
            "labels merge": lambda: measured(
                "labels", "merge", labels, labels, "--out", made / "merged"
            ),
            "train prepare dpo": lambda: measured(
                "train", "prepare", "dpo", labels, "--model", self._saved(), "--out",
                made / "corpus", "max_tokens=256",
            ),
        }  # fmt: skip

    def _split(self, write: Callable[[Path, int], Path], name: str, rows: int) -> CommandUse:
        file = write(self._folder / f"{name}.jsonl", rows)
        return measured("shards", "split", file, *self._size, self._folder / name)

    def _half(self) -> Path:
        """Samples of half as many prompts: each of both responses is revised."""
        self._split(write_samples, "half", self._rows // 2)
        return self._folder / "half"

    def _saved(self) -> str:
        """The folder of the policy, made once."""
        if not Path(self._model).exists():
            command = [sys.executable, "-c", SAVE, self._model]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        return self._model

    def _write_labels(self, file: Path, rows: int) -> Path:
        """Copies of eight labels with their receipts; every two have a prompt of their own."""
        folder = self._folder / "few"
        few = write_samples(self._folder / "few.jsonl", 8)
        assert rlaif.label(few, server=self._server, out=folder).judged == 8
        labels = read_preferences(folder / "preferences.parquet")
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


NEEDS = {"sample": "shards split (prompts)", "label": "shards split (samples)"}
NEEDS |= dict.fromkeys(
    ("shards status", "labels stats", "labels verify --offline", "labels export", "labels merge"),
    "shards split (labels)",
)
NEEDS["train prepare dpo"] = "shards split (labels)"
"""Command → the one that makes its source."""


def chosen(only: Sequence[str], names: Sequence[str]) -> list[str]:
    """The commands named by their beginnings, all without a name, and those that they need.

    >>> chosen(["labe"], ["shards split (samples)", "label"])
    ['shards split (samples)', 'label']
    """
    named = [name for name in names if not only or name.startswith(tuple(only))]
    return [name for name in names if name in {*named, *(NEEDS.get(name) for name in named)}]


def main() -> None:
    """Measure at n and at ten times n rows, and print both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--shard-rows", type=int, default=100)
    parser.add_argument("--only", nargs="+", default=[], help="names, or how they begin")
    given = parser.parse_args()
    sizes = given.rows, given.rows * FACTOR
    found: dict[str, list[CommandUse]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rules, store = one_principle(folder), str(folder / "reads.sqlite")
        with ServerProcess(folder, rules, store) as server:
            server.start()
            resident = []
            for rows in sizes:
                own = folder / str(rows)
                (own / "made").mkdir(parents=True)
                at = MeasuredRows(rows, given.shard_rows, own, server.address, rules).commands()
                for command in chosen(given.only, list(at)):
                    found.setdefault(command, []).append(at[command]())
                    print(rows, command, found[command][-1], file=sys.stderr, flush=True)
                resident.append(round(peak_mib(server.pid)))
    for command, (few, many) in found.items():
        line = {
            "command": command,
            "rows": sizes,
            "mib": [round(few.peak_mib), round(many.peak_mib)],
            "children_mib": [round(few.children_peak_mib), round(many.children_peak_mib)],
            "cpu_s": [round(u.cpu_s + u.children_cpu_s, 1) for u in (few, many)],
            "mib_more": round(many.peak_mib - few.peak_mib),
        }
        print(json.dumps(line))
    print(json.dumps({"judge server, rows of both sizes": resident, "unit": "MiB"}))


if __name__ == "__main__":
    main()
