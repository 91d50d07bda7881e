"""A judge server with a real engine in this process, its client in another process, test pairs, and
the exact prompts that the server makes of them.

    python -m benchmarks.service.served_judge ADDRESS

runs the client: jobs come on stdin, results go to stdout.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from constitution import Constitution
from constitution.schema import Message
from constitution.writer import to_yaml
from judge_service.client.sync import JudgeClient
from judge_service.types import Comparison, JudgeOptions, Judgment

Prompts = list[list[tuple[int, ...]]]
"""The prompts of one pair: per order those of all principles, which share a prefix."""


def first_principles(principles: int) -> Constitution:
    """The first principles of the shipped constitution `hhh`, which has 16."""
    hhh = Constitution.load("hhh")
    kept = hhh.principles[:principles]
    traits = {name: hhh.traits[name] for name in dict.fromkeys(p.trait for p in kept)}
    return hhh.model_copy(update={"name": "bench", "principles": kept, "traits": traits})


def pairs_of_round(count: int, earlier: int, number: int) -> list[Comparison]:
    """Worked examples of `hhh`, each after a chat of `earlier` others (20: about 700 tokens).

    The texts of each round are unique, so neither cache nor store has them.
    """
    examples = [e for principle in Constitution.load("hhh").principles for e in principle.examples]
    pairs = []
    for n in range(count):
        example = examples[n % len(examples)]
        chat: list[Message] = [Message(role="system", content=f"Chat {number}-{n}.")]
        for step in range(1, earlier + 1):
            other = examples[(n + 5 * step) % len(examples)]
            reply = Message(role="assistant", content=other.response_a)
            chat += [*other.conversation, reply]
        conversation = (*chat, *example.conversation)
        texts = (f"{text} ({number})" for text in (example.response_a, example.response_b))
        pairs.append(Comparison(f"{number}-{n}", conversation, *texts))
    return pairs


def prompts_of(
    engine: Any, pairs: Sequence[Comparison], constitution: Constitution
) -> list[Prompts]:
    """The prompts as judge.py makes them; `ServedResult.digests` proves it."""
    from judge_service.judge.prompts import PROTOCOL_PROMPTS
    from judge_service.judge.template import Template

    template = Template(engine.tokenizer, PROTOCOL_PROMPTS["pairwise"].direct)
    suffixes = [template.suffix(principle.compare) for principle in constitution.principles]
    prompts = []
    for pair in pairs:
        a, b = pair.response_a, pair.response_b
        prefixes = [template.prefix(pair.conversation, replies).ids for replies in ((a, b), (b, a))]
        prompts.append([[(*prefix, *suffix) for suffix in suffixes] for prefix in prefixes])
    return prompts


@dataclass(frozen=True)
class ServedResult:
    """The client's result of one round. seconds: from the first item sent to the last answer."""

    seconds: float
    reads: int
    prompt_tokens: int
    cached_tokens: int
    probs: list[float]
    digests: list[str]  # of the prompts read


class Service:
    """The engine, the constitution, and a client process that sends pairs to the server."""

    def __init__(
        self, engine: Any, constitution: Constitution, process: asyncio.subprocess.Process
    ) -> None:
        self.engine = engine
        self.constitution = constitution
        self._process = process

    async def judge(self, pairs: Sequence[Comparison], *, use_store: bool) -> ServedResult:
        """Have the client process judge the pairs over gRPC, and wait for its result."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        rows = [
            [p.id, [m.model_dump() for m in p.conversation], p.response_a, p.response_b]
            for p in pairs
        ]
        job = {"pairs": rows, "use_store": use_store}
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        return ServedResult(**json.loads(await self._process.stdout.readline()))


@asynccontextmanager
async def serving(
    model: str, constitution: Constitution, kv_cache_gib: float
) -> AsyncIterator[Service]:
    """A running server of `model`, with its engine in this process and its client in another."""
    from judge_service.engines.caching import CachingEngine
    from judge_service.engines.vllm import VLLMEngine
    from judge_service.server.app import JudgeServer
    from judge_service.settings import ServerSettings
    from judge_service.store import open_store
    from rlaif.models import catalog

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.yaml"
        file.write_text(to_yaml(constitution), encoding="utf-8")
        engine = VLLMEngine(catalog.resolve(model), kv_cache_gib=kv_cache_gib)
        settings = ServerSettings(model=model, port=0, constitutions=(str(file),))
        store = open_store(str(Path(folder) / "reads.sqlite"))
        server = JudgeServer(settings, CachingEngine(engine, store))
        await server.start()
        await server.load()
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.service.served_judge", server.address),
            cwd=Path(__file__).parents[2],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**26,
        )
        try:
            yield Service(engine, constitution, client)
        finally:
            assert client.stdin is not None
            client.stdin.close()
            await client.wait()
            await server.stop()


def client(address: str) -> None:
    """Judge the jobs on stdin, one per line, and print one result per line."""
    with JudgeClient(address) as judge:
        for line in sys.stdin:
            job = json.loads(line)
            pairs = [
                Comparison(id, tuple(Message(**m) for m in conversation), a, b)
                for id, conversation, a, b in job["pairs"]
            ]
            options = JudgeOptions(
                interactive=False, min_label_mass=0.0, use_store=job["use_store"], calibrated=False
            )
            started = time.perf_counter()
            answers = dict(judge.stream(pairs, options=options))
            seconds = time.perf_counter() - started
            print(json.dumps(_result(seconds, [answers[pair.id] for pair in pairs])), flush=True)


def _result(seconds: float, answers: Sequence[Any]) -> dict[str, Any]:
    judgments = [answer for answer in answers if isinstance(answer, Judgment)]
    if len(judgments) != len(answers):
        unjudged = len(answers) - len(judgments)
        raise SystemExit(f"{unjudged} of {len(answers)} pairs have no judgment")
    return {
        "seconds": seconds,
        "reads": sum(j.usage.reads for j in judgments),
        "prompt_tokens": sum(j.usage.prompt_tokens for j in judgments),
        "cached_tokens": sum(j.usage.cached_tokens for j in judgments),
        "probs": [j.prob_a for j in judgments],
        "digests": [r.prompt_sha256 for j in judgments for v in j.votes for r in v.reads],
    }


if __name__ == "__main__":
    client(sys.argv[1])
