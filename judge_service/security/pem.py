"""Certificates and keys from PEM files, validated before gRPC gets them.

gRPC accepts any bytes and fails the handshakes later, with a line in its log. Python's ssl reports
the problem at once. Used by server and client; imports only the standard library.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from constitution.errors import UserError


class PemError(UserError):
    """An invalid certificate or key. Names the setting, the file and the remedy."""


def read_pair(
    certificate_setting: str, certificate: Path, key_setting: str, key: Path
) -> tuple[bytes, bytes]:
    """(key, certificate chain), as gRPC's pairs are ordered. Raises PemError."""
    chain, private = _read(certificate_setting, certificate), _read(key_setting, key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, _no_password)
    except ssl.SSLError as error:
        if "MISMATCH" in str(error):
            raise PemError(
                f"{key_setting} {key} is not the key of {certificate_setting} {certificate}; "
                "give a certificate and its own key"
            ) from None
        raise PemError(
            f"{certificate_setting} {certificate} and {key_setting} {key} cannot be used "
            f"({error.reason or 'not PEM'}); both must be PEM, the key without a password"
        ) from None
    return private, chain


def read_authority(setting: str, path: Path) -> bytes:
    """The certificates of an authority. Raises PemError."""
    content = _read(setting, path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:
        raise PemError(
            f"{setting} {path} cannot be used ({error.reason or 'not PEM'}); "
            "it must hold certificates as PEM"
        ) from None
    return content


def _read(setting: str, path: Path) -> bytes:
    place = Path(path)  # a caller may give text
    try:
        if place.exists() and not (place.is_file() or place.is_dir()):
            raise PemError(f"{setting} {path} cannot be read: a pipe or device; give a file")
        return place.read_bytes()
    except OSError as error:
        raise PemError(f"{setting} {path} cannot be read: {error.strerror}") from None


def _no_password() -> str:
    return ""  # instead of a prompt on the terminal
