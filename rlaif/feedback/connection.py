"""Connecting to a judge server: its address, with the token and TLS files of the environment.

    RLAIF_TOKEN         the token that the server requires, as printed by `rlaif token new`
    RLAIF_CA            PEM file with the authority of the server's certificate; enables TLS
    RLAIF_CERTIFICATE   PEM files with this client's own certificate and key,
    RLAIF_KEY           for a server that requires client certificates (mTLS)

The token is not a flag, because every user of the machine can read a process's flags.
"""

from __future__ import annotations

import os
from pathlib import Path

from judge_service.client.sync import JudgeClient


def judge_at(address: str) -> JudgeClient:
    """A client to the server at HOST:PORT (or several, see JudgeClient). Raises JudgeRequestError
    for an invalid address, token or TLS file."""
    return JudgeClient(
        address,
        token=os.environ.get("RLAIF_TOKEN") or None,
        ca=_path("RLAIF_CA"),
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
