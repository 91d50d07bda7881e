"""The interface between the judge and a language model: `read`, `write` and a tokenizer.

Prompts are token ids, which the judge makes (judge/template.py), so an engine never tokenizes text
that it would have to trust.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from judge_service.types import ModelIdentity


class EngineError(RuntimeError):
    """The engine cannot answer: it died, or refused the prompt. Never the user's fault."""


@dataclass(frozen=True, slots=True)
class LabelLogprobs:
    """Log-probabilities of the labels (nats, over the full vocabulary), in the order requested.

    cached_tokens: of prompt_tokens, those found in the engine's prefix cache.
    """

    logprobs: tuple[float, ...]
    prompt_tokens: int
    cached_tokens: int
    stored: bool = False  # from a store: nothing was computed


@dataclass(frozen=True, slots=True)
class Written:
    """Generated text; `complete` if the model ended it, and not max_tokens.

    cached_tokens: of prompt_tokens, those found in the engine's prefix cache.
    """

    text: str
    token_ids: tuple[int, ...]
    complete: bool
    prompt_tokens: int
    cached_tokens: int
    stored: bool = False  # from a store: nothing was generated


class ChatTokenizer(Protocol):
    """Encodes our template and text from outside separately, so that the latter is only data."""

    def encode_template(self, text: str) -> list[int]:
        """Ids of our own template: control tokens such as <|im_start|> become control ids."""
        ...

    def encode_data(self, text: str) -> list[int]:
        """Ids of text from outside: never a control id, whatever the text contains."""
        ...

    def spell(self, ids: Sequence[int]) -> str:
        """The text of the ids for display, control tokens included."""
        ...

    def render_chat(self, messages: Sequence[tuple[str, str]]) -> str:
        """The (role, content) turns in the model's chat template, with its generation prompt."""
        ...


class Engine(Protocol):
    """A running language model. Safe to call from many coroutines at once."""

    @property
    def identity(self) -> ModelIdentity:
        """The weights and arithmetic behind the answers, for receipts and store keys.

        Raises EngineError before `start`.
        """
        ...

    @property
    def tokenizer(self) -> ChatTokenizer:
        """The tokenizer of the model, with which the judge makes its prompts.

        Raises EngineError before `start`.
        """
        ...

    @property
    def max_context_tokens(self) -> int:
        """Limit on prompt and output together, in tokens."""
        ...

    @property
    def alive(self) -> bool:
        """False once the engine has died; the server then reports NOT_SERVING."""
        ...

    @property
    def recovers(self) -> bool:
        """Whether an engine that is not alive may recover by itself, because it runs elsewhere."""
        ...

    async def start(self) -> None:
        """Load, warm up and check that a read works. Raises EngineError with the remedy."""
        ...

    async def read(
        self,
        prompt_ids: Sequence[int],
        label_ids: Sequence[int],
        *,
        priority: int = 0,
        use_store: bool = True,
    ) -> LabelLogprobs:
        """Log-probability of each label as the token after the prompt, in nats.

        priority: lower numbers go first. Cancelling the coroutine aborts the request in the engine.
        An engine with a store (engines/caching.py) looks there first, unless use_store is False;
        others ignore use_store. Raises EngineError when the engine has died or refuses the prompt.
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
        """Up to max_tokens of text after the prompt.

        temperature: 0 is greedy; above, the seed decides the text. Priority, use_store, cancelling
        and errors as for `read`.
        """
        ...

    async def close(self) -> None:
        """Release the model; requests in progress end in EngineError. Closing twice is harmless."""
        ...
