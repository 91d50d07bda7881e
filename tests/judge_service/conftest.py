"""A server with one short constitution and low limits, for tests of what requests may contain."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from judge_service.client.sync import AsyncJudgeClient
from judge_service.v1 import judge_pb2_grpc as pb_grpc
from tests.support.fakes import FakeEngine
from tests.support.service.serving import one_principle, serving


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def client(engine: FakeEngine, tmp_path: Path) -> AsyncIterator[AsyncJudgeClient]:
    async with (
        serving(
            engine,
            constitutions=[one_principle(tmp_path)],
            allow_inline_constitutions=True,
            max_rationale_tokens=8,
            max_write_tokens=300,
            max_principles=3,
        ) as server,
        AsyncJudgeClient(server.address) as client,
    ):
        yield client


@pytest.fixture
async def constitution_service(client: AsyncJudgeClient) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(client.address) as channel:
        yield pb_grpc.ConstitutionServiceStub(channel)


@pytest.fixture
async def judge(client: AsyncJudgeClient) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(client.address) as channel:
        yield pb_grpc.JudgeServiceStub(channel)
