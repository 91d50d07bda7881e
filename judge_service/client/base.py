"""What the sync and the aio client share: everything but the calls themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from constitution.errors import UserError
from judge_service.client.calls import ConstitutionRef, sendable_ref
from judge_service.client.channel import connection
from judge_service.client.resumable_stream import ResumableStream
from judge_service.errors import JudgeUnavailable
from judge_service.observability.tracing import outgoing
from judge_service.server_info import ServerInfo, ServerState
from judge_service.status import Failure
from judge_service.types import Comparison, JudgeOptions, WritingOptions
from judge_service.v1 import judge_pb2_grpc as pb_grpc

DEFAULT_MAX_MESSAGE_BYTES = 4 * 2**20
"""The server's default too."""

_DOING = {
    ServerState.LOADING: "still loading its model",
    ServerState.DRAINING: "stopping",
    ServerState.FAILED: "failed",
}

RECOMMENDED = JudgeOptions()
RECOMMENDED_WRITING = WritingOptions()
POLL_SECONDS = 0.25
PROBE_SECONDS = 2.0

Progress = Callable[[str, float], None]
"""Called while waiting, with what is being waited for and the seconds waited."""


def stubs(channel: Any) -> dict[str, Any]:
    """The calls of both services by the name of their RPC."""
    services = (pb_grpc.JudgeServiceStub(channel), pb_grpc.ConstitutionServiceStub(channel))  # type: ignore[no-untyped-call]
    return {rpc: call for service in services for rpc, call in vars(service).items()}


class ClientBase:
    """The settings of a client.

    address: host:port, several of them with commas between, or a gRPC target with its scheme; the
    replicas behind it are asked in turn. timeout: of one call, seconds; a stream has none.
    reconnect_seconds: how long a stream goes on without answers before it gives up.

    token: what `rlaif token new` printed, for a server that asks for one; refused over plain text
    beyond this machine. ca: PEM file with the authority that signed the server's certificate; it
    makes the connection TLS. certificate, key: PEM files with this client's own, for mTLS; without
    `ca` the authorities that gRPC ships are trusted.

    Raises JudgeRequestError for what cannot be used of these.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float = 600.0,
        reconnect_seconds: float = 30.0,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        token: str | None = None,
        ca: Path | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
    ) -> None:
        self.address = address
        self._timeout = timeout
        self._reconnect_seconds = reconnect_seconds
        self._max_message_bytes = max_message_bytes
        self._connection = connection(
            address, max_message_bytes, token=token, ca=ca, certificate=certificate, key=key
        )

    def _session(
        self,
        comparisons: Iterable[Comparison],
        constitution: ConstitutionRef,
        options: JudgeOptions,
    ) -> ResumableStream:
        return ResumableStream(
            comparisons,
            sendable_ref(constitution),
            options,
            address=self.address,
            max_message_bytes=self._max_message_bytes,
            reconnect_seconds=self._reconnect_seconds,
        )

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes along with a call: the token, and the trace that it belongs to."""
        return (*self._connection.metadata, *outgoing())

    def _explain(self, error: Any) -> UserError:
        return Failure.from_rpc_error(error).explain(self.address)


class Waiting:
    """Decides, probe by probe, whether waiting for a server is over."""

    def __init__(self, address: str, timeout: float, progress: Progress | None) -> None:
        self._address = address
        self._timeout = timeout
        self._progress = progress
        self._started = time.monotonic()

    def is_over(self, found: ServerInfo | JudgeUnavailable) -> bool:
        """Raises JudgeUnavailable when the server failed or the time is up."""
        if isinstance(found, JudgeUnavailable):
            state, problem = f"no judge answers at {self._address} yet", str(found)
        elif found.state is ServerState.SERVING:
            return True
        else:
            state = problem = f"the judge at {self._address} is {_DOING[found.state]}"
            if found.state is ServerState.FAILED:
                raise JudgeUnavailable(f"{state}: its engine died; restart it and see its log")
        waited = time.monotonic() - self._started
        if waited >= self._timeout:
            raise JudgeUnavailable(f"{problem} (waited {waited:.0f} s)")
        if self._progress is not None:
            self._progress(state, waited)
        return False
