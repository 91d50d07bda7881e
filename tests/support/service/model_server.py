"""A FAKE of an OpenAI-compatible model server on a real socket, FOR UNIT TESTS ONLY: no model.

It simulates servers and failures that a real `vllm serve` cannot reproduce on demand;
tests/integration/judge_service/test_openai_engine.py uses the real one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from judge_service.engines.tokenizer import HFTokenizer

PLAIN_FIELDS = {"model", "prompt", "max_tokens", "temperature", "top_p", "seed", "logprobs"}
VLLM_FIELDS = frozenset(
    {
        "logprob_token_ids",
        "return_tokens_as_token_ids",
        "return_token_ids",
        "top_k",
        "min_p",
        "repetition_penalty",
        "priority",
    }
)
HANG, DROP = "hang", "drop"


@dataclass
class Reply:
    """A scripted answer: an HTTP status, or HANG or DROP (of the connection)."""

    status: int | str
    headers: dict[str, str] = field(default_factory=dict)
    body: str = '{"error": {"message": "the prompt was: CANARY"}}'


@dataclass
class ModelServer:
    """The fake's settings, which may be changed while it runs, and its counters."""

    tokenizer: HFTokenizer
    models: list[dict[str, Any]] = field(
        default_factory=lambda: [{"id": "judge", "owned_by": "vllm", "max_model_len": 1024}]
    )
    knows: frozenset[str] = VLLM_FIELDS  # fields other than PLAIN_FIELDS and these are rejected
    max_logprobs: int = 20
    scores: dict[str, float] = field(default_factory=lambda: {" A": -0.25, " B": -1.75})
    with_logprobs: bool = True
    added_tokens: int = 0  # to the token count of each prompt
    key: str = ""
    replies: list[Reply] = field(default_factory=list)  # to the next completions
    bodies: list[dict[str, Any]] = field(default_factory=list)  # of completions
    keys: set[str] = field(default_factory=set)
    requests: int = 0  # of every kind
    concurrent: int = 0  # completions in progress
    max_concurrent: int = 0
    disconnects: int = 0  # of clients, while HANG kept them waiting
    url: str = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method_path, *lines = head.strip().split("\r\n")
                headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
                content = await reader.readexactly(int(headers.get("content-length", 0)))
                reply = self._answer(method_path.split()[1], headers, content)
                if reply.status == HANG:
                    await reader.read(1)
                    self.disconnects += 1
                if isinstance(reply.status, str):
                    break
                if content:
                    await self._work()
                fields = {"Content-Length": str(len(reply.body.encode())), **reply.headers}
                lines = [f"{name}: {value}\r\n" for name, value in fields.items()]
                head = f"HTTP/1.1 {reply.status} Fake\r\n{''.join(lines)}"
                writer.write(f"{head}\r\n{reply.body}".encode())

    async def _work(self) -> None:
        self.concurrent += 1
        self.max_concurrent = max(self.max_concurrent, self.concurrent)
        await asyncio.sleep(0.005)
        self.concurrent -= 1

    def _answer(self, path: str, headers: dict[str, str], content: bytes) -> Reply:
        self.requests += 1
        self.keys.add(headers.get("authorization", ""))
        if self.key and headers.get("authorization") != f"Bearer {self.key}":
            return Reply(401)
        if path == "/v1/models":
            return Reply(200, {}, json.dumps({"data": self.models}))
        if path == "/version":
            return Reply(200, {}, '{"version": "9.9"}')
        if path != "/v1/completions":
            return Reply(404)
        body = json.loads(content)
        if self.replies:
            return self.replies.pop(0)
        if set(body) - PLAIN_FIELDS - self.knows or body.get("logprobs", 0) > self.max_logprobs:
            return Reply(400)
        self.bodies.append(body)
        return Reply(200, {}, json.dumps(self._completion(body)))

    def _completion(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = body["prompt"]
        ids = self.tokenizer.encode_template(prompt) if isinstance(prompt, str) else prompt
        choice: dict[str, Any] = {"text": " A b", "finish_reason": "stop"}
        if "logprobs" in body and self.with_logprobs:
            choice["logprobs"] = {"top_logprobs": [self._top(body)]}
        if body.get("return_token_ids"):
            choice["token_ids"] = self.tokenizer.encode_template(" A b")
            choice["prompt_token_ids"] = ids
        usage = {"prompt_tokens": len(ids) + self.added_tokens}
        return {
            "choices": [choice],
            "usage": usage | {"prompt_tokens_details": {"cached_tokens": 3}},
        }

    def _top(self, body: dict[str, Any]) -> dict[str, float]:
        by_id = {self.tokenizer.encode_template(t)[0]: score for t, score in self.scores.items()}
        if wanted := body.get("logprob_token_ids"):
            by_id = {label: by_id.get(label, -9.0) for label in wanted}
        likeliest = sorted(by_id, key=lambda label: -by_id[label])
        if not wanted:
            likeliest = likeliest[: body["logprobs"]]
        in_ids = body.get("return_tokens_as_token_ids")
        spell = self.tokenizer.spell
        return {f"token_id:{i}" if in_ids else spell([i]): by_id[i] for i in likeliest}


@asynccontextmanager
async def model_server(tokenizer: HFTokenizer, **values: Any) -> AsyncIterator[ModelServer]:
    """A running fake; its address is in `.url`."""
    port = values.pop("port", 0)
    fake = ModelServer(tokenizer, **values)
    connections: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        with suppress(asyncio.CancelledError):
            await fake.handle(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", port)
    fake.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield fake
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await asyncio.sleep(0)  # let the transports close
