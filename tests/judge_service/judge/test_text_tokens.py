"""The cache of tokenized texts stays within its memory, whatever is asked."""

from __future__ import annotations

import pytest

from judge_service.judge.paced import tokens
from judge_service.judge.paced.tokens import TextTokens
from tests.support.fakes import FakeTokenizer


async def test_many_short_texts_do_not_outgrow_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "CACHED_TOKENS", 1000)
    texts = TextTokens(FakeTokenizer(), 4096)
    for number in range(200):
        async with texts.hold([f"w{number}"]):
            pass
    assert len(texts._cache) <= 1000 // tokens._ENTRY_TOKENS
