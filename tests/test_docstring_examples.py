"""The `>>>` examples in docstrings give the results they show.

Those of JudgeClient need a server: tests/judge_service/client/test_client_examples.py runs them.
"""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("constitution", "hardware", "judge_service", "rlaif")
NEEDS_A_SERVER = "judge_service.client.sync"


def modules_with_examples() -> list[str]:
    files = (file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py")))
    shown = (file for file in files if ">>> " in file.read_text(encoding="utf-8"))
    return [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in shown]


def test_modules_with_examples_are_found() -> None:
    assert {"constitution.schema", "judge_service.rpc", NEEDS_A_SERVER} <= {
        *modules_with_examples()
    }


@pytest.mark.parametrize("name", [m for m in modules_with_examples() if m != NEEDS_A_SERVER])
def test_the_examples_of_a_module_give_the_results_they_show(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.attempted > 0
    assert results.failed == 0
