"""Callers without tokens: who counts as one, and that one leaves half of the calls to others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from judge_service.security import peers
from judge_service.security.peers import peer_name
from judge_service.v1 import judge_pb2 as pb
from judge_service.v1 import judge_pb2_grpc as pb_grpc
from tests.support.fakes import FakeEngine
from tests.support.service.certificates import Authority
from tests.support.service.serving import CHAT, one_principle, serving

PAIR = pb.ComparePairRequest(**CHAT, response_a="a", response_b="bb")


class PeerContext:
    """What a call knows of its caller."""

    def __init__(self, peer: str, identities: list[bytes] | None = None) -> None:
        self._peer = peer
        self._identities = identities

    def peer(self) -> str:
        return self._peer

    def peer_identities(self) -> list[bytes] | None:
        return self._identities


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("ipv4:192.0.2.7:50123", "192.0.2.7"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:50123", "2001:db8:1:2::/64"),
        ("ipv6:[2001:db8:1:2:ffff::1]:1", "2001:db8:1:2::/64"),
        ("ipv6:%5B::ffff:192.0.2.7%5D:50123", "192.0.2.7"),
        ("ipv6:%5Bfe80::1%25eth0%5D:50123", "fe80::/64"),
        ("ipv4:127.0.0.1:50123", ""),
        ("ipv6:%5B::1%5D:50123", ""),
        ("unix:/run/judge.sock", ""),
        ("unix:", ""),
    ],
)
def test_a_caller_is_its_address_unless_it_is_on_this_machine(peer: str, name: str) -> None:
    assert peer_name(PeerContext(peer)) == name


def test_a_certificate_is_the_same_caller_from_everywhere() -> None:
    everywhere = ("ipv4:127.0.0.1:1", "ipv4:192.0.2.7:2")
    assert {peer_name(PeerContext(peer, [b"mine"])) for peer in everywhere} == {"certificate mine"}


async def occupied(judge: Any, calls: int, **options: Any) -> list[Any]:
    """Streams that hold a call each."""
    streams = [judge.StreamJudgments(**options) for _ in range(calls)]
    for stream in streams:
        assert (await stream.read()).credits
    return streams


async def test_one_address_leaves_half_of_the_calls_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def named(context: Any) -> str:
        return dict(context.invocation_metadata()).get("address", "")

    monkeypatch.setattr(peers, "peer_name", named)  # all of a test's callers are on loopback
    mine, theirs = {"metadata": [("address", "1")]}, {"metadata": [("address", "2")]}
    settings = {"constitutions": [one_principle(tmp_path)], "max_concurrent_rpcs": 4}
    async with (
        serving(FakeEngine(), **settings) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        judge = pb_grpc.JudgeServiceStub(channel)
        streams = await occupied(judge, 2, **mine)
        with pytest.raises(grpc.aio.AioRpcError, match="this caller is at its limit of 2"):
            await judge.ComparePair(PAIR, **mine)
        assert await judge.GetServerInfo(pb.GetServerInfoRequest(), **mine)
        assert (await judge.ComparePair(PAIR, **theirs)).HasField("judgment")
        assert (await judge.ComparePair(PAIR)).HasField("judgment"), "loopback is not counted"
        await streams[0].done_writing()
        assert await streams[0].read() is grpc.aio.EOF
        assert (await judge.ComparePair(PAIR, **mine)).HasField("judgment")
        streams[1].cancel()


async def test_under_mtls_one_certificate_is_one_caller(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    own, client = authority.sign("server"), authority.sign("client")
    tls = {
        "tls_certificate": own.certificate,
        "tls_key": own.key,
        "tls_client_ca": authority.certificate,
    }
    credentials = grpc.ssl_channel_credentials(
        authority.certificate.read_bytes(),
        client.key.read_bytes(),
        client.certificate.read_bytes(),
    )
    settings = {"constitutions": [one_principle(tmp_path)], "max_concurrent_rpcs": 4}
    async with (
        serving(FakeEngine(), **settings, **tls) as server,
        grpc.aio.secure_channel(server.address, credentials) as channel,
    ):
        judge = pb_grpc.JudgeServiceStub(channel)
        streams = await occupied(judge, 2)
        with pytest.raises(grpc.aio.AioRpcError, match="at its limit of 2 concurrent calls"):
            await judge.ComparePair(PAIR)
        for stream in streams:
            stream.cancel()
