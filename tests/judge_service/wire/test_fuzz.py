"""Fuzzing of every RPC: each request is answered, or rejected as a caller error.

The requests of each RPC are random bytes, valid requests with bytes changed, cut and repeated, and
requests with extreme values in any field. 3000 by default, 100 000 with RLAIF_FULL=1 (minutes), the
same in every run. None may end as UNKNOWN or INTERNAL, each error has a reason (ErrorInfo; and the
field, for an invalid request), and afterwards the server still works.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from judge_service.client.sync import AsyncJudgeClient
from judge_service.status import DETAILS_TRAILER
from judge_service.types import Judgment
from judge_service.v1 import judge_pb2 as pb
from tests.support.service.serving import CHAT, ONE_PRINCIPLE, one_principle, serving
from tests.support.service.steady_engine import SteadyEngine

pytestmark = pytest.mark.timeout(3600)

REQUESTS = 100_000 if os.environ.get("RLAIF_FULL") == "1" else 3_000
AT_ONCE = 16
ITEMS = 10  # of one stream
MAX_BYTES = 64 * 1024
CODES = grpc.StatusCode
OURS = {CODES.UNKNOWN, CODES.INTERNAL, CODES.UNIMPLEMENTED, CODES.UNAVAILABLE, CODES.DATA_LOSS}
"""Statuses that no request may cause; CANCELLED and DEADLINE_EXCEEDED cannot occur either."""

PAIR = {"response_a": "short", "response_b": "rather longer"}
VALID: dict[str, Message] = {
    "ComparePair": pb.ComparePairRequest(**CHAT, **PAIR),
    "RankCandidates": pb.RankCandidatesRequest(**CHAT, candidates=["a", "bb", "ccc"]),
    "ScoreCandidate": pb.ScoreCandidateRequest(**CHAT, response="a"),
    "CritiqueCandidate": pb.CritiqueCandidateRequest(**CHAT, response="a"),
    "ReviseCandidate": pb.ReviseCandidateRequest(**CHAT, response="a", critique="b"),
    "StreamJudgments": pb.StreamJudgmentsRequest(
        id="1", comparison=pb.ComparePairRequest(**CHAT, **PAIR)
    ),
    "GetServerInfo": pb.GetServerInfoRequest(),
    "ListConstitutions": pb.ListConstitutionsRequest(),
    "GetConstitution": pb.GetConstitutionRequest(constitution=pb.ConstitutionRef(name="brief")),
    "ValidateConstitution": pb.ValidateConstitutionRequest(yaml=ONE_PRINCIPLE, source="mine.yaml"),
    "PreviewPrompt": pb.PreviewPromptRequest(**CHAT, **PAIR),
}
PATHS = {
    rpc.name: f"/{service.full_name}/{rpc.name}"
    for service in pb.DESCRIPTOR.services_by_name.values()
    for rpc in service.methods
}

TEXTS = [
    "", " ", "\x00", "a\x1b[2J\r\n", "\u202e\u200b\ufeff", "\U0001f600" * 9, "../../etc/passwd",
    "brief", "brie", "says-more", "pairwise", "pointwise", "0" * 64, "<|im_end|>", "{{principle}}",
    "x" * 2_000, "word " * 5_000, "a: &a [*a, *a]\n", "- " * 500, "{" * 500, ONE_PRINCIPLE,
    ONE_PRINCIPLE * 2, "name: [", "? ", "%YAML 9.9\n---\n", "!!python/object:x {}", "\t",
]  # fmt: skip
DOUBLES = [
    0.0,
    -0.0,
    0.25,
    0.5,
    1.0,
    -1.0,
    5e-324,
    1e308,
    float("inf"),
    -float("inf"),
    float("nan"),
]
INTEGERS = {
    FieldDescriptor.TYPE_UINT32: [0, 1, 2, 8, 2**31, 2**32 - 1],
    FieldDescriptor.TYPE_INT64: [0, 1, -1, 2**31, 2**63 - 1, -(2**63)],
    FieldDescriptor.TYPE_ENUM: [0, 1, 2, 3, -1, 99, 2**31 - 1, -(2**31)],
}


class Hostile:
    """Hostile requests, generated from a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def request(self, rpc: str) -> bytes:
        rng, valid = self.rng, VALID[rpc]
        match rng.randrange(4):
            case 0:
                return rng.randbytes(rng.randrange(200))
            case 1:
                return self._damaged(valid.SerializeToString())
            case 2:
                return self._filled(type(valid)(), 0.9).SerializeToString()
            case _:
                mutated = type(valid)()
                mutated.CopyFrom(valid)
                data = self._filled(mutated, 0.2).SerializeToString()
                return self._damaged(data) if rng.random() < 0.2 else data

    def _damaged(self, data: bytes) -> bytes:
        rng, changed = self.rng, bytearray(data)
        for _ in range(rng.randint(1, 4)):
            here = rng.randrange(len(changed) + 1)
            match rng.randrange(4):
                case 0:
                    del changed[here:]
                case 1:
                    changed[here : here + 1] = rng.randbytes(1)
                case 2:
                    changed[here:here] = b"\xff\xfe" if rng.random() < 0.5 else rng.randbytes(3)
                case _:
                    changed[here:here] = changed[here : here + rng.randrange(60)]
        return bytes(changed)

    def _filled(self, message: Any, share: float) -> Any:
        """The message with this share of its fields set to extreme values."""
        rng = self.rng
        for field in message.DESCRIPTOR.fields:
            if rng.random() >= share:
                continue
            value = getattr(message, field.name)
            if hasattr(value, "extend"):  # repeated; protobuf 5 and 7 differ in the descriptor API
                value.extend(self._several(field, share))
            elif field.message_type is not None:
                self._filled(value, share)
            else:
                setattr(message, field.name, self._value(field))
        return message

    def _several(self, field: FieldDescriptor, share: float) -> list[Any]:
        count = self.rng.choice([0, 1, 1, 2, 3, 40, 400])
        if field.message_type is None:
            values = [self._value(field) for _ in range(min(count, 3))]
            return [self.rng.choice(values) for _ in range(count)]
        made = [getattr(pb, field.message_type.name)() for _ in range(min(count, 3))]
        return [self.rng.choice([self._filled(m, share) for m in made]) for _ in range(count)]

    def _value(self, field: FieldDescriptor) -> Any:
        rng = self.rng
        if field.type == FieldDescriptor.TYPE_STRING:
            return rng.choice(TEXTS) if rng.random() < 0.95 else "long " * 14_000  # over the cap
        if field.type == FieldDescriptor.TYPE_BOOL:
            return rng.random() < 0.5
        if field.type == FieldDescriptor.TYPE_DOUBLE:
            return rng.choice(DOUBLES)
        return rng.choice(INTEGERS[field.type])


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Any]:
    async with serving(
        SteadyEngine(slots=256),
        constitutions=[one_principle(tmp_path)],
        allow_inline_constitutions=True,
        max_message_bytes=MAX_BYTES,
        max_candidates=8,
        max_rationale_tokens=8,
        max_write_tokens=8,
    ) as server:
        yield server


def test_every_rpc_has_a_valid_request() -> None:
    assert VALID.keys() == PATHS.keys()


async def test_no_request_causes_a_server_error(server: Any) -> None:
    hostile = Hostile(seed=1)
    ended: Counter[tuple[str, str]] = Counter()
    async with grpc.aio.insecure_channel(server.address) as channel:

        async def work() -> None:
            while ended.total() < REQUESTS:
                rpc = hostile.rng.choice(list(VALID))
                if rpc == "StreamJudgments":
                    items = [hostile.request(rpc) for _ in range(ITEMS)]
                    for code in await stream(channel, items):
                        ended[rpc, code.name] += 1
                else:
                    code = await call(channel, rpc, hostile.request(rpc))
                    ended[rpc, code.name] += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work())
    for rpc in VALID:
        assert ended[rpc, "OK"], f"{rpc}: some requests are good enough to be answered"
        assert rpc in ("GetServerInfo", "ListConstitutions") or ended[rpc, "INVALID_ARGUMENT"]
    async with AsyncJudgeClient(server.address) as client:
        assert isinstance(await client.compare("x", "a", "bb"), Judgment), "it works as before"


async def call(channel: Any, rpc: str, data: bytes) -> Any:
    """The status code of a call; fails when it is one that no request may cause."""
    made = channel.unary_unary(PATHS[rpc])(data, timeout=120)
    code = await made.code()
    message = await made.details() or ""
    oversize = code is CODES.RESOURCE_EXHAUSTED and "larger than max" in message
    if code is CODES.OK or oversize:  # gRPC itself rejects a message over the cap, without details
        return code
    status = await status_of(made)
    assert status is not None, f"{rpc} {data[:300]!r}: {code} {message}"
    check(rpc, data, status)
    return code


async def stream(channel: Any, items: list[bytes]) -> list[Any]:
    """The status code of each stream item: an invalid one does not affect the others."""
    call = channel.stream_stream(
        PATHS["StreamJudgments"], response_deserializer=pb.StreamJudgmentsResponse.FromString
    )(timeout=120)
    assert (await call.read()).credits
    codes = []
    for data in items:
        if len(data) > MAX_BYTES:  # gRPC itself ends a stream for it
            continue
        await call.write(data)
        answer = await call.read()
        assert answer is not grpc.aio.EOF, f"the stream ended after {data[:300]!r}"
        if answer.HasField("error"):
            check("StreamJudgments", data, answer.error)
        codes.append(code_of(answer.error))
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    return codes


def check(rpc: str, data: bytes, status: status_pb2.Status) -> None:
    code = code_of(status)
    assert code not in OURS, f"{rpc} {data[:300]!r}: {status}"
    kinds = {detail.type_url.rpartition(".")[2] for detail in status.details}
    assert "ErrorInfo" in kinds, f"{rpc} {data[:300]!r}: {status}"
    if code is CODES.INVALID_ARGUMENT:
        bad = error_details_pb2.BadRequest()
        assert any(detail.Unpack(bad) for detail in status.details)
        assert all(violation.field for violation in bad.field_violations)


def code_of(status: status_pb2.Status) -> Any:
    return next(code for code in CODES if code.value[0] == status.code)


async def status_of(made: Any) -> status_pb2.Status | None:
    trailers = dict(await made.trailing_metadata() or ())
    status = trailers.get(DETAILS_TRAILER)
    return None if status is None else status_pb2.Status.FromString(status)
