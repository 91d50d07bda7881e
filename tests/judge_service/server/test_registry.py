"""Constitutions by name and digest, and edits of their files while the server runs."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path

import grpc
import pytest

from judge_service.errors import InvalidRequest
from judge_service.server import run as server_module
from judge_service.server.lifecycle import reload as reloading
from judge_service.server.registry import ConstitutionRegistry
from judge_service.v1 import judge_pb2 as pb
from judge_service.v1 import judge_pb2_grpc as pb_grpc
from tests.support.fakes import FakeEngine
from tests.support.service.serving import CHAT, ONE_PRINCIPLE, one_principle, serving
from tests.support.waiting import until, until_answered

EDITED = ONE_PRINCIPLE.replace("1.0.0", "1.1.0").replace("says more", "says less")


@pytest.fixture
def constitution_file(tmp_path: Path) -> Path:
    return Path(one_principle(tmp_path))


def test_a_reload_serves_the_edited_file_and_still_knows_the_old_digest(
    constitution_file: Path,
) -> None:
    registry = ConstitutionRegistry([str(constitution_file), "hhh"], 64)
    before = registry.find("brief", "")
    constitution_file.write_text(EDITED)
    assert registry.reload() == [f"brief is now 1.1.0 (sha256 {registry.find('', '').digest[:12]})"]
    assert registry.find("brief", "").principles[0].compare == "Prefer the reply that says less."
    assert registry.find("brief", before.digest) is before
    assert [s.version for s in registry.summaries if s.name == "brief"] == ["1.1.0"]
    assert registry.reload() == []


def test_a_pipe_in_place_of_a_file_is_not_waited_for(constitution_file: Path) -> None:
    registry = ConstitutionRegistry([str(constitution_file)], 64)
    before = registry.find("brief", "")
    constitution_file.unlink()
    os.mkfifo(constitution_file)
    assert registry.changed() or registry.changed()
    (problem,) = registry.reload()
    assert "is a pipe or device, brief stays as it was" in problem
    assert registry.find("brief", "") is before


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("principles: [", "not valid YAML"),
        (EDITED.replace("name: brief", "name: hhh"), "two constitutions are called 'hhh'"),
        (EDITED.replace("traits:", "trait:"), "trait"),
        ("", "brief.yaml"),
    ],
)
def test_an_unusable_file_leaves_the_constitution_as_it_was(
    constitution_file: Path, text: str, why: str
) -> None:
    registry = ConstitutionRegistry([str(constitution_file), "hhh"], 64)
    before = registry.find("brief", "")
    constitution_file.write_text(text)
    (problem,) = registry.reload()
    assert "brief stays as it was" in problem
    assert why in problem
    assert registry.find("brief", "") is before
    constitution_file.unlink()
    (problem,) = registry.reload()
    assert "brief stays as it was" in problem


def test_an_edit_that_changes_no_digest_is_not_reported(constitution_file: Path) -> None:
    registry = ConstitutionRegistry([str(constitution_file)], 64)
    constitution_file.write_text("# a remark\n" + ONE_PRINCIPLE)
    assert registry.reload() == []


def test_a_digest_of_another_name_is_refused(constitution_file: Path) -> None:
    registry = ConstitutionRegistry([str(constitution_file), "hhh"], 64)
    with pytest.raises(InvalidRequest, match="no such hhh"):
        registry.find("hhh", registry.find("brief", "").digest)


async def test_a_saved_file_is_served_and_work_in_flight_keeps_its_version(
    constitution_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reloading, "_POLL_SECONDS", 0.02)
    engine = FakeEngine()
    async with (
        serving(engine, constitutions=(str(constitution_file),)) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = pb_grpc.JudgeServiceStub(channel)
        request = pb.ComparePairRequest(response_a="a", response_b="bb", **CHAT)
        engine.hold()
        begun = asyncio.ensure_future(stub.ComparePair(request))
        await until(lambda: engine.in_flight)
        with caplog.at_level(logging.WARNING, logger="judge_service"):
            constitution_file.write_text(EDITED)
            await until(lambda: "brief is now 1.1.0" in caplog.text)
        assert not begun.done()
        engine.release()
        old, new = await begun, await stub.ComparePair(request)
    assert old.judgment.provenance.constitution.version == "1.0.0"
    assert new.judgment.provenance.constitution.version == "1.1.0"


async def test_sighup_reads_the_constitutions_again(constitution_file: Path) -> None:
    """Through `serve`, which owns the process's signals."""
    from tests.support.service.serving import settings

    versions: list[str] = []
    served = asyncio.Event()
    running = asyncio.ensure_future(
        server_module.serve(
            settings(constitutions=(str(constitution_file),)),
            FakeEngine(),
            ready=lambda at: (versions.append(at), served.set()),
        )
    )
    await asyncio.wait_for(served.wait(), 120)
    async with grpc.aio.insecure_channel(versions[0]) as channel:
        stub = pb_grpc.ConstitutionServiceStub(channel)
        constitution_file.write_text(EDITED)
        os.kill(os.getpid(), signal.SIGHUP)

        async def version() -> str:
            response = await stub.ListConstitutions(pb.ListConstitutionsRequest())
            return str(response.constitutions[0].version)

        await until_answered(version, "1.1.0")
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, 120)
