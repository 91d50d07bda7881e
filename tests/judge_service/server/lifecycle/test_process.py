"""A server as a process of its own: its log unread, and its end while the model loads.

The timeouts only guard against hanging; nothing here is measured.
"""

from __future__ import annotations

import fcntl
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from judge_service.v1 import judge_pb2 as pb
from judge_service.v1 import judge_pb2_grpc as pb_grpc
from tests.support.service.raw_http2 import (
    END_HEADERS,
    END_STREAM,
    HEADERS,
    SETTINGS,
    frame,
    literal,
)
from tests.support.service.server_process import free_port
from tests.support.service.serving import one_principle

ROOT = Path(__file__).parents[4]
HANGS = 300  # seconds

SERVE = """
import asyncio, logging, sys, threading
from judge_service.engines import ENGINES
from judge_service.server.run import run
from judge_service.settings import ServerSettings
from tests.support.fakes import FakeEngine

class Loading(FakeEngine):
    async def start(self):
        print("engine starts", flush=True)
        await asyncio.to_thread(threading.Event().wait)

class Chatty(FakeEngine):
    async def start(self):
        for number in range(500):
            logging.getLogger("judge_service").warning("line %d", number)
        await super().start()

ENGINES["vllm"] = lambda settings: {engine}()
run(ServerSettings(model="fake", port=0, constitutions=({constitution!r},)))
"""


@contextmanager
def server(folder: Path, engine: str) -> Iterator[subprocess.Popen[bytes]]:
    script = SERVE.format(engine=engine, constitution=one_principle(folder))
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def until(process: subprocess.Popen[bytes], begins: bytes) -> bytes:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(begins):
            return line
    raise AssertionError(f"the server ended before it printed {begins!r}")


def test_a_server_whose_log_nobody_reads_answers(tmp_path: Path) -> None:
    with server(tmp_path, "FakeEngine") as process:
        assert process.stderr is not None
        fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)  # thirty lines
        address = until(process, b"serving on ").split()[-1].decode()
        with grpc.insecure_channel(address) as channel:
            stub = pb_grpc.ConstitutionServiceStub(channel)
            for _ in range(200):
                stub.ListConstitutions(pb.ListConstitutionsRequest(), timeout=HANGS)
        process.send_signal(signal.SIGTERM)
        assert process.wait(HANGS) == 0


def test_a_server_serves_and_stops_whose_output_nobody_reads(tmp_path: Path) -> None:
    port = free_port()
    script = SERVE.format(engine="Chatty", constitution=one_principle(tmp_path))
    script = script.replace("port=0", f"port={port}")
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pipesize=4096,
        cwd=ROOT,
    ) as process:
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = pb_grpc.JudgeServiceStub(channel)
                state = pb.SERVER_STATE_UNSPECIFIED
                while state != pb.SERVER_STATE_SERVING:
                    info = stub.GetServerInfo(
                        pb.GetServerInfoRequest(), timeout=HANGS, wait_for_ready=True
                    )
                    state = info.state
                stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=HANGS)
            process.send_signal(signal.SIGTERM)
            assert process.wait(HANGS) == 0
        finally:
            process.kill()


def test_the_log_has_no_lines_past_its_queue_that_a_client_can_cause(tmp_path: Path) -> None:
    with server(tmp_path, "FakeEngine") as process:
        address = until(process, b"serving on ").split()[-1].decode()
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port))) as client:
            request = {
                ":method": "POST",
                ":scheme": "http",
                ":path": "/grpc.health.v1.Health/Check",
                ":authority": address,
                "te": "trailers",
                "content-type": "application/grpc",
                "grpc-timeout": "of no unit",
            }
            block = b"".join(literal(name, value) for name, value in request.items())
            client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS))
            client.sendall(frame(HEADERS, END_HEADERS | END_STREAM, 1, block))
            while client.recv(65536):  # until its answer
                with grpc.insecure_channel(address) as channel:
                    stub = pb_grpc.ConstitutionServiceStub(channel)
                    stub.ListConstitutions(pb.ListConstitutionsRequest(), timeout=HANGS)
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(HANGS) == 0
        assert process.stderr is not None
        assert b"grpc-timeout" not in process.stderr.read()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_server_is_stopped_while_its_model_loads_and_says_so(
    signum: signal.Signals, tmp_path: Path
) -> None:
    with server(tmp_path, "Loading") as process:
        until(process, b"engine starts")
        process.send_signal(signum)
        until(process, b"stopped while the model was loading")
        assert process.wait(HANGS) == 0
