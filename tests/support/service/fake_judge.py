"""A FAKE engine for judge servers of tests, whose reads may be stored: no model, prefers longer.

`FakeEngine` numbers words as they appear, so two processes would store different reads under one
key. Here an id is a checksum of its word, the same in every process.

`FAKE_VLLM` as sitecustomize.py on PYTHONPATH replaces the engine `vllm` in every process of a test.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

from tests.support.fakes import FakeEngine, FakeTokenizer

FAKE_VLLM = '''
"""In this test no judge server runs vLLM: each answers from a fake engine without a model."""

from judge_service.engines import ENGINES


def open_fake(settings):
    from tests.support.service.fake_judge import FakeJudgeEngine

    return FakeJudgeEngine(settings)


ENGINES["vllm"] = open_fake
'''


class ChecksumTokenizer(FakeTokenizer):
    """Words as tokens with the same ids in every process; it decodes the words that it encoded."""

    def __init__(self) -> None:
        super().__init__()
        self._words = dict(enumerate(self.CONTROL))

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self._words[i] for i in ids)

    def _id(self, piece: str) -> int:
        if piece in self.CONTROL:
            return self.CONTROL.index(piece)
        number = len(self.CONTROL) + zlib.crc32(piece.encode())
        assert self._words.setdefault(number, piece) == piece, "two words with one checksum"
        return number


class FakeJudgeEngine(FakeEngine):
    """Prefers the longer reply, with P = 0.91."""

    def __init__(self, settings: Any) -> None:
        super().__init__(max_context_tokens=settings.max_context_tokens or 4096)
        self._tokenizer = ChecksumTokenizer()
