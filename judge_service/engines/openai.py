"""A model behind an OpenAI-compatible server that returns log-probabilities, such as `vllm serve`.

Prompts are sent as token ids, made by the model's own tokenizer on this side: the server never
tokenizes a user's text, so that text cannot become a control token. What the server returns depends
on its abilities (openai_capabilities.py): exactly the labels, or the most likely tokens. A label
that is not among those was not scored: it is NaN, which voids the read, and never -inf, which would
mean that the judge ruled the label out.

The server's weights are unknown here: receipts say so, and name the model as it is served. A store
distinguishes models by that name, so serve other weights under another name.

The engine is not alive while the server does not answer. The server is polled every second; once
it answers with the same model, the engine is alive again. A prompt that fails (500, or no answer in
time) while the server still lists its models fails alone.

Left out: chat completions, which take no token ids; streaming, since half an answer is of no use.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from judge_service.engine import EngineError, LabelLogprobs, Written
from judge_service.engines.http_client import (
    KEY_VARIABLE,
    NoAnswer,
    Refused,
    Upstream,
    UpstreamError,
)
from judge_service.engines.model_folder import find_tokenizer_folder
from judge_service.engines.openai_capabilities import PLAIN, Served, cached_tokens, probe
from judge_service.engines.tokenizer import HFTokenizer
from judge_service.engines.warmup import warmup_prompt
from judge_service.settings import ServerSettings
from judge_service.types import ModelIdentity

DEFAULT_CONTEXT_TOKENS = 8192
REQUESTS_AT_A_TIME = 256  # vLLM computes as many by default; the others wait here, by priority
_POLL_SECONDS = 1.0
_MISSES = 2  # polls in a row without an answer until the server counts as lost
_ACCESS_LOST = (401, 403, 404)  # the key or the model was removed

_log = logging.getLogger("judge_service")
_T = TypeVar("_T")


class OpenAIEngine:
    """An `Engine` over the model that the server at `url` calls `model`.

    tokenizer: folder or hub id of that model's tokenizer. key: a bearer token, "" for none.
    max_context_tokens: prompt and answer together; None is the server's limit, or 8192 if it
    reports none.

    `start()` raises UpstreamError and ModelFolderError, both user errors.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        tokenizer: str,
        key: str = "",
        max_context_tokens: int | None = None,
    ) -> None:
        self._url = url
        self._model = model
        self._tokenizer_source = tokenizer
        self._key = key
        self._requested_context_tokens = max_context_tokens
        self._upstream: Upstream | None = None
        self._tokenizer: HFTokenizer | None = None
        self._served: Served | None = None
        self._alive = False
        self._last_problem = ""
        self._polling: asyncio.Task[None] | None = None

    @property
    def identity(self) -> ModelIdentity:
        """The model by its name at the server; its weights and dtype are "unknown"."""
        return _started(self._served).identity

    @property
    def tokenizer(self) -> HFTokenizer:
        """The tokenizer that was given, checked against the server's in `start`."""
        return _started(self._tokenizer)

    @property
    def max_context_tokens(self) -> int:
        """As requested, else as the server reports, else DEFAULT_CONTEXT_TOKENS."""
        served = _started(self._served)
        return self._requested_context_tokens or served.context_tokens or DEFAULT_CONTEXT_TOKENS

    @property
    def alive(self) -> bool:
        """Whether the server answered when it was last asked; polled every second."""
        return self._alive

    @property
    def recovers(self) -> bool:
        """True: the server may come back."""
        return True

    async def start(self) -> None:
        """Load the tokenizer, find the model at the server and make one read."""
        folder = await asyncio.to_thread(find_tokenizer_folder, self._tokenizer_source)
        self._tokenizer = await asyncio.to_thread(HFTokenizer, folder)
        self._upstream = Upstream(self._url, self._key, at_a_time=REQUESTS_AT_A_TIME)
        if self._upstream.is_plain_text:
            _log.warning(
                "openai_url is plain http to another machine: prompts and key are not encrypted"
            )
        try:
            self._served = await self._inspect()
        except NoAnswer as error:
            await self.close()
            raise UpstreamError(
                f"setting 'openai_url': {self._url} does not answer ({error}); start the model "
                "server first, or correct the address"
            ) from None
        except BaseException:
            await self.close()
            raise
        self._alive = True
        self._polling = asyncio.create_task(self._poll())

    async def read(
        self,
        prompt_ids: Sequence[int],
        label_ids: Sequence[int],
        *,
        priority: int = 0,
        use_store: bool = True,
    ) -> LabelLogprobs:
        """As `Engine.read`; NaN for a label that the server did not score."""
        served = _started(self._served)
        answer = await self._complete(served.question(prompt_ids, label_ids, priority), priority)
        try:
            logprobs = served.pick(answer, label_ids)
        except ValueError as error:
            raise EngineError(f"unexpected answer of the model server: {error}") from None
        return LabelLogprobs(logprobs, len(prompt_ids), cached_tokens(answer))

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
        """As `Engine.write`.

        If the server does not report the sampled ids, they are those that the tokenizer makes of
        the text.
        """
        # top_p and PLAIN turn off what the server would take from the model's folder.
        mode = _started(self._served).mode
        body = {
            "model": self._model,
            "prompt": list(prompt_ids),
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": 1.0,
            "seed": seed % 2**63,
        }
        if mode.names_labels:
            body |= {"return_token_ids": True, **PLAIN}
        if mode.takes_priority:
            body["priority"] = priority
        answer = await self._complete(body, priority)
        try:
            choice = answer["choices"][0]
            text, ids, end = str(choice["text"]), choice.get("token_ids"), choice["finish_reason"]
        except (KeyError, IndexError, TypeError):
            raise EngineError("unexpected answer of the model server: no text") from None
        # Text of our own tokenizer, as from every other engine, if the server gives ids.
        if ids is not None:
            text = self.tokenizer.decode(ids)
        return Written(
            text=text,
            token_ids=tuple(self.tokenizer.encode_data(text) if ids is None else ids),
            complete=end == "stop",
            prompt_tokens=len(prompt_ids),
            cached_tokens=cached_tokens(answer),
        )

    async def close(self) -> None:
        """Disconnect; requests in progress end in EngineError. Closing twice is harmless."""
        self._alive = False
        polling, self._polling = self._polling, None
        if polling is not None:
            polling.cancel()
            await asyncio.wait((polling,))
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            await upstream.close()

    async def _complete(self, body: Mapping[str, Any], priority: int) -> Any:
        upstream = _started(self._upstream)
        try:
            return await upstream.post("/completions", body, priority=priority)
        except NoAnswer as error:
            if error.of_prompt and await self._answers():
                raise EngineError(f"the model server failed at the prompt ({error})") from None
            self._lose(str(error))
            raise EngineError(f"the model server does not answer ({error})") from None
        except Refused as error:
            if error.status in _ACCESS_LOST:
                self._lose(str(error))
            raise EngineError(f"the model server refused the prompt ({error})") from None

    async def _answers(self) -> bool:
        try:
            upstream = _started(self._upstream)
            await upstream.peek(f"{upstream.url}/models")
        except (NoAnswer, Refused):
            return False
        return True

    async def _inspect(self) -> Served:
        question = warmup_prompt(self.tokenizer, self._model)
        served = await probe(_started(self._upstream), self._model, self.tokenizer, question)
        requested, limit = self._requested_context_tokens, served.context_tokens
        if requested is not None and limit is not None and requested > limit:
            raise UpstreamError(
                f"setting 'max_context_tokens' is {requested}, but the limit of {self._url} is "
                f"{limit}: lower the setting, or raise the limit (vLLM: --max-model-len)"
            )
        return served

    async def _poll(self) -> None:
        """Keep `alive` in step with the server, until cancelled."""
        misses = 0
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            if not self._alive:
                misses = 0
                self._alive = await self._is_back()
                continue
            try:
                upstream = _started(self._upstream)
                await upstream.peek(f"{upstream.url}/models")
                misses = 0
            except (NoAnswer, Refused) as error:
                misses += 1
                if misses == _MISSES:
                    self._lose(str(error))

    async def _is_back(self) -> bool:
        try:
            served = await self._inspect()
        except NoAnswer:
            return False
        except UpstreamError as error:
            self._report(str(error))
            return False
        except Exception as error:  # whatever it answers, polling goes on
            self._report(f"unexpected answer of the model server ({type(error).__name__})")
            return False
        if served != self._served:
            self._report(
                "the model server answers again, but its version, limits or abilities changed: "
                "restart the judge, so that receipts name the current ones"
            )
            return False
        self._last_problem = ""
        return True

    def _lose(self, why: str) -> None:
        if self._alive:
            self._alive = False
            self._report(f"the model server does not answer ({why}): not serving until it does")

    def _report(self, problem: str) -> None:
        """Log a problem, unless it is the last one again."""
        if problem != self._last_problem:
            self._last_problem = problem
            _log.error("%s", problem)


def from_settings(settings: ServerSettings) -> OpenAIEngine:
    """The engine of a server's settings, not yet started; its key is RLAIF_OPENAI_API_KEY."""
    assert settings.openai_url is not None
    return OpenAIEngine(
        settings.openai_url,
        settings.model,
        tokenizer=settings.openai_tokenizer or settings.model,
        key=os.environ.get(KEY_VARIABLE, "").strip(),
        max_context_tokens=settings.max_context_tokens,
    )


def _started(value: _T | None) -> _T:
    if value is None:
        raise EngineError("the engine is not running: start() it first, or it was closed")
    return value
