"""Scripted engine without a model, FOR UNIT TESTS ONLY: deterministic and instant.

It never stands in for the real engine in a demo, a benchmark or an integration test.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from judge_service.engine import EngineError, LabelLogprobs, Written
from judge_service.types import ModelIdentity

Answer = Callable[[str], Sequence[float]]
"""The prompt as text -> log-probabilities of ' A' (first reply) and ' B' (second reply)."""


class FakeTokenizer:
    """Words as tokens. Ids are assigned as words appear, so `decode` is exact.

    Control tokens are the spellings <|im_start|> and <|im_end|>: one id in our template text,
    ordinary characters in data.
    """

    CONTROL = ("<|im_start|>", "<|im_end|>")

    def __init__(self) -> None:
        self._ids = {spelling: i for i, spelling in enumerate(self.CONTROL)}
        self._pieces = list(self.CONTROL)
        self.control_ids = frozenset(self._ids.values())

    def encode_template(self, text: str) -> list[int]:
        control = "|".join(re.escape(c) for c in self.CONTROL)
        return [self._id(p) for p in re.findall(rf"{control}| ?\w+|\W", text)]

    def encode_data(self, text: str) -> list[int]:
        return [self._id(p) for p in re.findall(r" ?\w+|\W", text)]

    def render_chat(self, messages: Sequence[tuple[str, str]]) -> str:
        turns = (f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in messages)
        return "".join(turns) + "<|im_start|>assistant\n"

    def spell(self, ids: Sequence[int]) -> str:
        return self.decode(ids)

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self._pieces[i] for i in ids)

    def _id(self, piece: str) -> int:
        if piece not in self._ids:
            self._ids[piece] = len(self._pieces)
            self._pieces.append(piece)
        return self._ids[piece]


@dataclass(frozen=True)
class EngineCall:
    """The parts of a judge's prompt, as the fake model sees them."""

    first: str
    second: str
    principle: str


def parse(prompt: str) -> EngineCall:
    """The parts of a judge's prompt; fails when the template's headings changed."""
    match = re.search(
        r"\[Reply A (?P<nonce>\w+)\]\n(?P<first>.*)\n\n\[Reply B (?P=nonce)\]\n"
        r"(?P<second>.*)\n\n\[Question (?P=nonce)\]\n(?P<principle>.*) (?:Which reply|Say briefly)",
        prompt,
        re.DOTALL,
    )
    assert match, f"not a judge's prompt: {prompt!r}"
    return EngineCall(match["first"], match["second"], match["principle"])


def prefer_longer(prompt: str) -> tuple[float, float]:
    """The default answer: 0.9 / 0.09 for the longer reply; 0.495 each when equally long."""
    parts = parse(prompt)
    if len(parts.first) == len(parts.second):
        return (-0.7032, -0.7032)  # 0.495 each
    high, low = -0.10536, -2.40795
    return (high, low) if len(parts.first) > len(parts.second) else (low, high)


def like_longer(prompt: str) -> tuple[float, ...]:
    """For a prompt about one reply: 20 characters or more are good, fewer are bad.

    P(Yes) is 0.8 or 0.2, P(No) the rest but 0.01. P(rating i) is proportional to i or to 10 - i,
    0.99 together.
    """
    match = re.search(
        r"\[Reply (?P<nonce>\w+)\]\n(?P<reply>.*)\n\n\[\w+ (?P=nonce)\]", prompt, re.S
    )
    assert match, f"not a prompt about one reply: {prompt!r}"
    long = len(match["reply"]) >= 20
    if "Rate from 1" in prompt:
        weights = [i if long else 10 - i for i in range(1, 10)]
        return tuple(math.log(0.99 * w / 45) for w in weights)
    return (math.log(0.8), math.log(0.19)) if long else (math.log(0.2), math.log(0.79))


@dataclass(frozen=True)
class EngineWrite:
    """One text that the fake engine generated, with its sampling settings."""

    prompt: str
    max_tokens: int
    temperature: float
    seed: int


class FakeEngine:
    """An `Engine` that answers by a function of the prompt's text.

    Switches, which may be set while it runs: `answer`, `latency_seconds`, `fail_after` (number of
    reads that succeed before all further ones raise EngineError), `hold()` (nothing finishes until
    `release()`; prefer it to a latency, which costs the same time on a fast machine), `die()`.
    Counters: `prompts` (texts of the reads started, in order), `writings`, `in_flight`,
    `peak_in_flight`, `aborted` (reads cancelled in flight).
    """

    def __init__(
        self,
        answer: Answer = prefer_longer,
        *,
        latency_seconds: float = 0.0,
        fail_after: int | None = None,
        max_context_tokens: int = 4096,
    ) -> None:
        self.answer = answer
        self.latency_seconds = latency_seconds
        self.fail_after = fail_after
        self.prompts: list[str] = []
        self.priorities: list[int] = []
        self.writings: list[EngineWrite] = []
        self.in_flight = 0
        self.peak_in_flight = 0
        self.aborted = 0
        self._alive = True
        self._open = asyncio.Event()
        self._open.set()
        self._max_context_tokens = max_context_tokens
        self._tokenizer = FakeTokenizer()

    @property
    def identity(self) -> ModelIdentity:
        return ModelIdentity("fake", "0" * 64, "1" * 64, "float32", "fake")

    @property
    def tokenizer(self) -> FakeTokenizer:
        return self._tokenizer

    @property
    def max_context_tokens(self) -> int:
        return self._max_context_tokens

    @property
    def alive(self) -> bool:
        return self._alive

    @property
    def recovers(self) -> bool:
        return False

    async def start(self) -> None:
        await asyncio.sleep(self.latency_seconds)
        await self._open.wait()

    async def read(
        self,
        prompt_ids: Sequence[int],
        label_ids: Sequence[int],
        *,
        priority: int = 0,
        use_store: bool = True,
    ) -> LabelLogprobs:
        labels = tuple(self._tokenizer.decode([i]) for i in label_ids)
        prompt = self._tokenizer.decode(prompt_ids)
        self.prompts.append(prompt)
        self.priorities.append(priority)
        await self._work()
        answer = self.answer if labels == (" A", " B") else like_longer
        return LabelLogprobs(tuple(answer(prompt))[: len(labels)], len(prompt_ids), 0)

    async def write(
        self,
        prompt_ids: Sequence[int],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        priority: int = 0,
        use_store: bool = True,
    ) -> Written:
        prompt = self._tokenizer.decode(prompt_ids)
        self.writings.append(EngineWrite(prompt, max_tokens, temperature, seed))
        await self._work()
        ids = tuple(self._tokenizer.encode_data("an answer")[:max_tokens])
        return Written(self._tokenizer.decode(ids), ids, len(ids) == 2, len(prompt_ids), 0)

    async def close(self) -> None:
        self._alive = False

    def hold(self) -> None:
        """Block everything, even `start`, until `release`. Not thread-safe."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def die(self) -> None:
        """As when the engine's process is killed: every read from now on fails."""
        self._alive = False

    async def _work(self) -> None:
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.latency_seconds)
            await self._open.wait()
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        finally:
            self.in_flight -= 1
        if self.fail_after is not None:
            self.fail_after -= 1
            if self.fail_after < 0:
                raise EngineError("the fake engine fails as configured")
        if not self._alive:
            raise EngineError("the fake engine is dead")
