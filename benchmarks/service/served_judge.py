"""A judge server over a real engine in this process, as `rlaif serve` runs it, and its client in
another; pairs to judge, and the very prompts that the server makes of them.

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
"""Of one pair: for each order the prompts of all principles, which share a prefix."""


def law_of(principles: int) -> Constitution:
    """The first principles of the shipped constitution `hhh`, which has 16."""
    whole = Constitution.load("hhh")
    kept = whole.principles[:principles]
    traits = {name: whole.traits[name] for name in dict.fromkeys(p.trait for p in kept)}
    return whole.model_copy(update={"name": "bench", "principles": kept, "traits": traits})


def pairs_of_round(count: int, earlier: int, place: int) -> list[Comparison]:
    """Worked examples of `hhh`, each after a chat of `earlier` others (20: about 700 tokens); their
    texts are those of no other round, so that neither cache nor store knows them."""
    examples = [e for principle in Constitution.load("hhh").principles for e in principle.examples]
    found = []
    for number in range(count):
        shown = examples[number % len(examples)]
        chat: list[Message] = [Message(role="system", content=f"Chat {place}-{number}.")]
        for step in range(1, earlier + 1):
            other = examples[(number + 5 * step) % len(examples)]
            reply = Message(role="assistant", content=other.response_a)
            chat += [*other.conversation, reply]
        conversation = (*chat, *shown.conversation)
        texts = (f"{text} ({place})" for text in (shown.response_a, shown.response_b))
        found.append(Comparison(f"{place}-{number}", conversation, *texts))
    return found


def prompts_of(engine: Any, pairs: Sequence[Comparison], law: Constitution) -> list[Prompts]:
    """As judge.py makes them; `ServedResult.digests` proves it."""
    from judge_service.judge.prompts import PROTOCOL_PROMPTS
    from judge_service.judge.template import Template

    template = Template(engine.tokenizer, PROTOCOL_PROMPTS["pairwise"].direct)
    suffixes = [template.suffix(principle.compare) for principle in law.principles]
    found = []
    for pair in pairs:
        a, b = pair.response_a, pair.response_b
        prefixes = [template.prefix(pair.conversation, replies).ids for replies in ((a, b), (b, a))]
        found.append([[(*prefix, *suffix) for suffix in suffixes] for prefix in prefixes])
    return found


@dataclass(frozen=True)
class ServedResult:
    """What the client saw of one round. seconds: from its first item sent to the last answer."""

    seconds: float
    reads: int
    prompt_tokens: int
    cached_tokens: int
    probs: list[float]
    digests: list[str]  # of the prompts read


class Service:
    """The engine, the server's address, and a client process that judges what it is told."""

    def __init__(self, engine: Any, law: Constitution, process: asyncio.subprocess.Process) -> None:
        self.engine = engine
        self.law = law
        self._process = process

    async def judge(self, pairs: Sequence[Comparison], *, use_store: bool) -> ServedResult:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        shown = [
            [p.id, [m.model_dump() for m in p.conversation], p.response_a, p.response_b]
            for p in pairs
        ]
        job = {"pairs": shown, "use_store": use_store}
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        return ServedResult(**json.loads(await self._process.stdout.readline()))


@asynccontextmanager
async def serving(model: str, law: Constitution, kv_cache_gib: float) -> AsyncIterator[Service]:
    from judge_service.engines.caching import CachingEngine
    from judge_service.engines.vllm import VLLMEngine
    from judge_service.server.app import JudgeServer
    from judge_service.settings import ServerSettings
    from judge_service.store import open_store
    from rlaif.models import catalog

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.yaml"
        file.write_text(to_yaml(law), encoding="utf-8")
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
            yield Service(engine, law, client)
        finally:
            assert client.stdin is not None
            client.stdin.close()
            await client.wait()
            await server.stop()


def client(address: str) -> None:
    """Judge what stdin says, one job a line."""
    with JudgeClient(address) as judge:
        for line in sys.stdin:
            job = json.loads(line)
            pairs = [
                Comparison(id, tuple(Message(**m) for m in conversation), a, b)
                for id, conversation, a, b in job["pairs"]
            ]
            how = JudgeOptions(
                interactive=False, min_label_mass=0.0, use_store=job["use_store"], calibrated=False
            )
            started = time.perf_counter()
            found = dict(judge.stream(pairs, options=how))
            seconds = time.perf_counter() - started
            print(json.dumps(_result(seconds, [found[pair.id] for pair in pairs])), flush=True)


def _result(seconds: float, found: Sequence[Any]) -> dict[str, Any]:
    judged = [one for one in found if isinstance(one, Judgment)]
    if len(judged) != len(found):
        raise SystemExit(f"{len(found) - len(judged)} of {len(found)} pairs have no judgment")
    return {
        "seconds": seconds,
        "reads": sum(one.usage.reads for one in judged),
        "prompt_tokens": sum(one.usage.prompt_tokens for one in judged),
        "cached_tokens": sum(one.usage.cached_tokens for one in judged),
        "probs": [one.prob_a for one in judged],
        "digests": [r.prompt_sha256 for one in judged for v in one.votes for r in v.reads],
    }


if __name__ == "__main__":
    client(sys.argv[1])
