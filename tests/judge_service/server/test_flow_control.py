"""Streams with slow readers, slow engines and bad items, and priorities. Over real sockets."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from judge_service.client.sync import AsyncJudgeClient, JudgeRequestError
from judge_service.engine import LabelLogprobs
from judge_service.types import JudgeOptions, Unjudged, UnjudgedReason
from judge_service.v1 import judge_pb2 as pb
from judge_service.v1 import judge_pb2_grpc as pb_grpc
from judge_service.wire.requests import MAX_ITEM_ID
from tests.support.service.serving import CHAT, comparison, one_principle, serving
from tests.support.service.steady_engine import SteadyEngine, SteadyTokenizer
from tests.support.waiting import until

LIMIT = 4  # items in flight, two reads each
SMALL_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536)]


@asynccontextmanager
async def stream_to(engine: SteadyEngine, folder: Path) -> AsyncIterator[Any]:
    constitution = one_principle(folder)
    async with (
        serving(engine, constitutions=[constitution], max_stream_in_flight=LIMIT) as server,
        grpc.aio.insecure_channel(server.address, SMALL_WINDOW) as channel,
    ):
        yield pb_grpc.JudgeServiceStub(channel).StreamJudgments()


def item(n: int, text: str = "a") -> pb.StreamJudgmentsRequest:
    pair = pb.ComparePairRequest(**CHAT, response_a=f"{text} {n}", response_b="bb")
    return pb.StreamJudgmentsRequest(id=str(n), comparison=pair)


async def test_a_slow_engine_is_sent_no_more_than_the_streams_bound(tmp_path: Path) -> None:
    engine = SteadyEngine(slots=1, seconds=0.01)
    async with stream_to(engine, tmp_path) as stream:
        await stream.read()
        for n in range(40):
            await stream.write(item(n))
        for _ in range(40):
            assert (await stream.read()).HasField("judgment")
    assert engine.most_waiting < 2 * LIMIT


async def test_a_reader_that_reads_nothing_stops_the_work(tmp_path: Path) -> None:
    """The transport buffers as many bytes as its window, which gRPC would enlarge by itself; once
    it is full, the server reads no further item."""
    engine = SteadyEngine(slots=64)
    items = 1500
    async with stream_to(engine, tmp_path) as stream:

        async def write() -> None:
            for n in range(items):
                await stream.write(item(n, "word " * 50))
            await stream.done_writing()

        writing = asyncio.create_task(write())
        counts = [0]
        while not counts[-1] or len(set(counts[-5:])) > 1:  # until it stands still for a second
            await asyncio.sleep(0.25)
            counts.append(engine.begun)
        assert engine.begun < items, "two reads an item: less than half was taken"
        answers = 0
        while (response := await stream.read()) is not grpc.aio.EOF:
            answers += response.HasField("judgment")
        assert answers == items
        await writing


async def test_invalid_items_are_answered_with_errors_and_the_stream_continues(
    tmp_path: Path,
) -> None:
    constitution = one_principle(tmp_path)
    bad = {
        b"\x0a\xff": ("request", ""),
        b"\x0a\x02\xff\xfe": ("request", ""),
        pb.StreamJudgmentsRequest().SerializeToString(): ("id", ""),
        pb.StreamJudgmentsRequest(id="x" * 2000).SerializeToString(): ("id", "x" * MAX_ITEM_ID),
        pb.StreamJudgmentsRequest(id="1").SerializeToString(): ("conversation", "1"),
    }
    async with (
        serving(SteadyEngine(), constitutions=[constitution]) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stream = channel.stream_stream(
            "/judge_service.v1.JudgeService/StreamJudgments",
            response_deserializer=pb.StreamJudgmentsResponse.FromString,
        )()
        await stream.read()
        for message, (field, id) in bad.items():
            await stream.write(message)
            answer = await stream.read()
            assert answer.error.message.startswith(f"{field}: ")
            assert (answer.id, answer.credits) == (id, 1)
        await stream.write(item(7).SerializeToString())
        assert (await stream.read()).HasField("judgment")


async def test_the_client_refuses_an_id_too_long_for_an_answer(tmp_path: Path) -> None:
    constitution = one_principle(tmp_path)
    async with (
        serving(SteadyEngine(), constitutions=[constitution]) as server,
        AsyncJudgeClient(server.address) as client,
    ):
        items = [comparison("x" * (MAX_ITEM_ID + 1)), comparison("x" * MAX_ITEM_ID)]
        outcomes = {len(id): answer async for id, answer in client.stream(items)}
    refused = outcomes[MAX_ITEM_ID + 1]
    assert isinstance(refused, Unjudged)
    assert refused.reason is UnjudgedReason.REFUSED
    assert not isinstance(outcomes[MAX_ITEM_ID], Unjudged)


@pytest.mark.parametrize("interactive", [True, False])
async def test_an_interactive_call_overtakes_a_bulk_stream(
    tmp_path: Path, interactive: bool
) -> None:
    engine = OneByOne()
    constitution = one_principle(tmp_path)
    async with (
        serving(engine, constitutions=[constitution]) as server,
        AsyncJudgeClient(server.address) as client,
    ):
        items = [comparison(str(n)) for n in range(60)]
        options = JudgeOptions(interactive=False)
        streaming = asyncio.create_task(all_of(client.stream(items, options=options)))
        await until(lambda: engine.waiting == 2 * 60 - 1)
        options = JudgeOptions(interactive=interactive)
        call = asyncio.create_task(client.compare("mine", "a", "bb", options=options))
        await until(lambda: engine.waiting == 2 * 60 + 1)
        engine.go_on.set()
        await asyncio.gather(streaming, call)
    [mine] = engine.tokenizer.encode_data("mine")
    places = [place for place, ids in enumerate(engine.served) if mine in ids]
    assert places == ([1, 2] if interactive else [120, 121])


@pytest.mark.parametrize("rpc", ["ComparePair", "ScoreCandidate", "stream"])
async def test_megabytes_of_text_delay_no_other_call(tmp_path: Path, rpc: str) -> None:
    engine = SlowTokens()
    text = "word " * 700_000
    async with (
        serving(engine, constitutions=[one_principle(tmp_path)]) as server,
        AsyncJudgeClient(server.address) as client,
    ):
        how = {
            "ComparePair": lambda: client.compare("x", "a", text),
            "ScoreCandidate": lambda: client.score("x", text),
            "stream": lambda: all_of(client.stream([comparison("1", text)])),
        }
        call = asyncio.ensure_future(how[rpc]())
        await until(lambda: engine.tokenizer.counting)
        await client.compare("x", "a", "bb", timeout=120)
        engine.tokenizer.go_on.set()
        if rpc == "stream":
            assert [outcome.reason for outcome in await call] == [UnjudgedReason.TOO_LONG]
        else:
            with pytest.raises(JudgeRequestError, match="is too long"):
                await call


class OneByOne(SteadyEngine):
    """Finishes no read until it is released; `served` lists the prompts in the order of service."""

    def __init__(self) -> None:
        super().__init__(slots=1)
        self.go_on = asyncio.Event()
        self.served: list[Sequence[int]] = []

    async def read(
        self, prompt_ids: Sequence[int], label_ids: Sequence[int], *, priority: int = 0, **_: bool
    ) -> LabelLogprobs:
        await self._enter(priority)
        try:
            self.served.append(prompt_ids)
            await self.go_on.wait()
        finally:
            self._leave()
        return LabelLogprobs((-0.1, -2.4), len(prompt_ids), 0)


class SlowTokenizer(SteadyTokenizer):
    """Blocks on long texts until it is released."""

    def __init__(self) -> None:
        self.counting = False
        self.go_on = threading.Event()

    def encode_data(self, text: str) -> list[int]:
        if len(text) > 30_000:
            self.counting = True
            assert self.go_on.wait(120), "nobody else was served meanwhile"
        return super().encode_data(text)


class SlowTokens(SteadyEngine):
    def __init__(self) -> None:
        super().__init__()
        self._slow = SlowTokenizer()

    @property
    def tokenizer(self) -> SlowTokenizer:
        return self._slow


async def all_of(stream: Any) -> list[Any]:
    return [outcome async for _, outcome in stream]
