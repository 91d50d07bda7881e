"""Redaction: no canary in any text of any RPC reaches logs, metrics, traces or error details.

Each canary is a unique word. It is put into one text field of one request, in one of several forms
(plain, hostile, YAML, far too long, malformed bytes), and into the call's metadata, while the
engine works, fails quoting its prompt, or is slow. 320 canaries by default, covering every field in
every form; RLAIF_FULL=1 sends 10 000.

Errors repeat names (of a constitution, a protocol, a principle, an item) and YAML to the caller who
sent them, to help find the mistake. Conversations and responses are never repeated. A valid
request_id is meant for the logs and so is not among the canaries; an invalid one is.
"""

from __future__ import annotations

import asyncio
import gc
import io
import itertools
import logging
import os
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor

from judge_service.engine import EngineError, LabelLogprobs, Written
from judge_service.engines.caching import CachingEngine
from judge_service.observability.logs import JsonLines, TextLines
from judge_service.observability.metrics import ServerMetrics
from judge_service.observability.tracing import NO_TRACING, NoTracing, Tracing
from judge_service.security.tokens import digest_of, new_token
from judge_service.server.app import JudgeServer
from judge_service.store import open_store
from judge_service.v1 import judge_pb2 as pb
from judge_service.v1 import judge_pb2_grpc as pb_grpc
from tests.support.fakes import FakeEngine
from tests.support.service.serving import CHAT, ONE_PRINCIPLE, one_principle, settings

CANARIES = 10_000 if os.environ.get("RLAIF_FULL") == "1" else 320
NEEDLE = "canary"
ECHOED = {"name", "sha256", "yaml", "protocol", "principle_id", "source", "id", "request_id"}
MAX_BYTES = 64 * 1024

PAIR = {"response_a": "short", "response_b": "rather longer"}
REQUESTS: dict[str, Any] = {
    "ComparePair": pb.ComparePairRequest(**CHAT, **PAIR),
    "RankCandidates": pb.RankCandidatesRequest(**CHAT, candidates=["a", "bb"]),
    "ScoreCandidate": pb.ScoreCandidateRequest(**CHAT, response="a"),
    "CritiqueCandidate": pb.CritiqueCandidateRequest(**CHAT, response="a"),
    "ReviseCandidate": pb.ReviseCandidateRequest(**CHAT, response="a", critique="b"),
    "PreviewPrompt": pb.PreviewPromptRequest(**CHAT, **PAIR),
    "GetConstitution": pb.GetConstitutionRequest(),
    "ValidateConstitution": pb.ValidateConstitutionRequest(yaml=ONE_PRINCIPLE),
    "StreamJudgments": pb.StreamJudgmentsRequest(
        id="1", comparison=pb.ComparePairRequest(**CHAT, **PAIR)
    ),
}
FORMS: dict[str, Callable[[str], str]] = {
    "plain": lambda canary: canary,
    "hostile": lambda canary: f"<|im_end|>\n\r\x00\x1b[2J%s{{{canary}}}\u2028../../{canary}",
    "yaml": lambda canary: f"{ONE_PRINCIPLE}    {canary}: [&a {canary}, *a]\n\t{canary}: {{",
    "long": lambda canary: f"{canary} " * 700,  # over the judge's context
    "oversize": lambda canary: f"{canary} " * 7000,  # over MAX_BYTES
}
TEXT_TRIALS = [
    *itertools.product(("plain", "hostile"), ("works", "raises", "fails", "slow")),
    *itertools.product(("yaml", "long", "oversize"), ("works",)),
]
NAME_TRIALS = [*itertools.product(("plain", "hostile", "yaml"), ("works",))]
SLOW_TIMEOUT = 0.1  # seconds, of calls to the slow engine

Path_ = tuple[str, ...]


class MoodyEngine(FakeEngine):
    """An engine that works, is slow, or fails with an error that quotes its prompt."""

    mood = "works"

    async def read(
        self, prompt_ids: Sequence[int], label_ids: Sequence[int], **keywords: Any
    ) -> LabelLogprobs:
        await self._complain(prompt_ids)
        return await super().read(prompt_ids, label_ids, **keywords)

    async def write(self, prompt_ids: Sequence[int], **keywords: Any) -> Written:
        await self._complain(prompt_ids)
        return await super().write(prompt_ids, **keywords)

    async def _complain(self, prompt_ids: Sequence[int]) -> None:
        prompt = self.tokenizer.decode(prompt_ids)
        if self.mood == "raises":
            raise ValueError(f"cannot do this: {prompt}")
        if self.mood == "fails":
            raise EngineError(f"cannot read this: {prompt}")
        if self.mood == "slow":
            await asyncio.sleep(30)


def test_every_rpc_that_takes_text_is_among_the_requests() -> None:
    rpcs = {
        rpc.name
        for service in pb.DESCRIPTOR.services_by_name.values()
        for rpc in service.methods
        if any(texts_of(rpc.input_type))
    }
    assert rpcs == set(REQUESTS)


@pytest.mark.timeout(3600)  # of the full size; the default takes seconds
async def test_no_canary_leaks(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with capturing() as outputs:
        engine = MoodyEngine(max_context_tokens=600)
        async with serving(engine, tmp_path, outputs) as server, stubs(server.address) as call:
            sent = 0
            for n, (rpc, field, form, mood) in enumerate(itertools.islice(plan(), CANARIES)):
                canary = f"{NEEDLE}{n:05d}"
                engine.mood = mood
                request = type(REQUESTS[rpc])()
                request.CopyFrom(REQUESTS[rpc])
                set_text(request, field, FORMS[form](canary))
                error = await call(rpc, request, canary, SLOW_TIMEOUT if mood == "slow" else 30)
                sent += 1
                echoed = field[-1] in ECHOED
                assert echoed or NEEDLE not in error, f"{rpc} {field} {form}: {error}"
            await outputs.scrape(server)
        await asyncio.sleep(0)
        gc.collect()  # unretrieved exceptions are logged when their task is collected
    captured = capfd.readouterr()
    for output, text in {**outputs.texts(), "stdout": captured.out, "stderr": captured.err}.items():
        assert NEEDLE not in text, f"{output}: {around(text)}"
    assert sent == CANARIES
    log = outputs.texts()["json"]
    assert log.count('"call ended"') > CANARIES // 2, "the log was captured"
    assert log.count("internal error") > CANARIES // 20, "the engine did raise"
    assert "rlaif_judge_calls_total{" in outputs.texts()["metrics"]


async def test_malformed_bytes_never_leak(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with capturing() as outputs:
        async with serving(FakeEngine(), tmp_path, outputs) as server:
            async with grpc.aio.insecure_channel(server.address) as channel:
                for rpc in REQUESTS:
                    service = "Constitution" if rpc in CONSTITUTION_RPCS else "Judge"
                    path = f"/judge_service.v1.{service}Service/{rpc}"
                    broken = b"\x0a\xff" + NEEDLE.encode()
                    if rpc == "StreamJudgments":
                        error = await stream_one(channel.stream_stream(path)(), broken)
                        assert "UNREADABLE" in error
                        assert NEEDLE not in error
                        continue
                    with pytest.raises(grpc.aio.AioRpcError) as failed:
                        await channel.unary_unary(path)(broken)
                    assert NEEDLE not in full_text(failed.value)
            await outputs.scrape(server)
    captured = capfd.readouterr()
    for output, text in {**outputs.texts(), "stderr": captured.err}.items():
        assert NEEDLE not in text, f"{output}: {around(text)}"


async def test_tokens_never_leak(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    token = new_token()
    file = tmp_path / "tokens.yaml"
    file.write_text(f"- name: trainer\n  sha256: {digest_of(token)}\n  scopes: [read]\n")
    with capturing() as outputs:
        async with serving(FakeEngine(), tmp_path, outputs, tokens=file) as server:
            async with grpc.aio.insecure_channel(server.address) as channel:
                judge = pb_grpc.JudgeServiceStub(channel)
                admitted = (("authorization", f"Bearer {token}"),)
                await judge.GetServerInfo(pb.GetServerInfoRequest(), metadata=admitted)
                for scheme in ("Bearer", "bearer", "Basic", "", "Bearer Bearer"):
                    for secret in (token, f"{NEEDLE}1", f"{NEEDLE}2, {token}"):
                        metadata = (("authorization", f"{scheme} {secret}"),)
                        with pytest.raises(grpc.aio.AioRpcError) as failed:
                            await judge.ComparePair(REQUESTS["ComparePair"], metadata=metadata)
                        error = full_text(failed.value)
                        assert token not in error
                        assert NEEDLE not in error
            await outputs.scrape(server)
    for output, text in {**outputs.texts(), "stderr": capfd.readouterr().err}.items():
        for secret in (token, digest_of(token), NEEDLE):
            assert secret not in text, f"{output}: {around(text, secret)}"
    assert "caller=trainer" in outputs.texts()["text"], "the caller's name is logged"


CONSTITUTION_RPCS = ("GetConstitution", "ValidateConstitution", "PreviewPrompt")


def texts_of(message: Any, seen: Sequence[str] = ()) -> Iterator[Path_]:
    """The path of every string field of a request, through its messages."""
    for field in message.fields:
        if field.type == FieldDescriptor.TYPE_STRING:
            yield (field.name,)
        elif field.message_type is not None and field.message_type.full_name not in seen:
            inner = texts_of(field.message_type, [*seen, message.full_name])
            yield from ((field.name, *path) for path in inner)


def plan() -> Iterator[tuple[str, Path_, str, str]]:
    """Every text field of every RPC in every form and with every engine, repeated."""
    every = [
        (rpc, field, form, mood)
        for rpc, request in REQUESTS.items()
        for field in texts_of(request.DESCRIPTOR)
        for form, mood in (NAME_TRIALS if field[-1] in ECHOED else TEXT_TRIALS)
        if not (field[-1] == "request_id" and form == "plain")
    ]
    assert len(every) <= 320, "the default must reach every one of them"
    return itertools.cycle(every)


def set_text(message: Any, field: Path_, text: str) -> None:
    """Set the text field at the path; in a repeated field the first element, or a new one."""
    name, *inner = field
    value = getattr(message, name)
    if not inner and isinstance(value, str):
        setattr(message, name, text)
    elif not inner:
        value[:] = [text, *value[1:]]
    elif hasattr(value, "add"):
        set_text(value[0] if len(value) else value.add(), tuple(inner), text)
    else:
        set_text(value, tuple(inner), text)


@asynccontextmanager
async def stubs(address: str) -> AsyncIterator[Callable[..., Any]]:
    """A function that makes a call and returns the full text of its error, "" on success."""
    metadata_of = ("authorization", "traceparent", "tracestate", "baggage", "x-note", "user-agent")
    async with grpc.aio.insecure_channel(address) as channel:
        judge = pb_grpc.JudgeServiceStub(channel)
        constitutions = pb_grpc.ConstitutionServiceStub(channel)

        async def call(rpc: str, request: Any, canary: str, timeout: float) -> str:
            metadata = tuple((key, f"Bearer {canary}") for key in metadata_of)
            stub = getattr(constitutions if rpc in CONSTITUTION_RPCS else judge, rpc)
            try:
                if rpc == "StreamJudgments":
                    return await stream_one(stub(metadata=metadata, timeout=timeout), request)
                await stub(request, metadata=metadata, timeout=timeout)
            except grpc.aio.AioRpcError as error:
                return full_text(error)
            return ""

        yield call


async def stream_one(stream: Any, request: Any) -> str:
    await stream.read()
    await stream.write(request)
    answer = await stream.read()
    await stream.done_writing()
    if answer is grpc.aio.EOF:
        return ""
    return str(answer if isinstance(answer, bytes) else answer.error)


def full_text(error: grpc.aio.AioRpcError) -> str:
    """Everything that a caller sees: the message and every trailer, bytes included."""
    trailers = error.trailing_metadata() or ()
    return f"{error.code()} {error.details()} {[tuple(pair) for pair in trailers]}"


def around(text: str, secret: str = NEEDLE) -> str:
    at = text.find(secret)
    return text[max(0, at - 300) : at + 100]


class Outputs:
    """What an operator may see: every logger's records in three formats, metrics, spans."""

    def __init__(self) -> None:
        forms = {"json": JsonLines(), "text": TextLines(), "with tracebacks": logging.Formatter()}
        self._streams = {name: io.StringIO() for name in forms}
        self.handlers = []
        for name, form in forms.items():
            handler = logging.StreamHandler(self._streams[name])
            handler.setFormatter(form)
            self.handlers.append(handler)
        self.metrics = ServerMetrics()
        self.tracing: NoTracing = NO_TRACING
        self._page = ""
        try:
            from opentelemetry.sdk.trace.export import SimpleSpanProcessor
            from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        except ImportError:  # the extra `trace` is not installed: then nothing can be traced
            self._spans = None
        else:
            self._spans = InMemorySpanExporter()
            self.tracing = Tracing(SimpleSpanProcessor(self._spans))

    async def scrape(self, server: JudgeServer) -> None:
        def get() -> str:
            with urllib.request.urlopen(f"http://{self.metrics.address}/metrics") as page:
                return str(page.read().decode())

        self._page = await asyncio.to_thread(get)

    def texts(self) -> dict[str, str]:
        """The captured text of each output."""
        spans = self._spans.get_finished_spans() if self._spans else ()
        logs = {name: stream.getvalue() for name, stream in self._streams.items()}
        return logs | {
            "metrics": self._page,
            "spans": "\n".join(span.to_json() for span in spans),
        }


class capturing:  # noqa: N801  used as a with-block
    """Captures every logger at DEBUG for the length of a with-block."""

    def __enter__(self) -> Outputs:
        self._root = logging.getLogger()
        self._level = self._root.level
        self._outputs = Outputs()
        self._root.setLevel(logging.DEBUG)
        for handler in self._outputs.handlers:
            self._root.addHandler(handler)
        return self._outputs

    def __exit__(self, *raised: object) -> None:
        self._root.setLevel(self._level)
        for handler in self._outputs.handlers:
            self._root.removeHandler(handler)


@asynccontextmanager
async def serving(
    engine: FakeEngine, folder: Path, outputs: Outputs, **values: Any
) -> AsyncIterator[JudgeServer]:
    values = {
        "constitutions": [one_principle(folder)],
        "allow_inline_constitutions": True,
        "max_message_bytes": MAX_BYTES,
        "metrics_port": 0,
        **values,
    }
    caching = CachingEngine(engine, open_store(None), outputs.metrics)
    server = JudgeServer(settings(**values), caching, outputs.metrics, outputs.tracing)
    await server.start()
    await server.load()
    try:
        yield server
    finally:
        await server.stop()
