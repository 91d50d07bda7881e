"""Entries per second of the journal: an fsync for each entry against group commit.

    python -m benchmarks.scale.journal [--entries N] [--rounds N] [--folder DIR] [--fsync-ms 5]

Appends answers of the size of a real one (two principles in both orders, with receipts), in turns
to a journal that is synced after each, as all were before group commit, and to one that decides
itself. Two disks: this one, and one whose fsync takes 5 ms. The latter is emulated: a sleep of 5 ms
goes before each real fsync. Then `judge_pairs` labels pairs on the emulated disk, for a judge in
this process that answers everything at once with one judgment: what is left is the labeler's own
work. The first round warms up and is not counted.

The last line is one JSON object: name, ours, peer, unit, ratio, for labels on the emulated disk;
medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from constitution.schema import Message
from judge_service.server_info import ConstitutionSummary, ServerInfo, ServerLimits, ServerState
from judge_service.types import (
    Comparison,
    Judgment,
    ModelIdentity,
    Order,
    PrincipleVote,
    Provenance,
    Read,
    Usage,
    Verdict,
)
from rlaif.data import journal
from rlaif.data.journal import Journal
from rlaif.feedback.labeler import JournalEntry, judge_pairs

MODEL = ModelIdentity("judge", "a" * 64, "b" * 64, "bfloat16", "vllm 0.32.0")


def answer() -> Judgment:
    """A judgment of two principles in both orders."""
    principles, orders = ("honest", "complete"), (Order.AB, Order.BA)
    digests = "cd"
    reads = tuple(
        Read(order, -0.105361, -2.407946, 0.909, 0.99, 300, 250, digest * 64)
        for order, digest in zip(orders, digests, strict=True)
    )
    votes = tuple(PrincipleVote(id, "helpful", 1.0, 0.909, 0.01, reads) for id in principles)
    return Judgment(
        Verdict.A,
        0.909,
        {"helpful": 0.909},
        votes,
        position_consistent=True,
        order_gap=0.01,
        provenance=Provenance("rules", "1.0.0", "d" * 64, MODEL, "5", principles, orders, seed=0),
        usage=Usage(prompt_tokens=1200, cached_tokens=1000, reads=4),
        seconds=0.5,
    )


@contextmanager
def fsync_taking(seconds: float) -> Iterator[list[int]]:
    """Every fsync sleeps first, so long; yields a list whose only item counts them."""
    real, count = os.fsync, [0]

    def slow(file: int) -> None:
        count[0] += 1
        time.sleep(seconds)
        real(file)

    os.fsync = slow  # type: ignore[assignment]
    try:
        yield count
    finally:
        os.fsync = real


class AnswersAtOnce:
    """A judge without a model or a server: one judgment for every pair."""

    def server_info(self) -> ServerInfo:
        """A server that serves one constitution."""
        limits = ServerLimits(4096, 4 * 2**20, 32, 64, 256, 512, 1024)
        rules = ConstitutionSummary("rules", "1.0.0", "d" * 64)
        return ServerInfo(ServerState.SERVING, "0", MODEL, "5", limits, (), (rules,))

    def stream(self, comparisons: Iterable[Comparison], **_: object) -> Iterator[object]:
        """(id, the judgment) of each comparison."""
        judgment = answer()
        for pair in comparisons:
            yield pair.id, judgment


def appended(path: Path, entries: int) -> float:
    """Entries per second, the last one on the disk."""
    kept = [JournalEntry(key=f"{n:064x}", id=f"pair-{n}", answer=answer()) for n in range(entries)]
    started = time.perf_counter()
    with Journal(path, JournalEntry) as file:
        for entry in kept:
            file.append(entry)
    return entries / (time.perf_counter() - started)


def labeled(path: Path, pairs: int) -> float:
    """Labels per second of `judge_pairs`, the last one on the disk."""
    asked = [
        Comparison(f"{n}", (Message(role="user", content=f"question {n}"),), "yes", "no")
        for n in range(pairs)
    ]
    started = time.perf_counter()
    judge_pairs(asked, AnswersAtOnce(), path)  # type: ignore[arg-type]
    return pairs / (time.perf_counter() - started)


def rate(work: Callable[[Path, int], float], path: Path, entries: int, *, each: bool) -> float:
    """What the work gives. each: an fsync for every entry."""
    group, journal.SYNC_ENTRIES = journal.SYNC_ENTRIES, 1 if each else journal.SYNC_ENTRIES
    try:
        return work(path, entries)
    finally:
        journal.SYNC_ENTRIES = group
        path.unlink()


def compare(
    work: Callable[[Path, int], float], folder: Path, options: argparse.Namespace, extra: float
) -> tuple[float, float]:
    """(group commit, an fsync each): entries per second, medians over the rounds."""
    grouped, single = [], []
    with fsync_taking(extra) as count:
        for number in range(options.rounds + 1):
            before = count[0]
            ours = rate(work, folder / "grouped.jsonl", 10 * options.entries, each=False)
            middle = count[0]
            peer = rate(work, folder / "single.jsonl", options.entries, each=True)
            print(
                f"  group commit {ours:8.0f}/s ({middle - before} fsyncs), "
                f"one fsync each {peer:8.0f}/s ({count[0] - middle} fsyncs)"
                + ("" if number else "   warm-up, not counted"),
                flush=True,
            )
            if number:
                grouped.append(ours)
                single.append(peer)
    found = statistics.median(grouped), statistics.median(single)
    print(f"  ratio {found[0] / found[1]:.1f}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--entries", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: /var/tmp")
    parser.add_argument("--fsync-ms", type=float, default=5.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder or "/var/tmp") as name:
        folder, slow = Path(name), options.fsync_ms / 1000
        slowly = f"an fsync takes {options.fsync_ms:g} ms more (emulated by a sleep)"
        print(f"entries, this disk ({name}):")
        here = compare(appended, folder, options, 0.0)
        print(f"entries, {slowly}:")
        emulated = compare(appended, folder, options, slow)
        print(f"labels, {slowly}:")
        labels = compare(labeled, folder, options, slow)
    line = {"name": f"labels, an fsync of {options.fsync_ms:g} ms (emulated)"}
    line |= as_json(labels, "labels/s")
    line |= {"entries": as_json(emulated, "entries/s"), "this_disk": as_json(here, "entries/s")}
    print(json.dumps(line))


def as_json(rates: tuple[float, float], unit: str) -> dict[str, object]:
    """ours, peer, unit and ratio."""
    ours, peer = rates
    return {"ours": round(ours), "peer": round(peer), "unit": unit, "ratio": round(ours / peer, 1)}


if __name__ == "__main__":
    main()
