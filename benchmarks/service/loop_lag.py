"""Lag of the server's event loop under the largest request of every RPC, in CPU time.

    python -m benchmarks.service.loop_lag [--tokenizer MODEL] [--context N] [--only RPC] [--out F]

A real server process on one core, with a model's tokenizer and an engine without a model, whose
loop turns as fast as it goes. For each request: the longest time between two turns, in CPU seconds
of the process, threads included (tests/support/service/heartbeats.py says why). Texts are as long
as fits the context, and, where it says so, as long as a message may be.

The last line is one JSON object: ours: the longest of all, in milliseconds; bound: what is allowed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc

from judge_service.engine import LabelLogprobs
from judge_service.server.run import freeze_loaded
from judge_service.v1 import judge_pb2 as pb
from judge_service.v1 import judge_pb2_grpc as pb_grpc
from tests.support.service.heartbeats import Heartbeats, on_one_core
from tests.support.service.serving import CHAT, serving
from tests.support.service.steady_engine import SteadyEngine

BOUND_MS = 100
MESSAGE_BYTES = 4 * 2**20
CONTEXT_TOKENS = 8192

Call = Callable[[], Awaitable[Any]]


class TextEngine(SteadyEngine):
    """An engine without a model, with a real tokenizer; like a real one it reads elsewhere."""

    def __init__(self, folder: Path, context_tokens: int) -> None:
        from judge_service.engines.tokenizer import HFTokenizer

        super().__init__(slots=64)
        self._real = HFTokenizer(folder)
        self._context_tokens = context_tokens

    @property
    def tokenizer(self) -> Any:
        return self._real

    @property
    def max_context_tokens(self) -> int:
        return self._context_tokens

    async def read(
        self,
        prompt_ids: Sequence[int],
        label_ids: Sequence[int],
        *,
        priority: int = 0,
        use_store: bool = True,
    ) -> LabelLogprobs:
        sent = list(prompt_ids)  # as vLLM does
        await self._work(priority)
        share = math.log(0.99 / len(label_ids))
        return LabelLogprobs((share,) * len(label_ids), len(sent), 0)


async def serve(model: str, context_tokens: int) -> None:
    """Serve, print the address, and after each line on stdin the longest lag since the last."""
    from rlaif.models import catalog

    engine = TextEngine(Path(catalog.resolve(model)), context_tokens)
    async with serving(engine, constitutions=["hhh"], allow_inline_constitutions=True) as server:
        freeze_loaded()  # as `rlaif serve` does
        print(server.address, flush=True)
        async with Heartbeats() as heart:
            lines = asyncio.StreamReader()
            loop = asyncio.get_running_loop()
            await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
            while await lines.readline():
                print(heart.worst, flush=True)
                heart.worst = 0.0


def text(number: int, tokens: int) -> str:
    """A text of about this many tokens, unlike those of other numbers."""
    return f"{number}:" + " word and other things" * (tokens // 4)


def calls(channel: Any, context_tokens: int) -> dict[str, Call]:
    """The requests, by what they are."""
    judge, other = pb_grpc.JudgeServiceStub(channel), pb_grpc.ConstitutionServiceStub(channel)
    half, most = context_tokens // 2 - 400, MESSAGE_BYTES - 2**16
    pair = {**CHAT, "response_a": text(1, half), "response_b": text(2, half)}
    huge = {**CHAT, "response_a": "a", "response_b": text(3, 2 * most // 11)[:most]}
    spelled = {**CHAT, "response_a": "a", "response_b": "<|im_start|>" * (most // 12)}
    turns = b"\x12\x00" * (most // 2)
    yaml = "name: x\nversion: 1.0.0\nprinciples:\n" + "  - {id: a, compare: b}\n" * (most // 24)

    async def stream() -> None:
        call = judge.StreamJudgments()
        await call.read()
        for n in range(64):
            item = pb.ComparePairRequest(
                **CHAT, response_a=text(n, half), response_b=text(-n, half)
            )
            await call.write(pb.StreamJudgmentsRequest(id=str(n), comparison=item))
        await call.done_writing()
        while await call.read() is not grpc.aio.EOF:
            pass

    def ranking(candidates: int) -> Any:
        every = [text(100 + n, half) for n in range(candidates)]
        return judge.RankCandidates(pb.RankCandidatesRequest(**CHAT, candidates=every))

    one = {**CHAT, "response": text(4, half)}
    compare = channel.unary_unary("/judge_service.v1.JudgeService/ComparePair")
    return {
        "GetServerInfo": lambda: judge.GetServerInfo(pb.GetServerInfoRequest()),
        "ComparePair": lambda: judge.ComparePair(pb.ComparePairRequest(**pair)),
        "ComparePair, stored": lambda: judge.ComparePair(pb.ComparePairRequest(**pair)),
        "ComparePair, 4 MiB": lambda: judge.ComparePair(pb.ComparePairRequest(**huge)),
        "ComparePair, control tokens": lambda: judge.ComparePair(pb.ComparePairRequest(**spelled)),
        "ComparePair, empty turns": lambda: compare(turns),
        "RankCandidates, 12": lambda: ranking(12),
        "RankCandidates, 32": lambda: ranking(32),
        "ScoreCandidate": lambda: judge.ScoreCandidate(pb.ScoreCandidateRequest(**one)),
        "CritiqueCandidate": lambda: judge.CritiqueCandidate(pb.CritiqueCandidateRequest(**one)),
        "ReviseCandidate": lambda: judge.ReviseCandidate(
            pb.ReviseCandidateRequest(**one, critique="Too long.")
        ),
        "StreamJudgments, 64": stream,
        "PreviewPrompt": lambda: other.PreviewPrompt(pb.PreviewPromptRequest(**pair)),
        "ListConstitutions": lambda: other.ListConstitutions(pb.ListConstitutionsRequest()),
        "GetConstitution": lambda: other.GetConstitution(pb.GetConstitutionRequest()),
        "ValidateConstitution, 4 MiB": lambda: other.ValidateConstitution(
            pb.ValidateConstitutionRequest(yaml=yaml)
        ),
    }


async def measure(options: argparse.Namespace) -> dict[str, object]:
    """The lag under each request, as the result object."""
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.service.loop_lag", "--serve"),
        *("--tokenizer", options.tokenizer, "--context", str(options.context)),
        cwd=Path(__file__).parents[2],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert server.stdin is not None
    assert server.stdout is not None

    async def lag() -> float:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(b"\n")
        return float(await server.stdout.readline()) * 1000

    address = (await server.stdout.readline()).decode().strip()
    worst = {}
    async with grpc.aio.insecure_channel(address) as channel:
        for name, call in calls(channel, options.context).items():
            if not name.startswith(options.only):
                continue
            await lag()
            try:
                await call()
                outcome = "answered"
            except grpc.aio.AioRpcError as error:
                outcome = f"{error.code().name}: {(error.details() or '')[:60]}"
            worst[name] = round(await lag(), 1)
            print(f"{worst[name]:8.1f} ms  {name}  ({outcome})", flush=True)
    server.stdin.close()
    await server.wait()
    return {
        "name": f"lag of the event loop, {options.tokenizer}'s tokenizer, no model",
        "ours": max(worst.values()),
        "bound": BOUND_MS,
        "unit": "CPU ms",
        "by_request": worst,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizer", default="smollm2-135m", help="a model's folder or name")
    parser.add_argument("--context", type=int, default=CONTEXT_TOKENS, help="tokens")
    parser.add_argument("--only", default="", help="requests whose names begin so")
    parser.add_argument("--out", type=Path, help="also write the JSON object here")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        with on_one_core():
            asyncio.run(serve(options.tokenizer, options.context))
        return
    result = asyncio.run(measure(options))
    line = json.dumps(result)
    if options.out:
        options.out.write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
