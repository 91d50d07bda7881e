"""Who may call what: every RPC by every kind of caller over every kind of connection.

Each cell is a call over a real socket: 14 RPCs (health and reflection included), times no token, a
wrong one, one without the scope and the right one, times plain loopback, TLS and mTLS.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from judge_service.client.sync import AsyncJudgeClient, JudgeRequestError, JudgeUnavailable
from judge_service.rpc import SCOPES
from judge_service.security.tokens import Token, digest_of, new_token, to_entry
from judge_service.server.handlers import SERVICES
from judge_service.v1 import judge_pb2 as pb
from judge_service.v1 import judge_pb2_grpc as pb_grpc
from tests.support.fakes import FakeEngine
from tests.support.service.certificates import Authority
from tests.support.service.serving import CHAT, comparison, one_principle, serving

CODES = grpc.StatusCode
MAY_HAVE = {scope: new_token() for scope in SCOPES}  # the token with this scope alone
LACKS = {scope: new_token() for scope in SCOPES}  # the token with every other scope
CONNECTIONS = ("plain", "tls", "mtls")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tokens.yaml, and server, client, authority and stranger, each .pem and .key."""
    folder = tmp_path_factory.mktemp("auth")
    authority = Authority(folder)
    authority.sign("server")
    authority.sign("client")
    Authority(folder, "stranger")
    entries = [
        Token(name=f"only-{scope}", sha256=digest_of(MAY_HAVE[scope]), scopes=frozenset([scope]))
        for scope in SCOPES
    ]
    entries += [
        Token(
            name=f"not-{scope}",
            sha256=digest_of(LACKS[scope]),
            scopes=frozenset(SCOPES) - {scope},
        )
        for scope in SCOPES
    ]
    (folder / "tokens.yaml").write_text("\n".join(map(to_entry, entries)))
    one_principle(folder)
    return folder


@asynccontextmanager
async def guarded(files: Path, connection: str, **more: Any) -> AsyncIterator[Any]:
    settings: dict[str, Any] = {
        "tokens": files / "tokens.yaml",
        "constitutions": [str(files / "brief.yaml")],
        **more,
    }
    if connection != "plain":
        settings |= {"tls_certificate": files / "server.pem", "tls_key": files / "server.key"}
    if connection == "mtls":
        settings |= {"tls_client_ca": files / "authority.pem"}
    async with serving(FakeEngine(), **settings) as server:
        yield server


def channel_to(address: str, files: Path, connection: str) -> grpc.aio.Channel:
    if connection == "plain":
        return grpc.aio.insecure_channel(address)
    own: tuple[bytes | None, bytes | None] = (None, None)
    if connection == "mtls":
        own = (files / "client.key").read_bytes(), (files / "client.pem").read_bytes()
    roots = (files / "authority.pem").read_bytes()
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(roots, *own))


async def last(call: Any) -> Any:
    """The last answer of a call that streams them."""
    return [answer async for answer in call][-1]


async def first(call: Any) -> Any:
    """The first answer; then the call is cancelled."""
    answer = await call.read()
    call.cancel()
    return answer


def rpcs() -> dict[str, tuple[str, Callable[[Any, Any], Any]]]:
    """RPC → (scope, how to make a good call of it with a channel and metadata)."""
    judge, constitutions = pb_grpc.JudgeServiceStub, pb_grpc.ConstitutionServiceStub
    pair = {**CHAT, "response_a": "a", "response_b": "bb"}
    one = {**CHAT, "response": "a"}
    item = pb.StreamJudgmentsRequest(id="1", comparison=pb.ComparePairRequest(**pair))
    list_services = reflection_pb2.ServerReflectionRequest(list_services="")
    probe = health_pb2.HealthCheckRequest()
    return {
        "ComparePair": (
            "judge", lambda c, m: judge(c).ComparePair(pb.ComparePairRequest(**pair), metadata=m)
        ),
        "RankCandidates": (
            "judge",
            lambda c, m: judge(c).RankCandidates(
                pb.RankCandidatesRequest(**CHAT, candidates=["a", "bb"]), metadata=m
            ),
        ),
        "ScoreCandidate": (
            "judge",
            lambda c, m: judge(c).ScoreCandidate(pb.ScoreCandidateRequest(**one), metadata=m),
        ),
        "CritiqueCandidate": (
            "judge",
            lambda c, m: judge(c).CritiqueCandidate(pb.CritiqueCandidateRequest(**one), metadata=m),
        ),
        "ReviseCandidate": (
            "judge",
            lambda c, m: judge(c).ReviseCandidate(
                pb.ReviseCandidateRequest(**one, critique="Too short."), metadata=m
            ),
        ),
        "StreamJudgments": (
            "judge", lambda c, m: last(judge(c).StreamJudgments(iter([item]), metadata=m))
        ),
        "GetServerInfo": (
            "read", lambda c, m: judge(c).GetServerInfo(pb.GetServerInfoRequest(), metadata=m)
        ),
        "ListConstitutions": (
            "read",
            lambda c, m: constitutions(c).ListConstitutions(
                pb.ListConstitutionsRequest(), metadata=m
            ),
        ),
        "GetConstitution": (
            "read",
            lambda c, m: constitutions(c).GetConstitution(
                pb.GetConstitutionRequest(), metadata=m
            ),
        ),
        "ValidateConstitution": (
            "read",
            lambda c, m: constitutions(c).ValidateConstitution(
                pb.ValidateConstitutionRequest(yaml="x"), metadata=m
            ),
        ),
        "PreviewPrompt": (
            "read",
            lambda c, m: constitutions(c).PreviewPrompt(
                pb.PreviewPromptRequest(**pair), metadata=m
            ),
        ),
        "reflection": (
            "admin",
            lambda c, m: last(
                reflection_pb2_grpc.ServerReflectionStub(c).ServerReflectionInfo(
                    iter([list_services]), metadata=m
                )
            ),
        ),
        "health Check": (
            "", lambda c, m: health_pb2_grpc.HealthStub(c).Check(probe, metadata=m)
        ),
        "health Watch": (
            "", lambda c, m: first(health_pb2_grpc.HealthStub(c).Watch(probe, metadata=m))
        ),
    }  # fmt: skip


def test_the_matrix_has_every_rpc() -> None:
    ours = {rpc.name for service in SERVICES for rpc in service.methods}
    assert ours | {"reflection", "health Check", "health Watch"} == set(rpcs())


CALLERS: dict[str, tuple[Callable[[str], str | None], tuple[grpc.StatusCode, str] | None]] = {
    "no token": (lambda scope: None, (CODES.UNAUTHENTICATED, "MISSING_TOKEN")),
    "a wrong token": (lambda scope: new_token(), (CODES.UNAUTHENTICATED, "UNKNOWN_TOKEN")),
    "a token without the scope": (LACKS.get, (CODES.PERMISSION_DENIED, "MISSING_SCOPE")),
    "the right token": (MAY_HAVE.get, None),
}


async def refusal(call: Any) -> tuple[grpc.StatusCode, str] | None:
    """(code, reason) of a call that is refused, None of one that is answered."""
    try:
        await call
    except grpc.aio.AioRpcError as refused:
        info = error_details_pb2.ErrorInfo()
        rpc_status.from_call(refused).details[0].Unpack(info)
        return refused.code(), info.reason
    return None


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("connection", CONNECTIONS)
async def test_a_call_is_answered_only_with_the_right_token(
    files: Path, connection: str, caller: str
) -> None:
    token_for, expected = CALLERS[caller]
    async with (
        guarded(files, connection) as server,
        channel_to(server.address, files, connection) as channel,
    ):
        for rpc, (scope, call) in rpcs().items():
            token = token_for(scope)
            metadata = (("authorization", f"Bearer {token}"),) if token else ()
            outcome = await refusal(call(channel, metadata))
            assert outcome == (expected if scope else None), rpc


@pytest.mark.parametrize("connection", CONNECTIONS)
async def test_without_a_token_file_any_connected_caller_may_call_everything(
    files: Path, connection: str
) -> None:
    async with (
        guarded(files, connection, tokens=None) as server,
        channel_to(server.address, files, connection) as channel,
    ):
        for rpc, (_, call) in rpcs().items():
            assert await refusal(call(channel, ())) is None, rpc


@pytest.mark.parametrize(
    ("connection", "how"),
    [
        ("tls", {}),
        ("tls", {"ca": "stranger.pem"}),
        ("mtls", {"ca": "authority.pem"}),
        ("mtls", {"ca": "authority.pem", "certificate": "stranger.pem", "key": "stranger.key"}),
    ],
    ids=["plain text", "another authority", "no certificate", "a stranger's certificate"],
)
async def test_a_failed_handshake_reaches_nothing_and_the_error_mentions_tls(
    files: Path, connection: str, how: dict[str, str]
) -> None:
    given = {name: files / file for name, file in how.items()}
    async with (
        guarded(files, connection) as server,
        AsyncJudgeClient(server.address, **given, token=MAY_HAVE["read"]) as client,
    ):
        with pytest.raises(JudgeUnavailable, match="check TLS"):
            await client.server_info(timeout=60)


@pytest.mark.parametrize("connection", CONNECTIONS)
async def test_the_client_brings_its_token_and_certificate_in_calls_and_streams(
    files: Path, connection: str
) -> None:
    how: dict[str, Any] = {} if connection == "plain" else {"ca": files / "authority.pem"}
    if connection == "mtls":
        how |= {"certificate": files / "client.pem", "key": files / "client.key"}
    async with guarded(files, connection) as server:
        async with AsyncJudgeClient(server.address, token=MAY_HAVE["judge"], **how) as client:
            assert (await client.compare("x", "a", "bb")).verdict.value
            pairs = [comparison("1"), comparison("2")]
            assert {id async for id, _ in client.stream(pairs)} == {"1", "2"}
            with pytest.raises(
                JudgeRequestError, match=r"lacks the scope 'read'; ask its operator"
            ):
                await client.constitutions()
        async with AsyncJudgeClient(server.address, **how) as client:
            with pytest.raises(JudgeRequestError, match="RLAIF_TOKEN"):
                await client.compare("x", "a", "bb")
            with pytest.raises(JudgeRequestError, match="RLAIF_TOKEN"):
                async for _ in client.stream([comparison("1")]):
                    pass


@pytest.mark.parametrize(
    "metadata",
    [
        [("authorization", "Basic abc")],
        [("authorization", "Bearer ")],
        [("authorization", "Bearer")],
        [("authorization", MAY_HAVE["judge"])],
        [("authorization", f"Bearer {MAY_HAVE['judge']}"), ("authorization", "Bearer x")],
        [("authorization-bin", f"Bearer {MAY_HAVE['judge']}".encode())],
        [("token", MAY_HAVE["judge"])],
    ],
)
async def test_anything_but_a_single_bearer_token_counts_as_missing(
    files: Path, metadata: Any
) -> None:
    async with (
        guarded(files, "plain") as server,
        channel_to(server.address, files, "plain") as channel,
    ):
        _, call = rpcs()["ComparePair"]
        outcome = await refusal(call(channel, tuple(metadata)))
        assert outcome == (CODES.UNAUTHENTICATED, "MISSING_TOKEN")


async def test_refusals_and_the_log_reveal_nothing_of_tokens(
    files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    presented = new_token()
    async with (
        guarded(files, "plain") as server,
        channel_to(server.address, files, "plain") as channel,
    ):
        stub = pb_grpc.ConstitutionServiceStub(channel)
        for token in (presented, LACKS["read"]):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.ListConstitutions(
                    pb.ListConstitutionsRequest(), metadata=[("authorization", f"Bearer {token}")]
                )
            output = f"{refused.value} {refused.value.trailing_metadata()} {caplog.text}"
            assert token not in output
            assert digest_of(token) not in output
            assert "not-read" not in str(refused.value)
