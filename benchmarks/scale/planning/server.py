"""The judge server of the measurement: a real one in a process of its own, whose engine is fake.

    python -m benchmarks.scale.planning.server FOLDER TOKENIZER PRINCIPLES

It tokenizes with a real tokenizer, answers every read at once with equal probabilities, and keeps
FOLDER/reads.sqlite (benchmarks/service/rate.py has it). It prints its address, and ends with its
standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.service.rate import serve


@dataclass(frozen=True, slots=True)
class CostedServer:
    """A running server. rules: the constitution that it judges by."""

    pid: int
    address: str
    rules: Path
    store: Path

    def store_bytes(self) -> int:
        """Bytes of the store's pages, those of its write-ahead log included."""
        with closing(sqlite3.connect(f"file:{self.store}?mode=ro", uri=True)) as database:
            (pages,), (size,) = (
                database.execute(f"PRAGMA {what}").fetchone()
                for what in ("page_count", "page_size")
            )
        return int(pages) * int(size)


@contextmanager
def started(folder: Path, tokenizer: str, principles: int) -> Iterator[CostedServer]:
    """A server, until the block ends."""
    module = "benchmarks.scale.planning.server"
    process = subprocess.Popen(
        [sys.executable, "-m", module, str(folder), tokenizer, str(principles)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        address = process.stdout.readline().strip()
        if not address:
            raise RuntimeError("the judge server did not start; its traceback is above")
        yield CostedServer(process.pid, address, folder / "bench.yaml", folder / "reads.sqlite")
        process.stdin.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("tokenizer")
    parser.add_argument("principles", type=int)
    given = parser.parse_args()
    given.profile = None
    asyncio.run(serve(given, given.folder))


if __name__ == "__main__":
    main()
