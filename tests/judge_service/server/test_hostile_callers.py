"""Callers that send nothing, read nothing, or send too much cost others nothing. Over real sockets.

The timeouts only guard against hanging; nothing here is measured.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from constitution.schema import Constitution
from judge_service.engines.caching import CachingEngine
from judge_service.security.tokens import Token, digest_of, to_entry
from judge_service.server import app
from judge_service.server.app import JudgeServer
from judge_service.server.malformed import count_entries, reader
from judge_service.store import open_store
from judge_service.types import JudgeOptions
from judge_service.v1 import judge_pb2 as pb
from judge_service.v1 import judge_pb2_grpc as pb_grpc
from judge_service.wire.sizes import judgment_bytes, preview_bytes
from tests.support.fakes import FakeEngine
from tests.support.service.raw_http2 import call_without_window
from tests.support.service.serving import CHAT, one_principle, serving, settings
from tests.support.waiting import until

CODES = grpc.StatusCode
JUDGE = "/judge_service.v1.JudgeService"
PAIR = pb.ComparePairRequest(**CHAT, response_a="a", response_b="bb")


def bearing(name: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {name}")]


def entries(*names: str) -> str:
    scopes = frozenset({"judge", "read"})
    held = (Token(name=name, sha256=digest_of(name), scopes=scopes) for name in names)
    return "".join(to_entry(token) + "\n" for token in held)


@asynccontextmanager
async def with_tokens(folder: Path, **values: Any) -> AsyncIterator[tuple[JudgeServer, Any]]:
    """A server that knows the callers mine and theirs, and a channel to it."""
    tokens = folder / "tokens.yaml"
    tokens.write_text(entries("mine", "theirs"))
    constitution = one_principle(folder)
    async with (
        serving(FakeEngine(), constitutions=[constitution], tokens=tokens, **values) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield server, channel


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    """(code, reason) of a call that fails."""
    async with asyncio.timeout(120):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call
    info = error_details_pb2.ErrorInfo()
    details = rpc_status.from_call(failed.value).details
    [detail] = [each for each in details if each.Is(info.DESCRIPTOR)]
    detail.Unpack(info)
    return failed.value.code(), info.reason


async def read_all(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


async def test_a_stream_on_which_nothing_moves_ends_and_frees_its_call(tmp_path: Path) -> None:
    constitution = one_principle(tmp_path)
    async with (
        serving(
            FakeEngine(),
            constitutions=[constitution],
            stream_idle_seconds=0.2,
            max_concurrent_rpcs=1,
        ) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        judge = pb_grpc.JudgeServiceStub(channel)
        stream = judge.StreamJudgments()
        assert await refusal(read_all(stream)) == (CODES.UNAVAILABLE, "IDLE_STREAM")
        assert (await judge.ComparePair(PAIR)).HasField("judgment")


async def test_a_stream_whose_item_is_being_judged_is_not_idle(tmp_path: Path) -> None:
    engine, constitution = FakeEngine(), one_principle(tmp_path)
    async with (
        serving(engine, constitutions=[constitution], stream_idle_seconds=3) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        engine.hold()
        stream = pb_grpc.JudgeServiceStub(channel).StreamJudgments()
        await stream.read()
        await stream.write(pb.StreamJudgmentsRequest(id="1", comparison=PAIR))
        await until(lambda: engine.in_flight)
        await asyncio.sleep(4)
        engine.release()
        assert (await stream.read()).HasField("judgment")
        stream.cancel()


async def test_one_token_holds_at_most_half_of_the_calls(tmp_path: Path) -> None:
    async with with_tokens(tmp_path, max_concurrent_rpcs=4) as (_, channel):
        judge = pb_grpc.JudgeServiceStub(channel)
        mine = [judge.StreamJudgments(metadata=bearing("mine")) for _ in range(2)]
        for stream in mine:
            assert (await stream.read()).credits
        third = judge.ComparePair(PAIR, metadata=bearing("mine"))
        assert await refusal(third) == (CODES.RESOURCE_EXHAUSTED, "MAX_CONCURRENT")
        answer = await judge.ComparePair(PAIR, metadata=bearing("theirs"))
        assert answer.HasField("judgment")
        for stream in mine:
            stream.cancel()


async def test_revoking_a_token_frees_the_streams_of_clients_that_never_read(
    tmp_path: Path,
) -> None:
    async with with_tokens(tmp_path) as (server, _), AsyncExitStack() as held:
        for _ in range(3):
            path, token = f"{JUDGE}/StreamJudgments", "Bearer mine"
            await held.enter_async_context(
                call_without_window(server.address, path, authorization=token)
            )
        await until(lambda: server._guard._active == 3)
        (tmp_path / "tokens.yaml").write_text(entries("theirs"))
        server.reload()
        await until(lambda: server._guard._active == 0)


async def test_clients_that_never_read_delay_no_shutdown(tmp_path: Path) -> None:
    server = JudgeServer(settings(constitutions=[one_principle(tmp_path)]), FakeEngine())
    await server.start()
    await server.load()
    paths = [f"{JUDGE}/StreamJudgments", "/grpc.health.v1.Health/Watch"]
    paths.append("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
    async with AsyncExitStack() as held:
        for path in paths * 2:
            await held.enter_async_context(call_without_window(server.address, path))
        async with asyncio.timeout(120):
            await server.stop()


async def test_the_body_of_a_call_without_a_token_is_never_awaited(tmp_path: Path) -> None:
    async with with_tokens(tmp_path) as (_, channel):
        unfinished = channel.stream_unary(f"{JUDGE}/ComparePair")()  # sends headers alone
        assert await refusal(unfinished) == (CODES.UNAUTHENTICATED, "MISSING_TOKEN")


async def test_a_request_that_does_not_arrive_is_given_up(tmp_path: Path) -> None:
    async with with_tokens(tmp_path, request_seconds=0.2) as (server, channel):
        unfinished = channel.stream_unary(f"{JUDGE}/ComparePair")(metadata=bearing("mine"))
        assert await refusal(unfinished) == (CODES.DEADLINE_EXCEEDED, "REQUEST_TOO_SLOW")
        await until(lambda: server._guard._active == 0)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_million_empty_turns_are_refused_before_they_are_parsed(
    tmp_path: Path, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = b"\x12\x00" * 1_000_000 + PAIR.SerializeToString()
    constitution = one_principle(tmp_path)
    async with (
        serving(FakeEngine(), constitutions=[constitution]) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        if streamed:
            size = len(turns)
            varint = bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14])
            item = b"\x0a\x011\x12" + varint + turns
            stream = channel.stream_stream(
                f"{JUDGE}/StreamJudgments",
                response_deserializer=pb.StreamJudgmentsResponse.FromString,
            )()
            await stream.read()
            await stream.write(item)
            message = (await stream.read()).error.message
            stream.cancel()
        else:
            call = channel.unary_unary(f"{JUDGE}/ComparePair")(turns)
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await call
            message = failed.value.details()
    assert message.startswith("request: more than 8192 fields and list elements")


def test_a_request_holds_nothing_beside_its_fields() -> None:
    kind = pb.ComparePairRequest
    unknown = b"\xfa\x3e\xc0\x84\x3d" + bytes(1_000_000)  # field 1007, of that many bytes
    earlier = kind(response_a="x" * 1_000_000).SerializeToString()
    read = reader(parses := CountedParses(kind.FromString), kind.DESCRIPTOR, 8192)
    for beside in (unknown, earlier):
        assert read(beside + PAIR.SerializeToString()) == PAIR
        assert parses.sizes.pop() == PAIR.ByteSize(), "it was parsed anew, without them"
        parses.sizes.clear()
    assert read(PAIR.SerializeToString()) == PAIR
    assert len(parses.sizes) == 1


class CountedParses:
    """A deserializer that notes how many bytes it was given."""

    def __init__(self, deserialize: Callable[[bytes], Any]) -> None:
        self._deserialize = deserialize
        self.sizes: list[int] = []

    def __call__(self, data: bytes) -> Any:
        self.sizes.append(len(data))
        return self._deserialize(data)


def test_entries_are_counted_by_hand() -> None:
    kind = pb.ComparePairRequest.DESCRIPTOR
    message = pb.ComparePairRequest(
        conversation=[pb.Message(role=pb.ROLE_USER, content="q")] * 2,  # three each
        response_a="a",
        options=pb.JudgeOptions(orders=[pb.ORDER_AB, pb.ORDER_BA], tie_margin=0.1),
    )
    # 6 of the turns, the response, the options, their list and its two elements, the margin
    assert count_entries(message.SerializeToString(), kind, 100) == 12
    many = pb.ComparePairRequest(options=pb.JudgeOptions(orders=[1] * 5000))
    assert count_entries(many.SerializeToString(), kind, 100) == 5002
    assert count_entries(b"\x12\x00" * 5000, kind, 100) == 101, "counting ends"
    assert count_entries(b"\xff" * 50, kind, 100) <= 101


async def test_connections_beyond_the_limit_are_closed_and_do_not_use_up_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "max_connections", lambda: 4)
    async with serving(FakeEngine(), constitutions=[one_principle(tmp_path)]) as server:
        host, _, port = server.address.rpartition(":")
        connections = [await asyncio.open_connection(host, int(port)) for _ in range(12)]

        async def closed(reader: asyncio.StreamReader) -> bool:
            while await reader.read(1024):
                pass
            return True

        waiting = [asyncio.create_task(closed(reader)) for reader, _ in connections]
        await until(lambda: sum(each.done() for each in waiting) >= 8)
        for each in waiting:
            each.cancel()
        for _, writer in connections:
            writer.close()


async def test_an_answer_over_the_cap_is_refused_before_it_is_computed(tmp_path: Path) -> None:
    engine = FakeEngine()
    async with (
        serving(engine, constitutions=["hhh"], max_message_bytes=2**16) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        judge = pb_grpc.JudgeServiceStub(channel)
        candidates = [f"reply {n}" for n in range(32)]
        refused = [
            judge.RankCandidates(pb.RankCandidatesRequest(**CHAT, candidates=candidates)),
            judge.ComparePair(
                pb.ComparePairRequest(
                    **CHAT,
                    response_a="a",
                    response_b="bb",
                    options=pb.JudgeOptions(max_rationale_tokens=512),
                )
            ),
            pb_grpc.ConstitutionServiceStub(channel).PreviewPrompt(
                pb.PreviewPromptRequest(**CHAT, response_a="a" * 4000, response_b="bb")
            ),
        ]
        for call in refused:
            assert await refusal(call) == (CODES.INVALID_ARGUMENT, "ANSWER_TOO_LARGE")
        assert not engine.prompts
        assert not engine.writings
        assert (await judge.ComparePair(PAIR)).HasField("judgment")


async def test_the_size_of_an_answer_is_not_underestimated(tmp_path: Path) -> None:
    hhh = Constitution.load("hhh")
    async with (
        serving(FakeEngine(), constitutions=["hhh"]) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        answer = await pb_grpc.JudgeServiceStub(channel).ComparePair(PAIR)
        request = pb.PreviewPromptRequest(**CHAT, response_a="a" * 900, response_b="bb")
        preview = await pb_grpc.ConstitutionServiceStub(channel).PreviewPrompt(request)
    size = judgment_bytes(hhh, JudgeOptions())
    assert size / 2 < answer.ByteSize() <= size
    size = preview_bytes(request.ByteSize(), hhh, JudgeOptions())
    assert size / 4 < preview.ByteSize() <= size


@pytest.mark.parametrize("by_caller", [False, True])
async def test_a_cache_hit_tells_what_others_asked_only_in_a_shared_store(
    tmp_path: Path, by_caller: bool
) -> None:
    tokens = tmp_path / "tokens.yaml"
    tokens.write_text(entries("mine", "theirs"))
    constitution = one_principle(tmp_path)
    engine = CachingEngine(FakeEngine(), open_store(None), by_caller=by_caller)
    server = JudgeServer(settings(constitutions=[constitution], tokens=tokens), engine)
    await server.start()
    await server.load()
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            judge = pb_grpc.JudgeServiceStub(channel)
            hits = [
                (await judge.ComparePair(PAIR, metadata=bearing(name))).judgment.cache_hit
                for name in ("mine", "mine", "theirs", "theirs")
            ]
    finally:
        await server.stop()
    assert hits == [False, True, not by_caller, True]


async def test_a_reload_without_free_files_is_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with with_tokens(tmp_path) as (server, channel):

        def too_many() -> list[str]:
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(server._handler.constitutions, "reload", too_many)
        (tmp_path / "tokens.yaml").write_text(entries("theirs"))
        server.reload()
        judge = pb_grpc.JudgeServiceStub(channel)
        mine = judge.ComparePair(PAIR, metadata=bearing("mine"))
        assert await refusal(mine) == (CODES.UNAUTHENTICATED, "UNKNOWN_TOKEN")
