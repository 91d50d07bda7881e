"""Memory of the service under many items: a real server process with an engine without a model.

    python -m benchmarks.service.soak [--items 100000] [--streams 4] [--out FILE]

Each item is new: a comparison by one principle, two reads computed and committed to an SQLite file,
sent over one of several streams. Every 5 % of the items it reports the server's resident memory and
open descriptors. The first half is warm-up, in which caches fill (SQLite's are limited to 32 MiB
for each of two connections and fill in about 500 000 reads, so short runs show them growing).

The slope is that of a least-squares line through the memory after the warm-up, in MiB per 100 000
items. The last line is one JSON object: ours, peer: memory at the end and after the warm-up, MiB.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from constitution.schema import Message
from judge_service.client.sync import AsyncJudgeClient
from judge_service.types import Comparison, JudgeOptions, Judgment
from tests.support.service.server_process import ServerProcess
from tests.support.service.serving import one_principle

BULK = JudgeOptions(interactive=False)


@dataclass(frozen=True)
class MemorySample:
    """Memory and descriptors of the server after a number of items."""

    items: int
    rss_mib: float
    descriptors: int

    @classmethod
    def of(cls, pid: int, items: int) -> MemorySample:
        """Measure the process `pid` now, after this number of items."""
        fields = Path(f"/proc/{pid}/statm").read_text().split()
        rss = int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        return cls(items, rss, len(os.listdir(f"/proc/{pid}/fd")))


def slope_per_100k(samples: list[MemorySample]) -> float:
    """MiB per 100 000 items, by least squares."""
    xs, ys = [s.items / 1e5 for s in samples], [s.rss_mib for s in samples]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    over = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True))
    return over / sum((a - x) ** 2 for a in xs)


def questions(stream: int, count: int) -> Iterator[Comparison]:
    """Comparisons whose texts no other stream has."""
    for n in range(count):
        text = f"question {stream} of {n // 1000} {n % 1000}"
        conversation = (Message(role="user", content=text),)
        yield Comparison(f"{stream}-{n}", conversation, "short", "rather longer")


async def soak(server: ServerProcess, items: int, streams: int) -> list[MemorySample]:
    """Judge `items` comparisons over several streams; 20 samples of the server's memory."""
    samples: list[MemorySample] = []
    done, each = 0, items // 20

    async def one(client: AsyncJudgeClient, number: int) -> None:
        nonlocal done
        answers = client.stream(questions(number, items // streams), options=BULK)
        async for id, answer in answers:
            assert isinstance(answer, Judgment), f"{id}: {answer}"
            done += 1
            if done % each == 0:
                samples.append(MemorySample.of(server.pid, done))
                print(
                    f"{done:>9} items  {samples[-1].rss_mib:7.1f} MiB  "
                    f"{samples[-1].descriptors} descriptors",
                    flush=True,
                )

    async with AsyncJudgeClient(server.address) as client, asyncio.TaskGroup() as group:
        for number in range(streams):
            group.create_task(one(client, number))
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--out", type=Path, help="also write the JSON object here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rlaif-soak-") as name:
        folder = Path(name)
        store = folder / "reads.sqlite"
        with ServerProcess(folder, one_principle(folder), str(store)) as server:
            server.start(slots=256)
            before = MemorySample.of(server.pid, 0)
            started = time.monotonic()
            samples = asyncio.run(soak(server, options.items, options.streams))
            seconds = time.monotonic() - started
        store_mib = sum(file.stat().st_size for file in folder.glob("reads.sqlite*")) / 2**20

    # The first half is warm-up.
    steady = samples[len(samples) // 2 :]
    result = {
        "name": f"service soak, {samples[-1].items} items, no model",
        "ours": round(steady[-1].rss_mib, 1),
        "peer": round(steady[0].rss_mib, 1),
        "unit": "MiB resident",
        "ratio": round(steady[-1].rss_mib / steady[0].rss_mib, 3),
        "slope_mib_per_100k_items": round(slope_per_100k(steady), 2),
        "items_per_s": round(samples[-1].items / seconds, 1),
        "descriptors_at_start": before.descriptors,
        "descriptors_at_end": samples[-1].descriptors,
        "store_mib": round(store_mib, 1),
    }
    line = json.dumps(result)
    if options.out:
        options.out.write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
