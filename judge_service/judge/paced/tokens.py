"""Texts from outside as token ids: each text once per request, off the event loop, kept by content.

The judge's prompts encode every text by itself (template.py), so the ids of a text are the same in
both orders, for all principles and in all pairs of a ranking.

    held by a request, or in the cache?  its ids      else  a thread, which releases the GIL

A text that cannot fit is refused before it is encoded as a whole. Every long one is counted in
chunks of CHUNK_CHARACTERS, and the count ends once the chunks have more than twice as many tokens
as fit: where a text is cut changes the count by a few tokens for each cut.
"""

from __future__ import annotations

import asyncio
import hashlib
from array import array
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache

from judge_service.engine import ChatTokenizer
from judge_service.judge.paced.turnstile import Turnstile

CHUNK_CHARACTERS = 32_768  # encoded in about 20 ms
CACHED_TOKENS = 4_000_000  # 8 bytes each
_ENTRY_TOKENS = 32  # what a text takes in the cache beside its tokens, as that many
_AT_ONCE_CHARACTERS = 2_048  # encoded within a millisecond or two: not worth a thread
_CHARACTERS_PER_TOKEN = 16  # a text with more of them than the context holds is counted first
_SHORT_PER_TURN = 8  # such texts that are encoded in one turn of the event loop
_THREADS = 2  # at the same time, whatever is asked
_KEPT_HEADINGS = 4_096  # of our own texts with a content's nonce: each stands in both orders


class OverlongText(ValueError):  # noqa: N818  an answer, not a fault
    """Texts with more tokens than the context holds: `tokens` is their number, or a lower bound."""

    def __init__(self, tokens: int) -> None:
        super().__init__(f"a text of at least {tokens} tokens does not fit the judge's context")
        self.tokens = tokens


class TextTokens:
    """A `ChatTokenizer` whose `encode_data` knows the texts that are held, and recent ones.

    tokenizer: the model's, called in threads for all but short texts. max_tokens: the longest text.
    """

    def __init__(self, tokenizer: ChatTokenizer, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._held: dict[str, tuple[array[int], int]] = {}  # text -> its ids, and how many hold it
        self._cache: OrderedDict[bytes, array[int]] = OrderedDict()
        self._cached_tokens = 0
        self._threads = asyncio.Semaphore(_THREADS)
        self._short = Turnstile(_SHORT_PER_TURN)
        self._encode_ours = lru_cache(_KEPT_HEADINGS)(self._encode_template)

    @asynccontextmanager
    async def hold(self, texts: Iterable[str]) -> AsyncIterator[None]:
        """Within the block `encode_data` of these texts is a look-up.

        Raises OverlongText when they cannot fit together.
        """
        held: list[str] = []
        tokens = 0
        try:
            for text in texts:
                ids = await self._find(text)
                tokens += len(ids)
                if tokens > self._max_tokens:
                    raise OverlongText(tokens)
                _, holders = self._held.get(text, (ids, 0))
                self._held[text] = ids, holders + 1
                held.append(text)
            yield
        finally:
            for text in held:
                ids, holders = self._held.pop(text)
                if holders > 1:
                    self._held[text] = ids, holders - 1

    def encode_data(self, text: str) -> list[int]:
        """Ids of text from outside: those held, else encoded now."""
        held = self._held.get(text)
        return self._tokenizer.encode_data(text) if held is None else held[0].tolist()

    def encode_template(self, text: str) -> list[int]:
        """As the model's tokenizer; for our own short texts, of which the recent ones are kept."""
        return list(self._encode_ours(text))

    def _encode_template(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode_template(text))

    def spell(self, ids: Sequence[int]) -> str:
        """As the model's tokenizer."""
        return self._tokenizer.spell(ids)

    def render_chat(self, messages: Sequence[tuple[str, str]]) -> str:
        """As the model's tokenizer."""
        return self._tokenizer.render_chat(messages)

    async def _find(self, text: str) -> array[int]:
        held = self._held.get(text)
        if held is not None:
            return held[0]
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        ids = self._cache.get(key)
        if ids is None:
            ids = await self._encode(text)
            self._keep(key, ids)
        self._cache.move_to_end(key)
        return ids

    async def _encode(self, text: str) -> array[int]:
        if len(text) <= _AT_ONCE_CHARACTERS:
            await self._short.turn()  # many short texts are not one long step either
            return self._encode_now(text)
        if len(text) > max(CHUNK_CHARACTERS, _CHARACTERS_PER_TOKEN * self._max_tokens):
            await self._refuse_overlong(text)
        return await self._in_thread(text)

    async def _refuse_overlong(self, text: str) -> None:
        """Raise OverlongText as soon as the chunks have more than twice the tokens that fit."""
        counted = 0
        for start in range(0, len(text), CHUNK_CHARACTERS):
            chunk = await self._in_thread(text[start : start + CHUNK_CHARACTERS])
            counted += len(chunk)
            if counted > 2 * self._max_tokens:
                raise OverlongText(counted)

    async def _in_thread(self, text: str) -> array[int]:
        async with self._threads:
            return await asyncio.to_thread(self._encode_now, text)

    def _encode_now(self, text: str) -> array[int]:
        return array("q", self._tokenizer.encode_data(text))

    def _keep(self, key: bytes, ids: array[int]) -> None:
        if key not in self._cache:  # two requests may have encoded it at the same time
            self._cache[key] = ids
            self._cached_tokens += len(ids) + _ENTRY_TOKENS
        while self._cached_tokens > CACHED_TOKENS and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._cached_tokens -= len(dropped) + _ENTRY_TOKENS
