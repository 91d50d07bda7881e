"""How the commands reach a judge server: its address, and what the environment says of TLS.

    RLAIF_TOKEN         the token that the server asks for, as `rlaif token new` printed it
    RLAIF_CA            PEM file with the authority that signed the server's certificate: use TLS
    RLAIF_CERTIFICATE   PEM files with this client's own certificate and key,
    RLAIF_KEY           for a server that asks for one (mTLS)

A token is never a flag: the flags of a process can be read by everybody on the machine.
"""

from __future__ import annotations

import os
from pathlib import Path

from judge_service.client.sync import JudgeClient


def judge_at(address: str) -> JudgeClient:
    """A client to the server at HOST:PORT (or several, see JudgeClient). Raises JudgeRequestError
    for what cannot be used."""
    return JudgeClient(
        address,
        token=os.environ.get("RLAIF_TOKEN") or None,
        ca=_path("RLAIF_CA"),
        certificate=_path("RLAIF_CERTIFICATE"),
        key=_path("RLAIF_KEY"),
    )


def wait_until_ready(client: JudgeClient, seconds: float) -> None:
    """Return once the server serves; meanwhile a spinner on a terminal says what it waits for.

    Raises JudgeUnavailable when the time is up or the server's engine died.
    """
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status(escape(f"waiting for the judge at {client.address}")) as shown:
        client.wait_until_ready(
            seconds, lambda state, waited: shown.update(escape(f"{state} ({waited:.0f} s)"))
        )


def _path(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None
