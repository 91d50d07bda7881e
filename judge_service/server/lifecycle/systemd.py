"""Readiness notification for systemd (sd_notify(3)): one datagram to $NOTIFY_SOCKET.

With Type=notify a unit counts as started once the judge is warm, and units ordered after it wait
for that.
"""

from __future__ import annotations

import logging
import os
import socket

_log = logging.getLogger("judge_service")


def notify_supervisor(state: str) -> None:
    """Send a state such as "READY=1"; a socket that cannot be reached is only logged."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # Linux's abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.connect(address)
            notify.sendall(state.encode())
    except OSError as error:
        _log.warning("cannot notify the supervisor at $NOTIFY_SOCKET of %s: %s", state, error)
