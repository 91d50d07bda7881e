"""The dependency audit's result: of JSON written by hand, and of pip-audit with a service here."""

from __future__ import annotations

import importlib.util
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parent.parent / ".ci" / "audit.py"


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CLEAN = {"name": "grpcio", "version": "1.85", "vulns": []}
UNKNOWN = {"name": "torch", "skip_reason": "Dependency not found on PyPI"}


def vulnerable(*fixes: str) -> dict[str, Any]:
    return {"name": "x", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": list(fixes)}]}


def test_a_vulnerability_with_a_fixed_version_fails_and_names_it(audit: ModuleType) -> None:
    passes, lines = audit.report([CLEAN, vulnerable("1.1", "2.0"), UNKNOWN])
    assert not passes
    assert lines == [
        "audit: 2 of 3 packages audited: grpcio 1.85, x 1",
        "audit: not audited, no advisory data about them: torch",
        "audit: x 1: CVE-1: fixed in 1.1, 2.0",
        "audit: 1 known vulnerabilities, 1 with a remedy",
    ]


def test_a_vulnerability_without_a_fix_is_listed_and_passes(audit: ModuleType) -> None:
    passes, lines = audit.report([vulnerable()])
    assert passes
    assert lines[1] == "audit: x 1: CVE-1: no remedy"


def test_an_audit_without_data_says_that_nothing_was_audited(audit: ModuleType) -> None:
    passes, lines = audit.report([UNKNOWN, UNKNOWN])
    assert passes
    assert "none of 2 packages was audited" in lines[0]


def test_only_a_service_that_cannot_be_reached_excuses_a_missing_audit(audit: ModuleType) -> None:
    passes, line = audit.failure("Traceback ...\nrequests.exceptions.ConnectionError: refused\n")
    assert passes
    assert "could not reach its data (requests.exceptions.ConnectionError: refused)" in line
    for stderr in (
        "pip_audit: error: unrecognized arguments: --x",
        "No module named pip_audit",
        "",
    ):
        passes, line = audit.failure(stderr)
        assert not passes
        assert "could not reach" not in line


# ── pip-audit itself, with two packages and an advisory service on this machine ──────────────


class Advisories(BaseHTTPRequestHandler):
    """Answers queries as osv.dev does: one advisory about version 1.0 of `mended`."""

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        events = [{"introduced": "0"}, {"fixed": "1.1"}]
        affected = {
            "package": query["package"],
            "ranges": [{"type": "ECOSYSTEM", "events": events}],
        }
        answer = {"vulns": [{"id": "PYSEC-1", "affected": [affected]}]}
        body = json.dumps(answer if query["package"]["name"] == "mended" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def ask_at(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_AUDIT_VULNERABILITY_SERVICE", "osv")
    monkeypatch.setenv("PIP_AUDIT_OSV_URL", f"http://127.0.0.1:{port}/v1/query")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Advisories) as server:
        ask_at(server.server_port, monkeypatch)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield
        server.shutdown()
        thread.join()


@pytest.fixture
def scope(tmp_path: Path) -> list[str]:
    for name in ("clean", "mended"):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    return ["--path", str(tmp_path)]


@pytest.mark.usefixtures("service")
def test_an_audit_names_what_its_service_was_asked_about(
    audit: ModuleType, scope: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main(scope) == 1
    assert capsys.readouterr().out.splitlines() == [
        "audit: 2 of 2 packages audited: clean 1.0, mended 1.0",
        "audit: mended 1.0: PYSEC-1: fixed in 1.1",
        "audit: 1 known vulnerabilities, 1 with a remedy",
    ]


def test_an_audit_whose_service_refuses_connections_claims_nothing(
    audit: ModuleType,
    scope: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # and never listens
        ask_at(deaf.getsockname()[1], monkeypatch)
        assert audit.main(scope) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "nothing was audited: pip-audit could not reach its data" in said
    assert "packages audited" not in said


def test_an_audit_that_cannot_start_fails(
    audit: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main(["--no-such-option"]) == 1
    assert "pip-audit failed" in capsys.readouterr().out
