"""What many health watches cost a judge server, and how soon it ends on SIGTERM.

    python -m benchmarks.service.watches [--watches N] [--connections N] [--rounds N] [--out F]

A real server process with an engine without a model (SteadyEngine), real sockets, this process as
the client. Each round opens N watches over so many connections, reads the first status of each,
calls Check while they are open, and leaves; what the server holds after each round shows whether
it keeps something of callers that left. Then SIGTERM: to a server without any call, to one with the
watches open, and to one whose watchers never let it send anything.

The last line is one JSON object. ours: the most resident memory of all rounds, less that of the
server before the first, MiB; bound: what is allowed. CANCELLED among the outcomes: more than a
thousand calls waited to be accepted, and gRPC itself dropped some. ends: seconds from SIGTERM to
the end of the process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.service.raw_http2 import call_without_window
from tests.support.service.server_process import ServerProcess

BOUND_MIB = 128
ENDS_WITHIN = 2.0
_WATCH = "/grpc.health.v1.Health/Watch"
_NEVER_READ = 100  # connections with a closed window
_TICKS = os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def connect(address: str, number: int) -> list[Any]:
    """Channels with a connection each."""
    return [
        grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(number)
    ]


async def begin(stub: Any) -> tuple[Any, str]:
    """A watch that has read its first status, and its outcome."""
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    try:
        first = await watch.read()
    except grpc.aio.AioRpcError as error:
        return watch, error.code().name
    if first is grpc.aio.EOF:
        return watch, (await watch.code()).name
    return watch, "watching"


@asynccontextmanager
async def watching(address: str, watches: int, connections: int) -> AsyncIterator[dict[str, int]]:
    """Watches over connections of their own; yields how many had which outcome."""
    channels = connect(address, connections)
    stubs = [health_pb2_grpc.HealthStub(channel) for channel in channels]
    begun = [begin(stubs[n % connections]) for n in range(watches)]
    results = await asyncio.gather(*begun)
    outcomes: dict[str, int] = {}
    for _, outcome in results:
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    try:
        yield outcomes
    finally:
        for channel in channels:
            await channel.close()


async def check_ms(address: str) -> float:
    """The slowest of 20 health checks over a new connection, milliseconds."""
    [channel] = connect(address, 1)
    stub, worst = health_pb2_grpc.HealthStub(channel), 0.0
    for _ in range(20):
        started = time.perf_counter()
        await stub.Check(health_pb2.HealthCheckRequest())
        worst = max(worst, time.perf_counter() - started)
    await channel.close()
    return round(worst * 1000, 1)


async def measure_round(server: ServerProcess, watches: int, connections: int) -> dict[str, Any]:
    """Memory, CPU time and outcomes of one round, against the server as it was before."""
    before, cpu = resident_mib(server.pid), cpu_seconds(server.pid)
    async with watching(server.address, watches, connections) as outcomes:
        opened = round(cpu_seconds(server.pid) - cpu, 2)
        held = resident_mib(server.pid) - before
        worst = await check_ms(server.address)
        idle = cpu_seconds(server.pid)
        await asyncio.sleep(2)
        idle = cpu_seconds(server.pid) - idle
    await asyncio.sleep(1)
    return {
        "before_mib": round(before, 1),
        "added_mib": round(held, 1),
        "left_mib": round(resident_mib(server.pid) - before, 1),
        "cpu_seconds": opened,
        "cpu_share_while_open": round(idle / 2, 3),
        "slowest_check_ms": worst,
        "outcomes": outcomes,
    }


async def seconds_to_end(server: ServerProcess) -> float:
    """From SIGTERM to the end of the process."""
    started = time.perf_counter()
    await asyncio.to_thread(server.stop)
    return round(time.perf_counter() - started, 2)


async def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All rounds and ends, as the result object."""
    server = ServerProcess(folder, "overall", str(folder / "reads.sqlite"))
    rounds, ends = [], {}
    with server:
        server.start()
        await check_ms(server.address)
        for _ in range(options.rounds):
            rounds.append(await measure_round(server, options.watches, options.connections))
            print(json.dumps(rounds[-1]), flush=True)
        ends["idle"] = await seconds_to_end(server)
        server.start()
        async with watching(server.address, options.watches, options.connections):
            ends["watched"] = await seconds_to_end(server)
        server.start()
        async with AsyncExitStack() as held:
            for _ in range(_NEVER_READ):
                await held.enter_async_context(call_without_window(server.address, _WATCH))
            ends[f"{_NEVER_READ} never read"] = await seconds_to_end(server)
    most = max(each["before_mib"] + each["added_mib"] for each in rounds)
    return {
        "name": f"{options.watches} health watches over {options.connections} connections",
        "ours": round(most - rounds[0]["before_mib"], 1),
        "bound": BOUND_MIB,
        "unit": "MiB",
        "rounds": rounds,
        "ends": ends,
        "ends_within": ENDS_WITHIN,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--watches", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--out", type=Path, help="also write the JSON object here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(measure(options, Path(folder)))
    line = json.dumps(result)
    if options.out:
        options.out.write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
