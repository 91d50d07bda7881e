"""Every error that a caller can get, as it is on the wire: code, reason, fields, retry delay.

Each row provokes one error over a real socket. The last test fails for a reason that the code can
raise and that has no row here.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

import judge_service
from judge_service.judge.template import TemplateError
from judge_service.security import quotas
from judge_service.security.tokens import Token, digest_of, to_entry
from judge_service.server.app import JudgeServer
from judge_service.status import DOMAIN
from judge_service.store.base import StoreUnavailable
from judge_service.v1 import judge_pb2 as pb
from judge_service.v1 import judge_pb2_grpc as pb_grpc
from tests.judge_service.server.test_app import failure
from tests.support.fakes import FakeEngine
from tests.support.service.serving import CHAT, expect_calls_to_take, one_principle, settings
from tests.support.waiting import until

CODES = grpc.StatusCode
PAIR = pb.ComparePairRequest(**CHAT, response_a="a", response_b="bb")


def compare(**fields: Any) -> pb.ComparePairRequest:
    request = pb.ComparePairRequest()
    request.CopyFrom(PAIR)
    request.MergeFrom(pb.ComparePairRequest(**fields))
    return request


def inline(yaml: str) -> pb.ComparePairRequest:
    return compare(constitution=pb.ConstitutionRef(yaml=yaml))


Way = Callable[["Scene"], Awaitable[Any]]
"""Sets the scene, and gives the call that fails."""


@dataclass
class Scene:
    """A server with its engine, and a channel to it."""

    server: JudgeServer
    engine: FakeEngine
    channel: Any
    held: list[Any] = field(default_factory=list)

    def compare(self, request: Any = PAIR, token: str = "all", **how: Any) -> Any:
        stub = pb_grpc.JudgeServiceStub(self.channel)
        return stub.ComparePair(request, metadata=bearer(token), **how)

    async def hold(self, token: str = "all") -> None:
        """Keep a call in flight."""
        self.engine.hold()
        before = self.engine.in_flight
        self.held.append(self.compare(token=token))
        await until(lambda: self.engine.in_flight > before)


def bearer(token: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")] if token else []


# ---------------------------------------------------------------- how each is provoked


async def unreadable(scene: Scene) -> Any:
    path = "/judge_service.v1.JudgeService/ComparePair"
    return scene.channel.unary_unary(path)(b"\x0a\xff", metadata=bearer("all"))


async def unknown_constitution(scene: Scene) -> Any:
    request = pb.GetConstitutionRequest(constitution=pb.ConstitutionRef(name="brie"))
    stub = pb_grpc.ConstitutionServiceStub(scene.channel)
    return stub.GetConstitution(request, metadata=bearer("all"))


async def unsuited(scene: Scene) -> Any:
    def refuse(_: str) -> Any:
        raise TemplateError("no such token")

    scene.engine.tokenizer.encode_data = refuse  # type: ignore[method-assign]
    return scene.compare()


async def dead(scene: Scene) -> Any:
    scene.engine.die()
    return scene.compare()


async def stopping(scene: Scene) -> Any:
    await scene.server._guard.drain(0)
    return scene.compare()


async def full(scene: Scene) -> Any:
    await scene.hold()
    await scene.hold("one-at-a-time")  # one token has half of the calls
    return scene.compare()


async def token_busy(scene: Scene) -> Any:
    await scene.hold("one-at-a-time")
    return scene.compare(token="one-at-a-time")


async def token_spent(scene: Scene) -> Any:
    await scene.compare(token="one-a-minute")
    return scene.compare(token="one-a-minute")


async def too_short(scene: Scene) -> Any:
    expect_calls_to_take(scene.server, 3600)
    await scene.hold()
    return scene.compare(timeout=60)


async def unfinished(scene: Scene) -> Any:
    path = "/judge_service.v1.JudgeService/ComparePair"
    return scene.channel.stream_unary(path)(metadata=bearer("all"))


async def idle(scene: Scene) -> Any:
    stream = pb_grpc.JudgeServiceStub(scene.channel).StreamJudgments(metadata=bearer("all"))

    async def answers() -> None:
        async for _ in stream:
            pass

    return answers()


def raising(error: Exception) -> Way:
    async def call(scene: Scene) -> Any:
        def answer(_: str) -> Any:
            raise error

        scene.engine.answer = answer
        return scene.compare()

    return call


@dataclass(frozen=True)
class ErrorRow:
    code: Any
    reason: str
    how: Way
    fields: tuple[str, ...] = ()
    retry_seconds: float | None = None
    settings: tuple[tuple[str, Any], ...] = ()


def sent(request: Any) -> Way:
    async def call(scene: Scene) -> Any:
        return scene.compare(request)

    return call


def by(token: str) -> Way:
    async def call(scene: Scene) -> Any:
        return scene.compare(token=token)

    return call


ALLOW = (("allow_inline_constitutions", True),)
FEW = (("max_concurrent_rpcs", 2),)
ROWS = [
    ErrorRow(
        CODES.INVALID_ARGUMENT, "INVALID_REQUEST", sent(pb.ComparePairRequest()), ("conversation",)
    ),
    ErrorRow(CODES.INVALID_ARGUMENT, "UNREADABLE", unreadable, ("request",)),
    ErrorRow(
        CODES.INVALID_ARGUMENT,
        "UNKNOWN_CONSTITUTION",
        sent(compare(constitution=pb.ConstitutionRef(name="brie"))),
        ("constitution.name",),
    ),
    ErrorRow(
        CODES.INVALID_ARGUMENT,
        "BAD_CONSTITUTION",
        sent(inline("name: [\n")),
        ("constitution.yaml",),
        settings=ALLOW,
    ),
    ErrorRow(
        CODES.INVALID_ARGUMENT,
        "TOO_LONG",
        sent(compare(response_b="word " * 9000)),
        ("response_b",),
    ),
    ErrorRow(
        CODES.FAILED_PRECONDITION,
        "INLINE_NOT_ALLOWED",
        sent(inline("name: x\n")),
        ("constitution.yaml",),
    ),
    ErrorRow(CODES.FAILED_PRECONDITION, "MODEL_UNSUITED", unsuited),
    ErrorRow(CODES.NOT_FOUND, "UNKNOWN_CONSTITUTION", unknown_constitution, ("constitution.name",)),
    ErrorRow(CODES.UNAVAILABLE, "ENGINE_DIED", dead, retry_seconds=1.0),
    ErrorRow(
        CODES.UNAVAILABLE,
        "STORE_UNAVAILABLE",
        raising(StoreUnavailable("the store is away")),
        retry_seconds=1.0,
    ),
    ErrorRow(CODES.UNAVAILABLE, "SHUTTING_DOWN", stopping, retry_seconds=1.0),
    ErrorRow(CODES.UNAUTHENTICATED, "MISSING_TOKEN", by("")),
    ErrorRow(CODES.UNAUTHENTICATED, "UNKNOWN_TOKEN", by("nobody")),
    ErrorRow(CODES.PERMISSION_DENIED, "MISSING_SCOPE", by("reader")),
    ErrorRow(CODES.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS", full, retry_seconds=1.0, settings=FEW),
    ErrorRow(CODES.RESOURCE_EXHAUSTED, "MAX_CONCURRENT", token_busy, retry_seconds=1.0),
    ErrorRow(CODES.RESOURCE_EXHAUSTED, "REQUESTS_PER_MINUTE", token_spent, retry_seconds=60.0),
    ErrorRow(CODES.DEADLINE_EXCEEDED, "DEADLINE_TOO_SHORT", too_short),
    ErrorRow(
        CODES.DEADLINE_EXCEEDED,
        "REQUEST_TOO_SLOW",
        unfinished,
        settings=(("request_seconds", 0.1),),
    ),
    ErrorRow(
        CODES.UNAVAILABLE,
        "IDLE_STREAM",
        idle,
        retry_seconds=1.0,
        settings=(("stream_idle_seconds", 0.1),),
    ),
    ErrorRow(
        CODES.INVALID_ARGUMENT,
        "ANSWER_TOO_LARGE",
        sent(PAIR),
        ("candidates",),
        settings=(("max_message_bytes", 1024),),
    ),
    ErrorRow(CODES.INTERNAL, "INTERNAL", raising(KeyError())),
]
ELSEWHERE = {
    "LOADING": "test_health_is_not_serving_until_the_engine_is_warm_and_after_it_died",
    "DEADLINE_PASSED": "test_a_passed_deadline_starts_no_work: gRPC itself ends such calls first",
}
NEVER_SENT = {"NOT_ALLOWED", "NOT_FOUND", "UNAVAILABLE"}
"""Reasons of the base classes; each use sets a more specific one."""


@asynccontextmanager
async def on_stage(folder: Path, row: ErrorRow) -> AsyncIterator[Scene]:
    limits: dict[str, dict[str, Any]] = {
        "all": {},
        "one-at-a-time": {"max_concurrent": 1},
        "one-a-minute": {"requests_per_minute": 1},
        "reader": {"scopes": frozenset({"read"})},
    }
    both = {"scopes": frozenset({"judge", "read"})}
    tokens = folder / "tokens.yaml"
    entries = (
        Token(name=name, sha256=digest_of(name), **{**both, **how}) for name, how in limits.items()
    )
    tokens.write_text("\n".join(map(to_entry, entries)))
    given = {"tokens": tokens, "constitutions": [one_principle(folder)], **dict(row.settings)}
    engine = FakeEngine()
    server = JudgeServer(settings(**given), engine)
    await server.start()
    await server.load()
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            scene = Scene(server, engine, channel)
            yield scene
            for call in scene.held:
                call.cancel()
    finally:
        await server.stop()


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.code.name}-{row.reason}" for row in ROWS])
async def test_each_error_is_on_the_wire_as_in_the_table(
    tmp_path: Path, row: ErrorRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    standing = partial(quotas.Quota, clock=lambda: 0.0)  # so that retry delays do not shrink
    monkeypatch.setattr(quotas, "Quota", standing)
    async with on_stage(tmp_path, row) as scene:
        code, message, details = await failure(await row.how(scene))
    assert code is row.code
    info = details.pop("ErrorInfo")
    assert (info.reason, info.domain) == (row.reason, DOMAIN)
    assert info.metadata["request_id"]
    bad = details.pop("BadRequest", error_details_pb2.BadRequest())
    assert tuple(violation.field for violation in bad.field_violations) == row.fields
    assert all(violation.description for violation in bad.field_violations)
    assert ("RetryInfo" in details) == (row.retry_seconds is not None)
    if row.retry_seconds is not None:
        waits = details.pop("RetryInfo").retry_delay.ToMilliseconds() / 1000
        assert waits == pytest.approx(row.retry_seconds)
    assert message
    assert not details


def test_every_reason_of_the_code_has_its_row() -> None:
    folder = Path(judge_service.__file__).parent
    code = "\n".join(
        file.read_text(encoding="utf-8") for file in folder.rglob("*.py") if "v1" not in file.parts
    )
    reasons = set(re.findall(r'reason(?:: ClassVar\[str\])? ?= ?"([A-Z_]+)"', code))
    reasons |= set(re.findall(r'^(?:UNKNOWN|BAD) = "([A-Z_]+)"', code, re.MULTILINE))
    assert reasons - NEVER_SENT - ELSEWHERE.keys() == {row.reason for row in ROWS}
