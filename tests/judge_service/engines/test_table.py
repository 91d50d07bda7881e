"""ENGINES and `open_engine`: engines by name, imported only when they are opened."""

from __future__ import annotations

import subprocess
import sys

import pytest

from constitution.errors import UserError
from judge_service.engines import ENGINES, open_engine
from judge_service.settings import ServerSettings
from tests.support.fakes import FakeEngine


def test_the_table_imports_no_engine() -> None:
    code = (
        "import sys\n"
        "from judge_service.engines import ENGINES\n"
        "heavy = {'torch', 'vllm', 'transformers', 'httpx2', 'judge_service.engines.vllm'}\n"
        "print(list(ENGINES), sorted(heavy & set(sys.modules)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "['vllm', 'openai', 'planted'] []"


def test_an_added_engine_is_opened_with_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(settings: ServerSettings) -> FakeEngine:
        return FakeEngine(max_context_tokens=settings.max_context_tokens or 0)

    monkeypatch.setitem(ENGINES, "fake", fake)
    engine = open_engine(ServerSettings(model="m", engine="fake", max_context_tokens=100))
    assert engine.max_context_tokens == 100


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    for module in ("openai", "http_client", "openai_capabilities"):
        monkeypatch.delitem(sys.modules, f"judge_service.engines.{module}", raising=False)
    settings = ServerSettings(model="m", engine="openai", openai_url="http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"engine openai needs the package httpx2.*\[openai\]"):
        open_engine(settings)
