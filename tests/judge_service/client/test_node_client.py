"""The client of examples/clients/node, installed by npm into a copy, against a local server.

It is skipped, and says so, only where Node is missing; outside CI also without a package registry.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from judge_service.server.app import JudgeServer
from tests.support.fakes import FakeEngine
from tests.support.service.server_process import free_port
from tests.support.service.serving import one_principle, serving, settings

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = Path("examples/clients/node")
INSTALL = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=2"]
NO_REGISTRY = re.compile(
    r"\b(ENOTFOUND|EAI_AGAIN|ECONN\w+|ETIMEDOUT|ERR_SOCKET_TIMEOUT|ENETUNREACH|EHOSTUNREACH"
    r"|ENOTCACHED|E40[137]|E5\d\d|\w*_CERT\w*|CERT_\w+)\b"
)

pytestmark = pytest.mark.integration  # it downloads two packages and what they need


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of the example's client.js beside its packages, in a copy of the tree."""
    for command in ("node", "npm"):
        if shutil.which(command) is None:
            pytest.skip(f"not run: {command} is not installed")
    tree = tmp_path_factory.mktemp("node")
    shutil.copytree(ROOT / "protos", tree / "protos")
    (tree / EXAMPLE).mkdir(parents=True)
    for name in ("package.json", "client.js"):
        shutil.copy(ROOT / EXAMPLE / name, tree / EXAMPLE)
    install = subprocess.run(
        INSTALL, cwd=tree / EXAMPLE, capture_output=True, text=True, check=False, timeout=300
    )
    unreachable = NO_REGISTRY.search(install.stderr) if install.returncode else None
    if unreachable and not os.environ.get("CI"):
        pytest.skip(f"not run: npm reaches no package registry: {unreachable[0]}")
    assert install.returncode == 0, install.stderr
    return tree / EXAMPLE / "client.js"


async def run(client: Path, address: str) -> tuple[int | None, str, str]:
    """(exit status, stdout, stderr) of the client against the server at this address."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        "node", str(client), address, cwd=client.parent, stdout=pipe, stderr=pipe
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


async def test_node_prints_the_verdict_and_its_probability(client: Path, tmp_path: Path) -> None:
    async with serving(FakeEngine(), constitutions=[one_principle(tmp_path)]) as server:
        assert await run(client, server.address) == (0, "VERDICT_A 0.909\n", "")


async def test_node_prints_why_there_is_no_label(client: Path, tmp_path: Path) -> None:
    wordy = FakeEngine(lambda prompt: (-9.0, -9.0))  # all mass on words other than the labels
    async with serving(wordy, constitutions=[one_principle(tmp_path)]) as server:
        status, out, err = await run(client, server.address)
    assert (status, err) == (0, "")
    assert out.startswith("VERDICT_ABSTAIN ABSTENTION_REASON_LOW_LABEL_MASS: ")


async def test_node_prints_the_error_and_fails_without_a_server_that_is_ready(
    client: Path, tmp_path: Path
) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    status, out, err = await run(client, nobody)
    assert (status, out) == (1, "")
    assert err.startswith(f"error: {nobody}: 14 UNAVAILABLE: ")

    loading = JudgeServer(settings(constitutions=[one_principle(tmp_path)]), FakeEngine())
    await loading.start()
    try:
        status, out, err = await run(client, loading.address)
    finally:
        await loading.stop()
    assert (status, out) == (1, "")
    assert err.startswith(f"error: {loading.address}: 14 UNAVAILABLE: ")
    assert "load" in err
