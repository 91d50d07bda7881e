"""What a server tells the systemd that started it (sd_notify(3)): one datagram to $NOTIFY_SOCKET.

With Type=notify a unit counts as started when the judge is warm, not when its process exists, and
what is ordered after it waits for that.
"""

from __future__ import annotations

import logging
import os
import socket

_log = logging.getLogger("judge_service")


def notify_supervisor(state: str) -> None:
    """Send a state such as "READY=1". Nobody listening is no error."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # a name without a file
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.connect(address)
            notify.sendall(state.encode())
    except OSError as error:
        _log.warning("the supervisor at $NOTIFY_SOCKET was not told %s: %s", state, error)
