"""What an operator can set of a judge server. Each default is the vetted setting."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from constitution.schema import nearest
from judge_service.errors import ServerStartError


class ServerSettings(BaseModel):
    """Raises ServerStartError, naming each wrong setting; for an unknown one the nearest known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1, description="Judge model: a folder or a hub id.")
    constitutions: tuple[str, ...] = Field(
        ("hhh",),
        min_length=1,
        description="Shipped names or YAML files to judge by; the first is the default.",
    )
    allow_inline_constitutions: bool = Field(
        False,
        description="Take constitutions that come with a request, as YAML text: "
        "whoever may ask then decides what the judge is told.",
    )
    calibrations: tuple[str, ...] = Field(
        (),
        description="Calibration files; each applies to the model and constitution it was "
        "fitted for.",
    )
    host: str = Field(
        "127.0.0.1",
        description="Address to listen on. Anything but loopback needs `insecure`, "
        "because this server has neither TLS nor authentication yet.",
    )
    port: int = Field(50051, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    insecure: bool = Field(
        False, description="Listen beyond this machine although anybody there may then ask."
    )
    reflection: bool | None = Field(
        None, description="gRPC server reflection. None: only on loopback."
    )
    kv_cache_gib: float | None = Field(
        None, gt=0, description="Memory of the engine's KV cache, GiB. None: the engine's default."
    )
    max_context_tokens: int | None = Field(
        None, ge=64, description="Longest judge prompt, tokens. None: the engine's default."
    )
    store: Path | None = Field(
        None,
        description="File that keeps what the judge has read, so that nothing is computed twice; "
        "servers on one machine may share it. None: a temporary one, gone with the server.",
    )
    max_concurrent_rpcs: int = Field(
        256,
        ge=1,
        description="Calls at the same time, a stream counting as one; those above are refused.",
    )
    max_message_bytes: int = Field(
        4 * 2**20, ge=1024, description="Largest request or response, bytes (gRPC's own default)."
    )
    max_stream_in_flight: int = Field(
        64, ge=1, le=4096, description="Items of one stream that are taken and not yet answered."
    )
    max_candidates: int = Field(
        32, ge=2, description="Candidates of one ranking: 32 make up to 112 pairs."
    )
    max_principles: int = Field(
        64, ge=1, description="Principles of one constitution: each costs two reads a comparison."
    )
    max_rationale_tokens: int = Field(
        512, ge=0, description="Tokens of one rationale; 0 allows none. Each read writes its own."
    )
    max_write_tokens: int = Field(1024, ge=1, description="Tokens of one critique or revision.")
    grace_seconds: float = Field(
        10.0, ge=0, description="How long SIGTERM lets calls finish that have begun, seconds."
    )
    exit_on_stdin_close: bool = Field(
        False,
        description="Stop when standard input ends: a server started over a pipe then never "
        "outlives the process that started it, however that one dies.",
    )

    if not TYPE_CHECKING:

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                known = list(type(self).model_fields)
                raise ServerStartError(
                    "\n".join(_explain(problem, known) for problem in error.errors())
                ) from None
            if not self.on_loopback and not self.insecure:
                raise ServerStartError(
                    f"host {self.host} is not loopback, and this server has no TLS yet: listen on "
                    "127.0.0.1, or accept that anybody who reaches it may use it, with --insecure"
                )

    @property
    def on_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    @property
    def with_reflection(self) -> bool:
        return self.on_loopback if self.reflection is None else self.reflection


def _explain(problem: Any, known: list[str]) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown setting '{name}'; {nearest(name, known) or 'known: ' + ', '.join(known)}"
    return f"setting '{name}': {problem['msg']} (found {problem['input']!r})"
