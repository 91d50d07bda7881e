"""The server over a real socket, with a fake engine: answers, errors and limits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from judge_service.observability.logs import TextLines
from judge_service.server import interceptors
from judge_service.server.deadlines import LatencyWindow
from judge_service.server.incoming import IncomingRequest
from judge_service.server.interceptors import CallGuard
from judge_service.v1 import judge_pb2 as pb
from judge_service.v1 import judge_pb2_grpc as pb_grpc
from tests.support.fakes import FakeEngine, prefer_longer
from tests.support.service.serving import expect_calls_to_take, serving
from tests.support.waiting import until

SERVING = health_pb2.HealthCheckResponse.SERVING
JUDGE = "judge_service.v1.JudgeService"


def request(**fields: Any) -> pb.ComparePairRequest:
    given = {
        "conversation": [pb.Message(role=pb.ROLE_USER, content="Name a fruit")],
        "response_a": "An apple, for instance.",
        "response_b": "No.",
    }
    return pb.ComparePairRequest(**{**given, **fields})


def rank_request(*candidates: str) -> pb.RankCandidatesRequest:
    return pb.RankCandidatesRequest(
        conversation=[pb.Message(role=pb.ROLE_USER, content="Name a fruit")], candidates=candidates
    )


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def channel(engine: FakeEngine) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(engine) as server, grpc.aio.insecure_channel(server.address) as channel:
        yield channel


async def health(channel: grpc.aio.Channel, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=60)).status


async def failure(call: Any) -> tuple[grpc.StatusCode, str, dict[str, Any]]:
    """(code, message, details by name) of a call that fails, as grpcio-status reads them."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    error = raised.value
    status = rpc_status.from_call(error)
    assert status is not None, error
    details = {}
    for detail in status.details:
        message = getattr(error_details_pb2, detail.type_url.rpartition(".")[2])()
        assert detail.Unpack(message)
        details[type(message).__name__] = message
    return error.code(), status.message, details


INVALID = [
    (request(conversation=[]), "INVALID_REQUEST", "conversation"),
    (request(conversation=[pb.Message(content="x")]), "INVALID_REQUEST", "conversation[0].role"),
    (request(options=pb.JudgeOptions(tie_margin=2)), "INVALID_REQUEST", "options.tie_margin"),
    (
        request(options=pb.JudgeOptions(min_label_mass=1.5)),
        "INVALID_REQUEST",
        "options.min_label_mass",
    ),
    (request(request_id="x" * 200), "INVALID_REQUEST", "request_id"),
    (
        request(constitution=pb.ConstitutionRef(name="hhhh")),
        "UNKNOWN_CONSTITUTION",
        "constitution.name",
    ),
    (
        request(constitution=pb.ConstitutionRef(name="hhh", sha256="0" * 64)),
        "UNKNOWN_CONSTITUTION",
        "constitution.sha256",
    ),
    (request(response_b="word " * 9000), "TOO_LONG", "response_b"),
]


@pytest.mark.parametrize(("bad", "reason", "field"), INVALID, ids=[i[2] for i in INVALID])
async def test_an_invalid_comparison_names_its_field(
    channel: grpc.aio.Channel, bad: pb.ComparePairRequest, reason: str, field: str
) -> None:
    call = pb_grpc.JudgeServiceStub(channel).ComparePair(bad)
    code, message, details = await failure(call)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message.startswith(field)
    assert details["ErrorInfo"].reason == reason
    assert details["ErrorInfo"].domain == "judge_service.v1"
    assert details["ErrorInfo"].metadata["request_id"]
    assert [v.field for v in details["BadRequest"].field_violations] == [field]
    assert "RetryInfo" not in details


@pytest.mark.parametrize("candidates", [(), ("one",), ("x",) * 33])
async def test_a_ranking_of_too_few_or_too_many_is_refused(
    channel: grpc.aio.Channel, candidates: tuple[str, ...]
) -> None:
    call = pb_grpc.JudgeServiceStub(channel).RankCandidates(rank_request(*candidates))
    code, _, details = await failure(call)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details["BadRequest"].field_violations[0].field == "candidates"


async def test_an_unknown_constitution_is_not_found_and_the_error_names_the_nearest(
    channel: grpc.aio.Channel,
) -> None:
    ref = pb.ConstitutionRef(name="hhhh")
    call = pb_grpc.ConstitutionServiceStub(channel).GetConstitution(
        pb.GetConstitutionRequest(constitution=ref)
    )
    code, message, details = await failure(call)
    assert code is grpc.StatusCode.NOT_FOUND
    assert "did you mean 'hhh'?" in message
    assert details["ErrorInfo"].reason == "UNKNOWN_CONSTITUTION"


async def test_a_bug_becomes_an_opaque_id_and_no_conversation_text_leaks(
    channel: grpc.aio.Channel, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    canary = "canary-6f1d"

    def bug(prompt: str) -> Sequence[float]:
        raise KeyError(prompt)

    engine.answer = bug
    caplog.set_level(logging.DEBUG)
    call = pb_grpc.JudgeServiceStub(channel).ComparePair(request(response_a=canary))
    code, message, details = await failure(call)
    assert code is grpc.StatusCode.INTERNAL
    assert details["ErrorInfo"].reason == "INTERNAL"
    opaque = message.split()[2].rstrip(";")
    assert opaque in caplog.text
    assert canary not in message + str(details) + caplog.text


async def test_polls_of_the_servers_info_do_not_fill_the_log(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    judge = pb_grpc.JudgeServiceStub(channel)
    with caplog.at_level(logging.INFO, logger="judge_service"):  # as `rlaif serve` logs
        for _ in range(20):
            await judge.GetServerInfo(pb.GetServerInfoRequest())
            assert await health(channel) == SERVING
        assert "GetServerInfo" not in caplog.text
        assert not caplog.records
        with pytest.raises(grpc.aio.AioRpcError):  # one that fails is logged like any other
            await channel.unary_unary(f"/{JUDGE}/GetServerInfo")(b"\xff")
        assert [line.levelname for line in caplog.records] == ["INFO"]


async def test_no_log_line_of_a_good_call_quotes_the_conversation(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    canary = "canary-77aa"
    await pb_grpc.JudgeServiceStub(channel).ComparePair(
        request(response_a=canary, request_id="call-1")
    )
    log = "\n".join(TextLines().format(record) for record in caplog.records)
    assert "call ended method=ComparePair" in log
    assert "request_id=call-1 code=OK caller=anonymous" in log
    assert canary not in log


async def test_an_empty_response_is_an_abstention_with_its_reason(
    channel: grpc.aio.Channel,
) -> None:
    response = await pb_grpc.JudgeServiceStub(channel).ComparePair(request(response_a=" "))
    assert response.judgment.verdict == pb.VERDICT_ABSTAIN
    assert response.judgment.abstention.reason == pb.ABSTENTION_REASON_EMPTY_RESPONSE
    assert not response.judgment.HasField("prob_a")


async def test_validate_only_judges_nothing(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    stub = pb_grpc.JudgeServiceStub(channel)
    assert not (await stub.ComparePair(request(validate_only=True))).HasField("judgment")
    assert not engine.prompts
    await failure(stub.ComparePair(request(validate_only=True, conversation=[])))


async def test_calls_over_the_cap_are_refused_at_once_and_health_still_answers() -> None:
    engine = FakeEngine()
    async with (
        serving(engine, max_concurrent_rpcs=1) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = pb_grpc.JudgeServiceStub(channel)
        engine.hold()
        first = stub.ComparePair(request())
        await until(lambda: engine.in_flight)
        code, _, details = await failure(stub.ComparePair(request()))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details["ErrorInfo"].reason == "TOO_MANY_CALLS"
        assert details["RetryInfo"].retry_delay.seconds == 1
        assert await health(channel) == SERVING
        assert (await stub.GetServerInfo(pb.GetServerInfoRequest())).state
        engine.release()
        assert (await first).judgment.verdict == pb.VERDICT_A


async def test_a_cancelled_call_frees_the_engine(
    channel: grpc.aio.Channel, engine: FakeEngine
) -> None:
    engine.hold()
    call = pb_grpc.JudgeServiceStub(channel).ComparePair(request())
    await until(lambda: engine.in_flight)
    call.cancel()
    await until(lambda: not engine.in_flight)
    assert engine.aborted


class FakeContext:
    """The context of a call with this much time left, seconds."""

    def __init__(self, time_remaining: float | None) -> None:
        self._remaining = time_remaining
        self._aborted: Any = None

    def time_remaining(self) -> float | None:
        return self._remaining

    def cancelled(self) -> bool:
        return False

    async def abort(self, *how: Any) -> None:
        self._aborted = how

    def status(self) -> Any:
        return status_pb2.Status.FromString(self._aborted[2][0][1])


async def never(request: Any, context: Any) -> None:
    pytest.fail("the handler was called")


async def test_a_passed_deadline_starts_no_work() -> None:
    context = FakeContext(time_remaining=0.0)
    await CallGuard(1)._call("/x/Y", never, IncomingRequest(context, 1), context)
    assert context.status().code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]


async def test_a_deadline_that_cannot_be_met_is_refused_at_once_while_others_are_in_hand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Call durations come from a clock that each read advances by half an hour."""
    now = 0.0

    def answer(prompt: str) -> Sequence[float]:
        nonlocal now
        now += 1800
        return prefer_longer(prompt)

    monkeypatch.setattr(interceptors, "time", SimpleNamespace(perf_counter=lambda: now))
    engine = FakeEngine(answer)
    async with serving(engine) as server, grpc.aio.insecure_channel(server.address) as channel:
        server._guard._latencies = LatencyWindow(clock=lambda: 0.0)
        stub = pb_grpc.JudgeServiceStub(channel)
        for _ in range(5):
            await stub.ComparePair(request())
        engine.hold()
        busy = [stub.ComparePair(request()) for _ in range(5)]
        await until(lambda: engine.in_flight == 10)  # both orders of each
        reads = len(engine.prompts)
        code, message, details = await failure(stub.ComparePair(request(), timeout=60))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert details["ErrorInfo"].reason == "DEADLINE_TOO_SHORT"
        assert "give it longer" in message
        assert len(engine.prompts) == reads, "the engine got no read"
        await stub.ComparePair(request(validate_only=True), timeout=60)
        engine.release()
        await asyncio.gather(*busy)


async def test_a_short_deadline_is_tried_when_only_streams_are_open() -> None:
    async with (
        serving(FakeEngine()) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = pb_grpc.JudgeServiceStub(channel)
        expect_calls_to_take(server, 3600)
        open_stream = stub.StreamJudgments()
        await open_stream.read()  # its first credits
        answer = await stub.ComparePair(request(), timeout=600)
        assert answer.HasField("judgment")
        open_stream.cancel()


async def test_a_message_over_the_cap_is_refused() -> None:
    async with (
        serving(FakeEngine(), max_message_bytes=2**14) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = pb_grpc.JudgeServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="larger than max"):
            await stub.ComparePair(request(response_a="x" * 2**14))
        fits = await stub.ComparePair(request(response_a="x" * (2**14 - 250), validate_only=True))
        assert not fits.HasField("judgment")


async def test_reflection_lists_the_services_on_loopback(channel: grpc.aio.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    list_services = reflection_pb2.ServerReflectionRequest(list_services="")
    async for response in stub.ServerReflectionInfo(iter([list_services])):
        names = {service.name for service in response.list_services_response.service}
    assert {JUDGE, "judge_service.v1.ConstitutionService", "grpc.health.v1.Health"} <= names


async def test_the_default_answer_of_the_fake_reaches_the_caller(channel: grpc.aio.Channel) -> None:
    response = await pb_grpc.JudgeServiceStub(channel).ComparePair(request())
    assert response.judgment.verdict == pb.VERDICT_A
    assert response.judgment.prob_a > 0.9
    assert response.judgment.provenance.constitution.name == "hhh"
