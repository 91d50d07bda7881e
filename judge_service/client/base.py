"""Shared by the sync and the aio client: settings, connection, waiting for a server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from constitution.errors import UserError
from judge_service.client.balanced_stream import BalancedStream
from judge_service.client.calls import ConstitutionRef, sendable_ref
from judge_service.client.channel import connection, listed_connections
from judge_service.client.replicas import one_judge
from judge_service.client.resumable_stream import ResumableStream
from judge_service.client.stream_requests import StreamRequests
from judge_service.errors import JudgeUnavailable
from judge_service.observability.tracing import outgoing
from judge_service.server_info import ServerInfo, ServerState
from judge_service.status import Failure
from judge_service.types import Comparison, JudgeOptions, WritingOptions
from judge_service.v1 import judge_pb2_grpc as pb_grpc

DEFAULT_MAX_MESSAGE_BYTES = 4 * 2**20
"""The same as the server's default."""

_STATES = {
    ServerState.LOADING: "still loading its model",
    ServerState.DRAINING: "stopping",
    ServerState.FAILED: "failed",
}

RECOMMENDED = JudgeOptions()
RECOMMENDED_WRITING = WritingOptions()
POLL_SECONDS = 0.25
PROBE_SECONDS = 2.0
INFO_SECONDS = 10.0
"""How long each of several servers has to say what it is."""

Progress = Callable[[str, float], None]
"""Called while waiting, with the server's state in words and the seconds waited."""


def stubs(channel: Any) -> dict[str, Any]:
    """The stubs of both services, by the RPC's name: {"ComparePair": ..., "GetConstitution": ...}.

    channel: of `grpc` or of `grpc.aio`; the stubs return responses or awaitables accordingly.
    """
    services = (pb_grpc.JudgeServiceStub(channel), pb_grpc.ConstitutionServiceStub(channel))  # type: ignore[no-untyped-call]
    return {rpc: call for service in services for rpc, call in vars(service).items()}


@dataclass(frozen=True)
class Replica:
    """One of several servers: its address, its channel and the stubs of it, by the RPC's name."""

    address: str
    channel: Any
    stubs: dict[str, Any]


class ClientBase:
    """Address, credentials and time limits, which both clients share. Connects at the first call.

    address: host:port, several of them separated by commas, or a gRPC target with its scheme; calls
    alternate between the replicas behind it. Of several listed servers a stream uses all at once;
    they must be the same judge: `server_info` and streams compare them. timeout: seconds for a call
    that names no other; a stream has none. reconnect_seconds: how long a stream tries to reconnect
    before it gives up. max_message_bytes: of a request or response; no larger than the server's
    setting.

    token: printed by `rlaif token new`, for a server that requires one; refused over plain text
    beyond this machine. ca: PEM file with the authority that signed the server's certificate; turns
    on TLS. certificate, key: PEM files with this client's own, for mTLS; without `ca` the
    authorities that gRPC ships are trusted.

    Raises JudgeRequestError for invalid settings, and JudgeUnavailable when none of several hosts
    can be resolved.
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
        self._replicas: tuple[Replica, ...] = ()
        self._timeout = timeout
        self._reconnect_seconds = reconnect_seconds
        self._max_message_bytes = max_message_bytes
        self._connection = connection(
            address, max_message_bytes, token=token, ca=ca, certificate=certificate, key=key
        )

    def _open_replicas(self, grpc_kind: Any) -> tuple[Replica, ...]:
        """Each of several listed servers; none for any other address. grpc_kind: as of channels."""
        listed = listed_connections(self.address, self._connection, self._max_message_bytes)
        channels = {place: each.channel(grpc_kind) for place, each in listed.items()}
        return tuple(Replica(place, each, stubs(each)) for place, each in channels.items())

    def _session(self, requests: StreamRequests) -> ResumableStream:
        return ResumableStream(
            requests, address=self.address, reconnect_seconds=self._reconnect_seconds
        )

    def _balanced(self, requests: StreamRequests) -> BalancedStream:
        addresses = [replica.address for replica in self._replicas]
        return BalancedStream(requests, addresses, reconnect_seconds=self._reconnect_seconds)

    def _requests(
        self,
        comparisons: Iterable[Comparison],
        constitution: ConstitutionRef,
        options: JudgeOptions,
    ) -> StreamRequests:
        return StreamRequests(
            comparisons,
            sendable_ref(constitution),
            options,
            max_message_bytes=self._max_message_bytes,
        )

    def _together(self, infos: Mapping[str, ServerInfo | Any]) -> ServerInfo:
        """The info of several servers together; of one that does not answer it is a grpc.RpcError.

        Raises JudgeRequestError where two are not the same judge or one refuses this caller, and
        JudgeUnavailable where none answers.
        """
        errors = {
            address: Failure.from_rpc_error(answer).explain(address)
            for address, answer in infos.items()
            if not isinstance(answer, ServerInfo)
        }
        for error in errors.values():
            if not isinstance(error, JudgeUnavailable):
                raise error
        if len(errors) == len(infos):
            raise self._explain(next(iter(infos.values())))
        return one_judge({at: info for at, info in infos.items() if isinstance(info, ServerInfo)})

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of a call: the token, and the trace that it belongs to."""
        return (*self._connection.metadata, *outgoing())

    def _explain(self, error: Any) -> UserError:
        return Failure.from_rpc_error(error).explain(self.address)


class Waiting:
    """Decides after each probe whether waiting for a server is over.

    timeout: seconds from its creation on. progress: called by `is_over` while it is not.
    """

    def __init__(self, address: str, timeout: float, progress: Progress | None) -> None:
        self._address = address
        self._timeout = timeout
        self._progress = progress
        self._started = time.monotonic()

    def is_over(self, probed: ServerInfo | JudgeUnavailable) -> bool:
        """Whether the probed server is serving; `probed` is its info, or why it gave none.

        Raises JudgeUnavailable if the server has failed or the time is up.
        """
        if isinstance(probed, JudgeUnavailable):
            state, problem = f"no judge answers at {self._address} yet", str(probed)
        elif probed.state is ServerState.SERVING:
            return True
        else:
            state = problem = f"the judge at {self._address} is {_STATES[probed.state]}"
            if probed.state is ServerState.FAILED:
                raise JudgeUnavailable(f"{state}: its engine died; see its log and restart it")
        waited = time.monotonic() - self._started
        if waited >= self._timeout:
            raise JudgeUnavailable(f"{problem} (waited {waited:.0f} s)")
        if self._progress is not None:
            self._progress(state, waited)
        return False
