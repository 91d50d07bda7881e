"""Server certificates: unusable files fail the start, and a reload loads renewed ones."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from judge_service.client.sync import AsyncJudgeClient, JudgeRequestError, JudgeUnavailable
from judge_service.errors import ServerStartError
from judge_service.security.pem import PemError, read_pair
from judge_service.server.app import JudgeServer
from tests.support.fakes import FakeEngine
from tests.support.service.certificates import Authority, KeyPair
from tests.support.service.serving import serving, settings


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def own(authority: Authority) -> KeyPair:
    return authority.sign("server")


def tls(pair: KeyPair, **more: Any) -> dict[str, Any]:
    return {"tls_certificate": pair.certificate, "tls_key": pair.key, **more}


def test_unusable_files_fail_the_start(authority: Authority, own: KeyPair, tmp_path: Path) -> None:
    other, junk, absent = authority.sign("other"), tmp_path / "junk", tmp_path / "absent"
    junk.write_text("no certificate")
    wrong: list[tuple[dict[str, Any], str]] = [
        (tls(own, tls_key=other.key), "is not the key of tls_certificate"),
        (tls(own, tls_key=absent), "tls_key .*absent cannot be read: No such file"),
        (tls(own, tls_certificate=absent), "tls_certificate .*absent cannot be read"),
        (tls(own, tls_certificate=tmp_path), "cannot be read: Is a directory"),
        (tls(own, tls_certificate=junk), "must be PEM"),
        (tls(own, tls_key=junk), "must be PEM"),
        (tls(own, tls_client_ca=junk), "tls_client_ca .*junk cannot be used"),
    ]
    for given, problem in wrong:
        with pytest.raises(ServerStartError, match=problem):
            JudgeServer(settings(**given), FakeEngine())


def test_a_pipe_in_place_of_a_key_is_not_waited_for(own: KeyPair, tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "key.pem")
    with pytest.raises(PemError, match=r"tls_key .*key\.pem cannot be read: a pipe or device"):
        read_pair("tls_certificate", own.certificate, "tls_key", pipe)


def test_an_open_bind_needs_tls_and_known_callers(own: KeyPair, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.yaml"
    for refused in ({}, {"tokens": tokens}, tls(own)):
        with pytest.raises(ServerStartError, match="--insecure"):
            settings(host="0.0.0.0", **refused)
    for taken in (tls(own, tokens=tokens), tls(own, tls_client_ca=own.certificate)):
        assert settings(host="0.0.0.0", **taken).with_tls
        assert not settings(host="0.0.0.0", **taken).with_reflection
    assert settings(host="0.0.0.0", insecure=True)


async def test_a_reload_loads_a_renewed_certificate_and_not_a_broken_one(
    authority: Authority, own: KeyPair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "new").mkdir()
    successor = Authority(tmp_path / "new")
    renewed = successor.sign("server")
    async with serving(FakeEngine(), **tls(own)) as server:

        async def trusted_by(one: Authority) -> bool:
            async with AsyncJudgeClient(server.address, ca=one.certificate) as client:
                try:
                    return bool(await client.server_info(timeout=60))
                except JudgeUnavailable:
                    return False

        assert await trusted_by(authority)
        shutil.copy(renewed.certificate, own.certificate)
        with caplog.at_level(logging.ERROR):
            server.reload()  # half of the pair: the old one stays
        assert "is not the key" in caplog.text
        assert await trusted_by(authority)
        shutil.copy(renewed.key, own.key)
        server.reload()
        assert await trusted_by(successor)
        assert not await trusted_by(authority)


def test_the_client_names_the_file_that_it_cannot_use(own: KeyPair, tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"ca": tmp_path / "absent"}, "ca .*absent cannot be read"),
        ({"ca": own.key}, "ca .* cannot be used"),
        ({"certificate": own.certificate}, "give key="),
        ({"key": own.key}, "give certificate="),
        ({"certificate": own.key, "key": own.key}, "must be PEM"),
    ]
    for given, problem in wrong:
        with pytest.raises(JudgeRequestError, match=problem):
            AsyncJudgeClient("judge.example:1", **given)
