"""Connecting to a judge server: its address, with a token and TLS files.

They come from the environment, or from `credentials_given` (a command's --token and --ca), which
takes precedence:

    RLAIF_TOKEN         the token that the server requires, as printed by `rlaif token new`
    RLAIF_CA            PEM file with the authority of the server's certificate; enables TLS
    RLAIF_CERTIFICATE   PEM files with this client's own certificate and key,
    RLAIF_KEY           for a server that requires client certificates (mTLS)
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from judge_service.client.sync import JudgeClient

ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+):\d{1,5}")
"""HOST:PORT of a server, where it stands among names of models."""


@dataclass(frozen=True, slots=True)
class _Given:
    """Credentials that take precedence over the environment's; empty ones do not."""

    token: str = field(default="", repr=False)
    ca: Path | None = None


_given: ContextVar[_Given | None] = ContextVar("credentials", default=None)


@contextmanager
def credentials_given(token: str = "", ca: Path | None = None) -> Iterator[None]:
    """Connections opened inside the block use these in place of RLAIF_TOKEN and RLAIF_CA."""
    before = _given.set(_Given(token, ca))
    try:
        yield
    finally:
        _given.reset(before)


def judge_at(address: str) -> JudgeClient:
    """A client to the server at HOST:PORT (or several, see JudgeClient). Raises JudgeRequestError
    for an invalid address, token or TLS file."""
    given = _given.get() or _Given()
    return JudgeClient(
        address,
        token=given.token or os.environ.get("RLAIF_TOKEN") or None,
        ca=given.ca or _path("RLAIF_CA"),
        certificate=_path("RLAIF_CERTIFICATE"),
        key=_path("RLAIF_KEY"),
    )


def wait_until_ready(client: JudgeClient, seconds: float) -> None:
    """Return once the server is ready; meanwhile, a spinner on a terminal shows its state.

    Raises JudgeUnavailable after `seconds`, or when the server's engine has died.
    """
    from rich.console import Console
    from rich.markup import escape

    text = escape(f"waiting for the judge at {client.address}")
    with Console(stderr=True).status(text) as spinner:
        client.wait_until_ready(
            seconds, lambda state, waited: spinner.update(escape(f"{state} ({waited:.0f} s)"))
        )


def _path(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None
