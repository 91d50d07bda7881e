"""Client channels: addresses, replicas in turn, and tokens that are never sent unencrypted."""

from __future__ import annotations

import logging
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from judge_service.client.channel import connection
from judge_service.client.sync import (
    AsyncJudgeClient,
    JudgeClient,
    JudgeRequestError,
    JudgeUnavailable,
)
from judge_service.observability.logs import TextLines
from judge_service.server.app import JudgeServer
from tests.support.fakes import FakeEngine
from tests.support.service.certificates import Authority
from tests.support.service.serving import one_principle, serving, settings

MIB = 2**20


def target(address: str) -> str:
    return connection(address, MIB).target


def test_addresses_become_a_round_robin_target() -> None:
    assert target("judge.example:50051") == "dns:///judge.example:50051"
    assert target("[::1]:50051") == "dns:///[::1]:50051"
    assert target("dns:///judge.example:1") == "dns:///judge.example:1"
    assert target("unix:/run/judge") == "unix:/run/judge"
    assert target("127.0.0.1:1,127.0.0.2:2") == "ipv4:127.0.0.1:1,127.0.0.2:2"
    assert target("127.0.0.1:1, 127.0.0.1:1") == "ipv4:127.0.0.1:1"
    assert target("[::1]:1,[::1]:2") == "ipv6:[::1]:1,[::1]:2"


def test_a_listed_host_that_does_not_resolve_is_skipped_until_none_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = {"a.example": "192.0.2.1", "b.example": "192.0.2.2"}

    def look_up(host: str, port: int, family: int, kind: int) -> list[Any]:
        if family != socket.AF_INET or host not in known:
            raise socket.gaierror
        return [(family, kind, 6, "", (known[host], port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert target("a.example:1,b.example:2") == "ipv4:192.0.2.1:1,192.0.2.2:2"
    assert target("a.example:1,gone.example:2") == "ipv4:192.0.2.1:1"
    with pytest.raises(JudgeUnavailable, match=r"none of gone\.example, away\.example"):
        target("gone.example:1,away.example:2")


@pytest.mark.parametrize("address", ["nowhere", "a:1,b", "a:1,", ",", "a:port", ":1"])
def test_a_wrong_address_is_refused(address: str) -> None:
    with pytest.raises(JudgeRequestError, match="not host:port"):
        JudgeClient(address)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:1", "localhost:1", "[::1]:1", "dns:///localhost:1", "unix:/x",
     "127.0.0.1:1,[::1]:2", "ipv4:127.0.0.1:1,127.0.0.1:2"],
)  # fmt: skip
def test_a_token_is_sent_in_plain_text_only_within_this_machine(address: str) -> None:
    assert connection(address, MIB, token="t").metadata == (("authorization", "Bearer t"),)


@pytest.mark.parametrize(
    "address",
    ["judge.example:1", "192.0.2.1:1", "127.0.0.1:1,192.0.2.1:1", "dns:///judge.example:1",
     "dns://127.0.0.1/judge.example:1", "ipv4:192.0.2.1:1", "xds:///judge", "localhost.example:1"],
)  # fmt: skip
def test_a_token_sent_to_another_machine_needs_tls(address: str, tmp_path: Path) -> None:
    with pytest.raises(JudgeRequestError, match=r"plain text.*ca="):
        connection(address, MIB, token="t")
    ca = Authority(tmp_path).certificate
    assert connection(address, MIB, token="t", ca=ca).credentials is not None


def test_a_token_with_a_line_break_is_refused_and_not_quoted() -> None:
    for token in ("secret\n", "sec ret", "sëcret"):
        with pytest.raises(JudgeRequestError, match="copy it again") as refused:
            JudgeClient("127.0.0.1:1", token=token)
        assert token.strip() not in str(refused.value)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_calls_alternate_between_replicas_and_a_stopped_one_costs_no_call(
    tmp_path: Path, secure: bool
) -> None:
    how: dict[str, Any] = {"constitutions": [one_principle(tmp_path)]}
    trust: dict[str, Any] = {}
    if secure:
        authority = Authority(tmp_path)
        pair = authority.sign("server")
        how |= {"tls_certificate": pair.certificate, "tls_key": pair.key}
        trust = {"ca": authority.certificate}
    engines = [FakeEngine(), FakeEngine()]
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serving(e, **how)) for e in engines]
        address = ",".join(server.address for server in servers)
        client = await stack.enter_async_context(AsyncJudgeClient(address, **trust))
        for n in range(20):
            await client.compare("x", "a", f"b{n}")
        first, second = (len(engine.prompts) for engine in engines)
        assert first + second == 40, "two reads a call"
        assert min(first, second) >= 10, "in turn, once both are connected"
        await servers[0].stop()
        for n in range(20):
            await client.compare("x", "a", f"c{n}")
        assert len(engines[0].prompts) == first
        assert len(engines[1].prompts) == second + 40


async def test_a_listed_replica_that_still_loads_gets_no_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    constitution = one_principle(tmp_path)
    loading = JudgeServer(settings(constitutions=[constitution]), FakeEngine())
    await loading.start()
    caplog.set_level(logging.INFO)
    async with (
        serving(FakeEngine(), constitutions=[constitution]) as ready,
        AsyncJudgeClient(f"{loading.address},{ready.address}") as client,
    ):
        for n in range(20):
            await client.compare("x", "a", f"b{n}")
        log = [TextLines().format(record) for record in caplog.records]
        codes = [line.partition("code=")[2].split()[0] for line in log if "method=Comp" in line]
        assert codes == ["OK"] * 20
    await loading.stop()
