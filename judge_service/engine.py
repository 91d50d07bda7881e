"""What the judge needs of a language model: two verbs over token ids, and a tokenizer.

An engine never sees text it must trust: prompts arrive as token ids, made by `prompting.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from judge_service.types import ModelIdentity


class EngineError(RuntimeError):
    """The engine could not answer (it died, or refused the prompt). Never a user's mistake."""


@dataclass(frozen=True, slots=True)
class LabelLogprobs:
    """log-probabilities (nats, full-vocabulary softmax) of the labels, in the order asked."""

    logprobs: tuple[float, ...]
    prompt_tokens: int
    cached_tokens: int
    stored: bool = False  # found in a store: nothing was computed


@dataclass(frozen=True, slots=True)
class Written:
    """Text the model wrote; `complete` says that it ended by itself, not at the bound."""

    text: str
    token_ids: tuple[int, ...]
    complete: bool
    prompt_tokens: int
    cached_tokens: int
    stored: bool = False  # found in a store: nothing was written


class ChatTokenizer(Protocol):
    """Turns text into ids, keeping the line between our template and other people's text."""

    def encode_template(self, text: str) -> list[int]:
        """Our own template text: control tokens such as <|im_start|> become control ids."""
        ...

    def encode_data(self, text: str) -> list[int]:
        """Other people's text: it never yields a control id, whatever it spells."""
        ...

    def spell(self, ids: Sequence[int]) -> str:
        """The text of the ids, control tokens spelled out: for people to read."""
        ...

    def render_chat(self, messages: Sequence[tuple[str, str]]) -> str:
        """(role, content) turns through the model's chat template, generation prompt at the end."""
        ...


class Engine(Protocol):
    """A running language model. Safe to call from many coroutines at once."""

    @property
    def identity(self) -> ModelIdentity: ...

    @property
    def tokenizer(self) -> ChatTokenizer: ...

    @property
    def max_context_tokens(self) -> int:
        """Prompt and output together, in tokens."""
        ...

    @property
    def alive(self) -> bool:
        """False once the engine has died; the server then reports NOT_SERVING."""
        ...

    @property
    def recovers(self) -> bool:
        """Whether an engine that is not alive may come back by itself: one that runs elsewhere."""
        ...

    async def start(self) -> None:
        """Load, warm up and prove that a read works. Raises EngineError with the remedy."""
        ...

    async def read(
        self,
        prompt_ids: Sequence[int],
        label_ids: Sequence[int],
        *,
        priority: int = 0,
        use_store: bool = True,
    ) -> LabelLogprobs:
        """log P(label | prompt) for each label. Lower priority numbers go first.

        Cancelling the coroutine aborts the request in the engine. An engine with a store
        (`storing.py`) looks there first, unless use_store is False; others have nothing to look in.
        """
        ...

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
        """Up to max_tokens of text after the prompt."""
        ...

    async def close(self) -> None: ...
