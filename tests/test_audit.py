"""The dependency audit's result for pip-audit's JSON, written by hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / ".ci" / "audit.py"


@pytest.fixture
def report():
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.report


CLEAN = {"name": "grpcio", "version": "1.85", "vulns": []}
UNKNOWN = {"name": "torch", "skip_reason": "Dependency not found on PyPI"}


def vulnerable(*fixes):
    return {"name": "x", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": list(fixes)}]}


def test_a_vulnerability_with_a_fixed_version_fails_and_names_it(report):
    passes, lines = report([CLEAN, vulnerable("1.1", "2.0"), UNKNOWN])
    assert not passes
    assert lines == [
        "audit: x 1: CVE-1: fixed in 1.1, 2.0",
        "audit: 2 of 3 packages audited, 1 known vulnerabilities, 1 with a remedy",
    ]


def test_a_vulnerability_without_a_fix_is_listed_and_passes(report):
    passes, lines = report([vulnerable()])
    assert passes
    assert lines[0] == "audit: x 1: CVE-1: no remedy"


def test_an_audit_without_data_says_that_nothing_was_audited(report):
    passes, lines = report([UNKNOWN, UNKNOWN])
    assert passes
    assert "none of 2 packages was audited" in lines[0]
