"""Labels per second with several servers against one.

    python -m benchmarks.scale.servers [--servers 3] [--pairs 400] [--rounds 3] [--slots 8]
        [--seconds 0.25]

Real server processes, a real client with all their addresses, and `label` with its journal. The
engine has no model: it takes `slots` reads at a time, each for `seconds`, so the machine's cores
are not what limits it. In turns: one server, all of them, and all of them with one that is five
times slower. Each server has a store of its own, and every round asks new pairs, in both orders.
shares: the reads that each server computed. The first round warms up and is not counted.

The last line is one JSON object: name, ours (all servers), peer (one), unit, ratio; medians over
the rounds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from constitution.schema import Message
from judge_service.client.sync import JudgeClient
from judge_service.types import Comparison
from rlaif.feedback.labeler import label
from tests.support.service.server_process import ServerProcess
from tests.support.service.serving import one_principle

SLOWER = 5
_numbers = itertools.count()


@contextmanager
def started(folder: Path, seconds: Sequence[float], slots: int) -> Iterator[list[ServerProcess]]:
    """A server for each of these times of a read."""
    with ExitStack() as stack:
        servers = []
        for place, each in enumerate(seconds):
            name = f"server-{place}"
            server = ServerProcess(
                folder, one_principle(folder), str(folder / f"{name}.sqlite"), name=name
            )
            servers.append(stack.enter_context(server))
            server.start(slots=slots, seconds=each)
        yield servers


def pairs_of(n: int) -> list[Comparison]:
    """Pairs that no server has read."""
    numbers = (next(_numbers) for _ in range(n))
    return [
        Comparison(
            f"p{number}",
            (Message(role="user", content=f"question {number // 1000} {number % 1000}"),),
            "short",
            "rather longer",
        )
        for number in numbers
    ]


def labels_per_second(servers: Sequence[ServerProcess], folder: Path, n: int) -> float:
    """Labels per second of one call of `label`, its files included."""
    pairs, out = pairs_of(n), folder / f"labels-{next(_numbers)}"
    before = [server.reads_since(0)[1] for server in servers]
    with JudgeClient(",".join(server.address for server in servers)) as client:
        client.wait_until_ready(60)
        started_at = time.perf_counter()
        summary = label(pairs, client, out)
        seconds = time.perf_counter() - started_at
    assert summary.judged == n, "every pair has a label"
    shares = [len(s.reads_since(b)[0]) for s, b in zip(servers, before, strict=True)]
    print(f"  {len(servers)} servers: {n / seconds:6.1f} labels/s, shares {shares}", flush=True)
    return n / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.25)
    options = parser.parse_args()
    times = [options.seconds] * options.servers + [SLOWER * options.seconds]
    found: dict[str, list[float]] = {"one": [], "all": [], "one_slow": []}
    with (
        tempfile.TemporaryDirectory() as name,
        started(Path(name), times, options.slots) as servers,
    ):
        equal, slow = servers[: options.servers], servers[options.servers]
        used = {"one": equal[:1], "all": equal, "one_slow": [*equal[:-1], slow]}
        for number in range(options.rounds + 1):
            print("warm-up, not counted" if number == 0 else f"round {number}")
            for which, some in used.items():
                n = options.pairs // (4 if number == 0 else 1)
                rate = labels_per_second(some, Path(name), n)
                found[which] += [rate] if number else []
    one, all_of, one_slow = (statistics.median(found[which]) for which in used)
    line = {
        "name": f"labels, {options.servers} servers against one (engine without a model)",
        "ours": round(all_of, 1),
        "peer": round(one, 1),
        "unit": "labels/s",
        "ratio": round(all_of / one, 2),
        "one_of_them_five_times_slower": round(one_slow / one, 2),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
