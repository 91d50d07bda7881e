"""Overload: goodput and rejections at ten times more calls than the judge can answer.

    python -m benchmarks.service.overload [--capacity 50] [--factor 10] [--seconds 20] [--out FILE]

A real server process with an engine of fixed speed and no model: `capacity` comparisons per second,
of two reads each, all new. First the peak, a closed loop: as many callers as the server admits,
each calling again at once. Then the storm, an open loop: `factor * capacity` calls per second,
whatever the answers. Health is checked ten times per second meanwhile.

The last line is one JSON object: ours, peer: comparisons answered per second in the storm and at
the peak; also the p99 latency of rejections (each must carry RetryInfo) and of health checks, and
the server's resident memory in the first and the last third of the storm.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from benchmarks.service.soak import MemorySample
from judge_service.v1 import judge_pb2 as pb
from judge_service.v1 import judge_pb2_grpc as pb_grpc
from tests.support.service.server_process import ServerProcess
from tests.support.service.serving import CHAT, one_principle

ADMITTED = 32  # concurrent calls
SLOTS = 8  # concurrent reads


@dataclass
class Overload:
    """Outcomes of the calls."""

    answered: int = 0
    rejected_seconds: list[float] = field(default_factory=list)
    health_seconds: list[float] = field(default_factory=list)
    rss_mib: list[float] = field(default_factory=list)


def requests() -> Iterator[pb.ComparePairRequest]:
    """Requests without end, each with a new text, so that none is stored already."""
    for n in itertools.count():
        new = f"reply {n // 1000} {n % 1000}"
        yield pb.ComparePairRequest(**CHAT, response_a=new, response_b="bb")


async def peak(stub: Any, source: Iterator[pb.ComparePairRequest], seconds: float) -> float:
    """Comparisons per second of callers that call again at once."""
    end, answered = time.monotonic() + seconds, 0

    async def call() -> None:
        nonlocal answered
        while time.monotonic() < end:
            await stub.ComparePair(next(source))
            answered += time.monotonic() < end

    async with asyncio.TaskGroup() as group:
        for _ in range(ADMITTED):
            group.create_task(call())
    return answered / seconds


async def storm(
    channel: Any, pid: int, source: Iterator[pb.ComparePairRequest], rate: float, seconds: float
) -> Overload:
    """Outcomes of `rate` calls per second, independent of the answers."""
    outcomes, end = Overload(), time.monotonic() + seconds
    stub, health = pb_grpc.JudgeServiceStub(channel), health_pb2_grpc.HealthStub(channel)

    async def call(request: pb.ComparePairRequest) -> None:
        started = time.perf_counter()
        try:
            await stub.ComparePair(request)
            outcomes.answered += time.monotonic() < end
        except grpc.aio.AioRpcError as error:
            outcomes.rejected_seconds.append(time.perf_counter() - started)
            _require_retry_info(error)

    async def watch() -> None:
        while time.monotonic() < end:
            started = time.perf_counter()
            await health.Check(health_pb2.HealthCheckRequest())
            outcomes.health_seconds.append(time.perf_counter() - started)
            outcomes.rss_mib.append(MemorySample.of(pid, 0).rss_mib)
            await asyncio.sleep(0.1)

    # An open loop: each call starts by the clock, whether or not earlier ones have ended.
    async with asyncio.TaskGroup() as group:
        group.create_task(watch())
        begun = time.monotonic()
        for n in range(round(rate * seconds)):
            await asyncio.sleep(max(0.0, begun + n / rate - time.monotonic()))
            group.create_task(call(next(source)))
    return outcomes


def _require_retry_info(error: Any) -> None:
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, error
    details = rpc_status.from_call(error).details
    assert any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in details), error


def p99_ms(seconds: list[float]) -> float:
    """99th percentile, in milliseconds."""
    return round(sorted(seconds)[int(0.99 * (len(seconds) - 1))] * 1000, 1)


async def measure(server: ServerProcess, options: argparse.Namespace) -> dict[str, object]:
    """The peak and the storm of one server, as the result object."""
    source = requests()
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = pb_grpc.JudgeServiceStub(channel)
        best = await peak(stub, source, options.seconds)
        rate = options.factor * options.capacity
        outcomes = await storm(channel, server.pid, source, rate, options.seconds)
    goodput, third = outcomes.answered / options.seconds, len(outcomes.rss_mib) // 3
    return {
        "name": f"overload, {rate:g} calls/s at {options.capacity:g}/s, no model",
        "ours": round(goodput, 1),
        "peer": round(best, 1),
        "unit": "comparisons/s",
        "ratio": round(goodput / best, 3),
        "refused": len(outcomes.rejected_seconds),
        "refusal_p99_ms": p99_ms(outcomes.rejected_seconds),
        "health_p99_ms": p99_ms(outcomes.health_seconds),
        "rss_mib_first_third": round(max(outcomes.rss_mib[:third]), 1),
        "rss_mib_last_third": round(max(outcomes.rss_mib[-third:]), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--capacity", type=float, default=50.0, help="comparisons per second")
    parser.add_argument("--factor", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=20.0, help="of the peak, and of the storm")
    parser.add_argument("--out", type=Path, help="also write the JSON object here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rlaif-overload-") as name:
        folder = Path(name)
        constitution, store = one_principle(folder), str(folder / "reads.sqlite")
        with ServerProcess(folder, constitution, store, max_concurrent_rpcs=ADMITTED) as server:
            server.start(slots=SLOTS, seconds=SLOTS / (2 * options.capacity))
            result = asyncio.run(measure(server, options))
    line = json.dumps(result)
    if options.out:
        options.out.write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
