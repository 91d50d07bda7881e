"""Hostile constitution names in requests: they never open a file."""

from __future__ import annotations

import builtins
import io
import os
from pathlib import Path
from typing import Any

import grpc
import pytest

from judge_service.v1 import judge_pb2 as pb
from judge_service.v1 import judge_pb2_grpc as pb_grpc
from tests.support.fakes import FakeEngine
from tests.support.service.serving import CHAT, ONE_PRINCIPLE, serving

HOSTILE = [
    "../other", "../../etc/passwd", "/etc/passwd", "./brief.yaml", "brief.yaml", "brief/../brief",
    "library/hhh", "hhh", "harmless.yaml", "~/brief", "$HOME/brief", "file:///etc/passwd",
    "brief\x00.yaml", "brief\n", " brief", "BRIEF", "%2e%2e%2fother", "..\\other", "*", "con", "-",
    "\u202ebrief", "x" * 100_000,
]  # fmt: skip


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every path that Python opens after this fixture is requested."""
    seen: list[str] = []

    def recording(real: Any) -> Any:
        def recorded(path: Any, *more: Any, **keywords: Any) -> Any:
            seen.append(str(path))
            return real(path, *more, **keywords)

        return recorded

    for module, name in ((builtins, "open"), (io, "open"), (os, "open"), (os, "listdir")):
        monkeypatch.setattr(module, name, recording(getattr(module, name)))
    return seen


async def test_a_hostile_name_is_unknown_in_every_call_and_opens_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    served, other = tmp_path / "served", tmp_path / "other.yaml"
    served.mkdir()
    (served / "brief.yaml").write_text(ONE_PRINCIPLE)
    other.write_text(ONE_PRINCIPLE.replace("name: brief", "name: other"))
    monkeypatch.chdir(served)
    async with (
        serving(FakeEngine(), constitutions=["brief.yaml"]) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        judge, constitutions = (
            pb_grpc.JudgeServiceStub(channel),
            pb_grpc.ConstitutionServiceStub(channel),
        )
        # Requested only now, so that the files opened during the start do not count.
        opened: list[str] = request.getfixturevalue("opened")
        for name in HOSTILE:
            for ref in (
                pb.ConstitutionRef(name=name),
                pb.ConstitutionRef(sha256=name),
                pb.ConstitutionRef(name=name, sha256="../other"),
            ):
                pair = pb.ComparePairRequest(
                    **CHAT, response_a="a", response_b="bb", constitution=ref, validate_only=True
                )
                calls = {
                    judge.ComparePair(pair): grpc.StatusCode.INVALID_ARGUMENT,
                    constitutions.GetConstitution(
                        pb.GetConstitutionRequest(constitution=ref)
                    ): grpc.StatusCode.NOT_FOUND,
                }
                for call, code in calls.items():
                    with pytest.raises(grpc.aio.AioRpcError) as raised:
                        await call
                    assert raised.value.code() is code, ascii(name)
                    assert len(str(raised.value.details())) < 1000
                    assert "other.yaml" not in str(raised.value.details())
        assert opened == []
        other.read_text()
        assert opened == [str(other)], "a file that is opened would have been seen"


async def test_the_source_of_yaml_to_validate_is_a_label_and_never_opened(tmp_path: Path) -> None:
    secret = tmp_path / "secret.yaml"
    secret.write_text("canary: 1\n")
    async with (
        serving(FakeEngine()) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = pb_grpc.ConstitutionServiceStub(channel)
        for yaml in (
            "",
            "x: 1\n",
            str(secret),
            f"!include {secret}\n",
            "name: !!python/name:os.system x\n",
        ):
            response = await stub.ValidateConstitution(
                pb.ValidateConstitutionRequest(yaml=yaml, source=str(secret))
            )
            assert response.diagnostics
            assert "canary" not in str(response)
