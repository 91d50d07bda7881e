"""Interface of a judge model: read label log-probabilities, write text, tokenize.

Prompts arrive as token ids made by judge/template.py, so an engine never has to trust text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from judge_service.types import ModelIdentity


class EngineError(RuntimeError):
    """The engine could not answer (it died, or rejected the prompt). Never a caller error."""


@dataclass(frozen=True, slots=True)
class LabelLogprobs:
    """Log-probabilities (nats, full-vocabulary softmax) of the labels, in the order requested."""

    logprobs: tuple[float, ...]
    prompt_tokens: int
    cached_tokens: int
    stored: bool = False  # from a store: nothing was computed


@dataclass(frozen=True, slots=True)
class Written:
    """Text that the model wrote. `complete`: it ended by itself, not at max_tokens."""

    text: str
    token_ids: tuple[int, ...]
    complete: bool
    prompt_tokens: int
    cached_tokens: int
    stored: bool = False  # from a store: nothing was generated


class ChatTokenizer(Protocol):
    """Tokenizer that separates our template text from untrusted text."""

    def encode_template(self, text: str) -> list[int]:
        """Encode our template text: control tokens such as <|im_start|> become control ids."""
        ...

    def encode_data(self, text: str) -> list[int]:
        """Encode untrusted text: it never yields a control id, whatever it spells."""
        ...

    def spell(self, ids: Sequence[int]) -> str:
        """The text of the ids with control tokens spelled out, for people."""
        ...

    def render_chat(self, messages: Sequence[tuple[str, str]]) -> str:
        """Render (role, content) messages with the model's chat template and generation prompt."""
        ...


class Engine(Protocol):
    """A running language model. Safe to call from many coroutines at once."""

    @property
    def identity(self) -> ModelIdentity:
        """The weights and the arithmetic, for receipts and store keys."""
        ...

    @property
    def tokenizer(self) -> ChatTokenizer:
        """The model's tokenizer."""
        ...

    @property
    def max_context_tokens(self) -> int:
        """Limit of prompt and output together, in tokens."""
        ...

    @property
    def alive(self) -> bool:
        """False once the engine has died; the server then reports NOT_SERVING."""
        ...

    @property
    def recovers(self) -> bool:
        """Whether a dead engine may come back by itself, as one that runs elsewhere does."""
        ...

    async def start(self) -> None:
        """Load, warm up and test a read. Raises EngineError with the remedy."""
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

        Cancelling the coroutine aborts the request in the engine. use_store: look in the store
        first (engines/caching.py); engines without a store ignore it. Raises EngineError.
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
        """Generate up to max_tokens of text after the prompt. Raises EngineError."""
        ...

    async def close(self) -> None:
        """Stop the engine and free its memory."""
        ...
