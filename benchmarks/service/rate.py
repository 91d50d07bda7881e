"""Judgments per second of a judge server whose engine costs nothing: the cost of what is around it.

    python -m benchmarks.service.rate [--tokenizer MODEL] [--principles N] [--calls unary]
        [--no-store] [--beside CHECKOUT] [--rounds N] [--out F]
    python -m benchmarks.service.rate --profile FILE    # cProfile of the server's loop in a round

A real server process with a model's tokenizer, an SQLite store and an engine that answers at once;
this process is the client. Each pair is asked once, in both orders, with texts of its own, in
prompts of about 300 tokens; 64 are in flight. CPU time is that of the server's process, threads
included, so a busy machine changes it little; the rate, latencies and lag change with the load.
lag: how much later than asked the loop wakes a task that sleeps 20 ms.

--beside: serves from another checkout too, in turns with this one, and prints the ratios.

The last line is one JSON object; ours: CPU milliseconds of a judgment, the least of all rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import itertools
import json
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
IN_FLIGHT = 64
_TICKS = os.sysconf("SC_CLK_TCK")
_SLEEP = 0.02  # seconds, of the task whose lateness is the lag
_WORDS = """the of parcel order late refund please sorry because depot driver tomorrow morning
address customer reply number tracking shipped waiting email phone again yesterday deliver promise
window office answer question useful clear honest short friendly detail reason step next""".split()  # noqa: SIM905


class FreeEngine:
    """An engine without a model, with a real tokenizer: it answers at once, by nothing."""

    recovers = False
    alive = True
    max_context_tokens = 4096

    def __init__(self, folder: Path) -> None:
        from judge_service.engines.tokenizer import HFTokenizer
        from judge_service.types import ModelIdentity

        self.identity = ModelIdentity("free", "0" * 64, "1" * 64, "float32", "no model")
        self.tokenizer = HFTokenizer(folder)

    async def start(self) -> None:
        """Nothing is loaded."""

    async def read(self, prompt_ids: Sequence[int], label_ids: Sequence[int], **_: Any) -> Any:
        """Equal probabilities of the labels."""
        from judge_service.engine import LabelLogprobs

        share = math.log(0.99 / len(label_ids))
        return LabelLogprobs((share,) * len(label_ids), len(prompt_ids), 0)

    async def close(self) -> None:
        """Nothing is open."""


async def serve(options: argparse.Namespace, folder: Path) -> None:
    """Serve, print the address, and after each line on stdin the lags since the last."""
    from judge_service.engines.caching import CachingEngine
    from judge_service.server.app import JudgeServer
    from judge_service.server.run import freeze_loaded
    from judge_service.settings import ServerSettings
    from judge_service.store import open_store
    from rlaif.models import catalog

    file = folder / "bench.yaml"
    file.write_text(constitution_of(options.principles), encoding="utf-8")
    engine: Any = FreeEngine(Path(catalog.resolve(options.tokenizer)))
    settings = ServerSettings(model="free", port=0, constitutions=(str(file),), grace_seconds=1.0)
    server = JudgeServer(settings, CachingEngine(engine, open_store(str(folder / "reads.sqlite"))))
    await server.start()
    await server.load()
    freeze_loaded()
    print(server.address, flush=True)
    lags: list[float] = []
    watch = asyncio.create_task(measure_lag(lags))
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    profile = cProfile.Profile(time.thread_time)
    while await lines.readline():
        print(json.dumps(lags), flush=True)
        lags.clear()
        if options.profile:
            profile.enable()
    watch.cancel()
    if options.profile:
        profile.disable()
        profile.dump_stats(options.profile)
    await server.stop()


async def measure_lag(lags: list[float]) -> None:
    """Add how late each wake-up is, milliseconds."""
    while True:
        asked = time.perf_counter()
        await asyncio.sleep(_SLEEP)
        lags.append((time.perf_counter() - asked - _SLEEP) * 1000)


def constitution_of(principles: int) -> str:
    """A constitution of so many principles, as YAML."""
    lines = ["name: bench", "version: 1.0.0", "traits: {helpful: {}}", "principles:"]
    for n in range(principles):
        lines += [f"  - id: p{n}", "    trait: helpful"]
        lines += [f"    compare: Prefer the reply that helps more in respect {n}."]
        lines += ["    critique: What is missing?", "    revise: Add it."]
    return "\n".join(lines) + "\n"


def pairs(number: int, count: int) -> list[Any]:
    """The requests of a round, whose texts no other has: 300 tokens with the judge's own."""
    from judge_service.v1 import judge_pb2 as pb

    draw = random.Random(number)

    def text(words: int) -> str:
        return " ".join(draw.choices(_WORDS, k=words))

    return [
        pb.ComparePairRequest(
            conversation=[pb.Message(role=pb.ROLE_USER, content=f"{number}-{n} {text(70)}")],
            response_a=text(75),
            response_b=text(75),
            options=pb.JudgeOptions(priority=pb.PRIORITY_BULK),
        )
        for n in range(count)
    ]


async def by_stream(stub: Any, requests: Sequence[Any]) -> tuple[list[float], list[Any]]:
    """(seconds of each item, judgments), 64 in flight on one stream."""
    from judge_service.v1 import judge_pb2 as pb

    call = stub.StreamJudgments()
    credits = (await call.read()).credits
    room, sent, seconds, judgments = asyncio.Semaphore(min(credits, IN_FLIGHT)), {}, [], []

    async def send() -> None:
        for n, request in enumerate(requests):
            await room.acquire()
            sent[str(n)] = time.perf_counter()
            await call.write(pb.StreamJudgmentsRequest(id=str(n), comparison=request))
        await call.done_writing()

    sending = asyncio.create_task(send())
    while len(judgments) < len(requests):
        response = await call.read()
        seconds.append(time.perf_counter() - sent[response.id])
        room.release()
        judgments.append(response.judgment)
    await sending
    return seconds, judgments


async def by_calls(stub: Any, requests: Sequence[Any]) -> tuple[list[float], list[Any]]:
    """(seconds of each call, judgments), 64 unary calls in flight."""
    room, seconds, judgments = asyncio.Semaphore(IN_FLIGHT), [], []

    async def call(request: Any) -> None:
        async with room:
            started = time.perf_counter()
            judgments.append((await stub.ComparePair(request)).judgment)
            seconds.append(time.perf_counter() - started)

    await asyncio.gather(*(call(request) for request in requests))
    return seconds, judgments


class RatedServer:
    """A server process and a channel to it."""

    def __init__(self, process: asyncio.subprocess.Process, stub: Any) -> None:
        self._process = process
        self._stub = stub

    async def round(self, requests: Sequence[Any], calls: str) -> dict[str, float]:
        """The figures of one round."""
        await self._lags()
        cpu, started = self._cpu_seconds(), time.perf_counter()
        run = by_stream if calls == "stream" else by_calls
        seconds, judgments = await run(self._stub, requests)
        wall, cpu = time.perf_counter() - started, self._cpu_seconds() - cpu
        lags, seconds = sorted(await self._lags()), sorted(seconds)
        usages = [judgment.usage for judgment in judgments]
        reads = sum(usage.reads for usage in usages)
        return {
            "judgments_per_second": round(len(requests) / wall, 1),
            "cpu_ms": round(cpu * 1000 / len(requests), 3),
            "p50_ms": round(at(seconds, 0.5) * 1000, 1),
            "p99_ms": round(at(seconds, 0.99) * 1000, 1),
            "lag_p99_ms": round(at(lags, 0.99), 1),
            "lag_worst_ms": round(lags[-1], 1),
            "reads": reads / len(requests),
            "prompt_tokens": round(sum(usage.prompt_tokens for usage in usages) / reads),
        }

    async def _lags(self) -> list[float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        return list(map(float, json.loads(await self._process.stdout.readline())))

    def _cpu_seconds(self) -> float:
        stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


def at(ordered: Sequence[float], share: float) -> float:
    """The value at this share of a sorted list."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@asynccontextmanager
async def served(checkout: Path, options: argparse.Namespace) -> AsyncIterator[RatedServer]:
    """A server that runs the code of a checkout."""
    import grpc

    from judge_service.v1 import judge_pb2_grpc as pb_grpc

    profile = ("--profile", str(options.profile.resolve())) if options.profile else ()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(Path(__file__).resolve()), "--serve", *profile),
        *("--tokenizer", options.tokenizer, "--principles", str(options.principles)),
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**24,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    address = (await process.stdout.readline()).decode().strip()
    async with grpc.aio.insecure_channel(address) as channel:
        yield RatedServer(process, pb_grpc.JudgeServiceStub(channel))
    process.stdin.close()
    await process.wait()


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Rounds of each checkout in turns, as the result object."""
    checkouts = [ROOT, *([options.beside.resolve()] if options.beside else [])]
    rounds: dict[Path, list[dict[str, float]]] = {checkout: [] for checkout in checkouts}
    numbers = itertools.count(1)
    for _ in range(options.rounds):
        for checkout in checkouts:
            async with served(checkout, options) as server:
                await server.round(prepared(options, next(numbers), 200), options.calls)  # warm
                requests = prepared(options, next(numbers), options.pairs)
                rounds[checkout].append(await server.round(requests, options.calls))
            who = "ours  " if checkout == ROOT else "beside"
            print(who, json.dumps(rounds[checkout][-1]), flush=True)
    ours, *beside = (least(rounds[checkout]) for checkout in checkouts)
    return {
        "name": f"CPU of a judgment by {options.calls}, {options.tokenizer}'s tokenizer, no model",
        "ours": ours["cpu_ms"],
        "theirs": beside[0]["cpu_ms"] if beside else None,
        "ratio": round(ours["cpu_ms"] / beside[0]["cpu_ms"], 3) if beside else None,
        "unit": "CPU ms",
        "figures": ours,
        "beside": beside[0] if beside else None,
    }


def prepared(options: argparse.Namespace, number: int, count: int) -> list[Any]:
    """The requests of a round, as the options want them."""
    from judge_service.v1 import judge_pb2 as pb

    requests = pairs(number, count)
    for request in requests:
        if options.no_store:
            request.options.cache = pb.CACHE_MODE_BYPASS
    return requests


def least(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """The round with the least CPU time of a judgment: the least disturbed."""
    return min(rounds, key=lambda figures: figures["cpu_ms"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizer", default="smollm2-135m", help="a model's folder or name")
    parser.add_argument("--principles", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=2000, help="of one round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--calls", choices=["stream", "unary"], default="stream")
    parser.add_argument("--no-store", action="store_true", help="bypass the store of reads")
    parser.add_argument("--beside", type=Path, help="another checkout to compare with")
    parser.add_argument("--profile", type=Path, help="write a profile of the server here")
    parser.add_argument("--out", type=Path, help="also write the JSON object here")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(serve(options, Path(folder)))
        return
    result = asyncio.run(measure(options))
    line = json.dumps(result)
    if options.out:
        options.out.write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
