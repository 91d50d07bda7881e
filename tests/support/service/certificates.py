"""TLS certificates for tests, created with openssl: an authority and certificates it signs."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates for 127.0.0.1 and localhost, valid for two days. Skips the test if openssl
    is missing."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._pair = self._paths(name)
        self._run("req", "-x509", *self._new_key(name), "-out", str(self.certificate), "-days", "2")

    @property
    def certificate(self) -> Path:
        return self._pair.certificate

    def sign(self, name: str) -> KeyPair:
        pair, request = self._paths(name), self._folder / f"{name}.csr"
        names = self._folder / "names"
        names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        self._run("req", *self._new_key(name), "-out", str(request))
        self._run(
            "x509", "-req", "-in", str(request), "-days", "2", "-extfile", str(names),
            "-CA", str(self._pair.certificate), "-CAkey", str(self._pair.key), "-CAcreateserial",
            "-out", str(pair.certificate),
        )  # fmt: skip
        return pair

    def _paths(self, name: str) -> KeyPair:
        return KeyPair(self._folder / f"{name}.pem", self._folder / f"{name}.key")

    def _new_key(self, name: str) -> list[str]:
        key = str(self._paths(name).key)
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        return [*curve, "-keyout", key, "-subj", f"/CN={name}"]

    def _run(self, *arguments: str) -> None:
        openssl = shutil.which("openssl")
        if openssl is None:
            pytest.skip("openssl is not installed")
        subprocess.run([openssl, *arguments], check=True, capture_output=True)
