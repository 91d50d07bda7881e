"""Starts and memory of training on a corpus, beside the same labels read into memory.

    python -m benchmarks.scale.corpus [--pairs 10000 100000] [--steps 200] [--out FOLDER]

For each number of short pairs: `rlaif train prepare` (seconds, milliseconds a pair, peak resident
memory), then starts of `rlaif train reward` and `dpo` on the corpus and of `reward` on the labels,
each a process of its own that is ended after `steps` steps:

    first step   seconds from the start of the process to its first line of metrics.jsonl, imports
                 included; and CPU seconds of the process until then, which other work changes less
    peak         largest resident memory until the end, MiB; pages of mapped files count
    own          resident memory without files (RssAnon) at the end, MiB: no other process shares it

The model is random and has 50 000 weights, so that what is measured is the data's share. DPO starts
twice: the first fills the reference's log-probs, the second finds them. `reward` has no reference,
so that it compares the two ways of reading alone. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from constitution.schema import Message
from rlaif.data.records import Preference, write_preferences

SETTINGS = ["max_tokens=200", "dtype=float32", "batch_size=8", "checkpoint_every=100000"]
SAVE = "import sys; from pathlib import Path; from tests.support.training.tiny_model import *; "
SAVE += "save_tiny_model(Path(sys.argv[1]))"


class StartFigures(NamedTuple):
    """What a process took; seconds to its first step, or in all where it has no steps."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    own_mib: float | None = None


def labels(count: int) -> Iterator[Preference]:
    """Short pairs, each with a prompt of its own."""
    for i in range(count):
        yield Preference(
            id=f"pair-{i}",
            prompt=(Message(role="user", content=f"What is {i} and {i + 1}, please?"),),
            chosen=(Message(role="assistant", content=f"It is {2 * i + 1}."),),
            rejected=(Message(role="assistant", content=f"I would not know, {i % 97} perhaps."),),
            prob_chosen=0.6 + 0.3 * (i % 10) / 10,
            traits={"honest": 0.9},
        )


def rlaif(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """A process of `rlaif ARGUMENTS`, which says nothing."""
    command = [sys.executable, "-m", "rlaif", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def whole(arguments: Sequence[str]) -> StartFigures:
    """Run a command to its end. Raises SystemExit if it fails."""
    began = time.perf_counter()
    process = rlaif(arguments)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"rlaif {' '.join(arguments)} failed")
    seconds = time.perf_counter() - began
    return StartFigures(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def start(arguments: Sequence[str], out: Path, steps: int) -> StartFigures:
    """Start a training, end it after `steps` steps. Raises SystemExit if it ends by itself."""
    began, first, cpu = time.perf_counter(), 0.0, 0.0
    process = rlaif([*arguments, "--out", str(out), *SETTINGS])
    while (done := steps_in(out)) < steps:
        if done and not first:
            first, cpu = time.perf_counter() - began, cpu_seconds(process.pid)
        if process.poll() is not None:
            raise SystemExit(f"rlaif {' '.join(arguments)} ended after {done} steps")
        time.sleep(0.02)
    own = own_memory(process.pid)
    process.send_signal(signal.SIGKILL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return StartFigures(first, cpu, used.ru_maxrss / 1024, own)


def steps_in(out: Path) -> int:
    """Lines of a run's metrics."""
    try:
        return (out / "metrics.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


def own_memory(pid: int) -> float:
    """RssAnon of a process, MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if "RssAnon" in line).split()[1]) / 1024


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process so far, user and system: fields 14 and 15 of man 5 proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(count: int, steps: int, folder: Path) -> dict[str, StartFigures]:
    """All figures of this number of pairs, printed as they are found."""
    folder.mkdir()
    model, file, corpus = str(folder / "model"), folder / "labels.parquet", str(folder / "corpus")
    subprocess.run([sys.executable, "-c", SAVE, model], check=True, stderr=subprocess.DEVNULL)
    write_preferences(file, labels(count), ["honest"])
    found: dict[str, StartFigures] = {}

    def keep(name: str, figures: StartFigures) -> None:
        found[name] = figures
        own = "" if figures.own_mib is None else f", own {figures.own_mib:.0f} MiB"
        took = f"{figures.seconds:.1f} s, CPU {figures.cpu_seconds:.1f} s"
        print(f"{count} pairs, {name}: {took}, peak {figures.peak_mib:.0f} MiB{own}", flush=True)

    of, reward = ["--model", model], ["--model", model, "-c", "hhh"]
    prepare = ["train", "prepare", "reward", str(file), *of, "--out", corpus, *SETTINGS]
    keep("prepare", whole(prepare))
    keep("reward, corpus", start(["train", "reward", corpus, *reward], folder / "r", steps))
    keep("dpo, corpus, first", start(["train", "dpo", corpus, *of], folder / "d1", steps))
    keep("dpo, corpus, second", start(["train", "dpo", corpus, *of], folder / "d2", steps))
    keep("reward, labels", start(["train", "reward", str(file), *reward], folder / "m", steps))
    return found


def main() -> None:
    """Measure, and print one JSON object in the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pairs", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, help="where files go; by default a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        every = {n: measure(n, options.steps, folder / str(n)) for n in options.pairs}
    rows = {n: {name: f._asdict() for name, f in found.items()} for n, found in every.items()}
    for count, found in every.items():
        cost = 1000 * found["prepare"].cpu_seconds / count
        print(f"{count} pairs: prepared in {cost:.2f} ms of CPU a pair, start and imports included")
    print(json.dumps({"name": "corpus", "unit": "s, MiB", "pairs": rows}))


if __name__ == "__main__":
    main()
