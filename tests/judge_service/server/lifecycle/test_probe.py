"""Reports to supervisors: the probe's answer and systemd's datagram."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from judge_service.server.app import JudgeServer
from judge_service.server.lifecycle.probe import NotServing, probe
from judge_service.server.lifecycle.systemd import notify_supervisor
from tests.support.fakes import FakeEngine
from tests.support.service.certificates import Authority
from tests.support.service.serving import serving, settings


async def run_probe(server: JudgeServer, **values: Any) -> None:
    port = int(server.address.rpartition(":")[2])
    await asyncio.to_thread(probe, settings(port=port, **values), 5.0)


async def test_the_probe_distinguishes_a_serving_server_from_a_loading_one_and_from_none() -> None:
    server = JudgeServer(settings(), FakeEngine())
    await server.start()
    with pytest.raises(NotServing, match="NOT_SERVING"):
        await run_probe(server)
    await server.load()
    await run_probe(server)
    await server.stop()
    with pytest.raises(NotServing, match="UNAVAILABLE"):
        await run_probe(server)


def self_signed(folder: Path, name: str) -> tuple[Path, Path]:
    certificate, key = folder / "self.pem", folder / "self.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=x", "-addext", f"subjectAltName=DNS:{name}"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


async def test_over_tls_the_probe_accepts_any_name_in_the_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.sign("server")
    certificate, key = self_signed(tmp_path, "*.judge.example")
    for values in (
        {"tls_certificate": pair.certificate, "tls_key": pair.key},
        {"tls_certificate": certificate, "tls_key": key},
    ):
        async with serving(FakeEngine(), **values) as server:
            await run_probe(server, **values)
            with pytest.raises(NotServing, match="UNAVAILABLE"):
                await run_probe(server)


async def test_with_mtls_the_probe_presents_the_servers_own_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.sign("server")
    tls = {"tls_certificate": pair.certificate, "tls_key": pair.key}
    async with serving(FakeEngine(), **tls, tls_client_ca=authority.certificate) as server:
        await run_probe(server, **tls, tls_client_ca=authority.certificate)
        with pytest.raises(NotServing):
            await run_probe(server, **tls)


def test_systemd_is_notified_on_a_file_socket_and_an_abstract_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        notify_supervisor("READY=1")
        assert listener.recv(64) == b"READY=1"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0rlaif-test-notify")
        monkeypatch.setenv("NOTIFY_SOCKET", "@rlaif-test-notify")
        notify_supervisor("READY=1")
        assert listener.recv(64) == b"READY=1"


def test_a_missing_supervisor_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify_supervisor("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify_supervisor("READY=1")
