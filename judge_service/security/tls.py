"""TLS of the server: its certificate and, with `tls_client_ca`, that of callers (mTLS).

The files are PEM, the certificate's with its whole chain. They are read at the start and again by
`reload`: later handshakes use the new ones, and open connections continue.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import grpc

from judge_service.errors import ServerStartError
from judge_service.security.pem import PemError, read_authority, read_pair
from judge_service.settings import ServerSettings


class ServerTls:
    """The PEM files of a server with TLS (`settings.with_tls`).

    Raises ServerStartError, naming setting, file and remedy.
    """

    def __init__(self, settings: ServerSettings) -> None:
        assert settings.tls_certificate is not None
        assert settings.tls_key is not None
        self._pair = (settings.tls_certificate, settings.tls_key)
        self._client_ca = settings.tls_client_ca
        self._first = self._read()
        self._renewed: deque[Any] = (
            deque()
        )  # not yet handed to gRPC, which fetches them in its own thread

    def credentials(self) -> Any:
        """grpc.ServerCredentials for `add_secure_port`."""
        return grpc.dynamic_ssl_server_credentials(
            self._first, self._take_renewed, require_client_authentication=bool(self._client_ca)
        )

    def reload(self) -> None:
        """Read the files again. Raises ServerStartError, and then the old ones stay in use."""
        self._renewed.append(self._read())

    def _read(self) -> Any:
        certificate, key = self._pair
        try:
            pair = read_pair("tls_certificate", certificate, "tls_key", key)
            ca = self._client_ca
            roots = None if ca is None else read_authority("tls_client_ca", ca)
        except PemError as error:
            raise ServerStartError(str(error)) from None
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)

    def _take_renewed(self) -> Any | None:
        """Called by gRPC before each handshake; None: nothing is newer."""
        renewed = None
        while self._renewed:
            renewed = self._renewed.popleft()
        return renewed
