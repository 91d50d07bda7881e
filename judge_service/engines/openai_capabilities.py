"""Detects how an OpenAI-compatible server can return the log-probabilities of labels.

LOGPROB_MODES, best first, over POST /v1/completions with token ids as the prompt and one token to
generate:

    labels by id            `logprob_token_ids` names them: every label is scored (vLLM)
    labels among the top n  `logprobs: n`: a label less likely than n other tokens is not scored

Log-probabilities are keyed by "token_id:17" if the server can, else by the token's text; a text
that two tokens share identifies neither.

Reads are requested at temperature 1: the sampled token is ignored, and at 1 a server that scales
log-probabilities by the temperature returns the same as one that does not.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from judge_service.engines.http_client import (
    KEY_VARIABLE,
    NoAnswer,
    Refused,
    Upstream,
    UpstreamError,
)
from judge_service.engines.tokenizer import HFTokenizer
from judge_service.types import ModelIdentity

_CLAMPED = -9999.0  # vLLM's spelling of -inf, which JSON lacks
_BY_ID = "token_id:"
_SAMPLE = "One two, 3.14 + 2 = x?\n\tdef f(a): return {'ä': \"ß\"}  # naïve café, 東京!"


@dataclass(frozen=True, slots=True)
class LogprobMode:
    """One way to ask a server for the log-probabilities of labels.

    fields: added to every request. names_labels: the request lists the labels by id.
    takes_priority: the request may have vLLM's `priority`.
    """

    label: str  # in receipts
    fields: Mapping[str, Any]
    names_labels: bool = False
    takes_priority: bool = False


_IDS = {"return_tokens_as_token_ids": True}
PLAIN = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""Turns off the sampling defaults that vLLM takes from the model's folder."""

_BY_LABEL = {**_IDS, **PLAIN, "logprobs": 1}

LOGPROB_MODES = (
    LogprobMode("labels by id", _BY_LABEL, names_labels=True, takes_priority=True),
    LogprobMode("labels by id", _BY_LABEL, names_labels=True),
    LogprobMode("labels among the top 20", {**_IDS, "logprobs": 20}),
    LogprobMode("labels among the top 20", {"logprobs": 20}),
    LogprobMode("labels among the top 5", {"logprobs": 5}),
)


@dataclass(frozen=True, slots=True)
class Served:
    """A model at a server, and the mode in which to read it."""

    identity: ModelIdentity
    context_tokens: int | None  # prompt and answer together; None: not reported
    mode: LogprobMode
    texts: Mapping[int, str] | None  # token id -> the text that keys it; None: keyed by id

    def question(
        self, prompt_ids: Sequence[int], label_ids: Sequence[int], priority: int
    ) -> dict[str, Any]:
        """The body of a completion request that reads the labels.

        priority: lower numbers go first, where the server takes priorities.
        """
        return _question(self.identity.name, self.mode, prompt_ids, label_ids, priority)

    def pick(self, answer: Any, label_ids: Sequence[int]) -> tuple[float, ...]:
        """The labels' log-probabilities in an answer (nats); NaN for a label that was not scored.

        Raises ValueError for an answer without any.
        """
        scored = _scored(answer)
        texts = self.texts
        keys = (f"{_BY_ID}{i}" if texts is None else texts.get(i) for i in label_ids)
        return tuple(_number(scored.get(key)) if key else math.nan for key in keys)


async def probe(
    upstream: Upstream,
    model: str,
    tokenizer: HFTokenizer,
    question: tuple[Sequence[int], Sequence[int]],
) -> Served:
    """Find the model at the server, and the best mode in which it reads the question.

    question: (prompt ids, label ids). Also checks that the tokenizer is the model's own.
    Raises UpstreamError, and NoAnswer while the server does not answer.
    """
    # The model must be served, and take token ids as they are.
    card = await _card(upstream, model)
    mode, answer = await _best_mode(upstream, model, question)
    counted = _usage(answer).get("prompt_tokens")
    if counted not in (None, len(question[0])):
        raise UpstreamError(
            f"setting 'openai_url': {upstream.url} made {counted} tokens of a prompt of "
            f"{len(question[0])} token ids; use a server that takes them as they are (`vllm serve`)"
        )
    await _check_tokenizer(upstream, model, tokenizer)
    by_id = all(key.startswith(_BY_ID) for key in _scored(answer))
    texts = None if by_id else await asyncio.to_thread(tokenizer.distinct_texts)
    if texts is not None and any(label not in texts for label in question[1]):
        raise UpstreamError(
            f"setting 'openai_url': {upstream.url} names tokens by their text, and in this "
            "vocabulary a label shares its text with another token; use a server that names them "
            "by id, as `vllm serve` does"
        )
    identity = ModelIdentity(
        name=model,
        weights_sha256=f"unknown: served as {model}",
        tokenizer_sha256=tokenizer.sha256,
        dtype="unknown",
        engine=f"openai api, {await _software(upstream, card)}, {mode.label}",
    )
    limit = card.get("max_model_len")
    return Served(identity, limit if isinstance(limit, int) else None, mode, texts)


async def _card(upstream: Upstream, model: str) -> Mapping[str, Any]:
    """The server's description of the model. Raises UpstreamError if it does not serve it."""
    try:
        listed = await upstream.peek(f"{upstream.url}/models")
        cards = {str(card["id"]): card for card in listed["data"]}
    except Refused as error:
        raise _refusal(upstream, error) from None
    except (KeyError, TypeError):
        raise UpstreamError(
            f"setting 'openai_url': {upstream.url}/models is not a list of models; give the URL of "
            "an OpenAI-compatible server, such as http://127.0.0.1:8000/v1"
        ) from None
    if model not in cards:
        known = ", ".join(list(cards)[:10]) or "none"
        raise UpstreamError(
            f"setting 'model': {upstream.url} serves no {model!r}; it serves: {known}"
        )
    return dict(cards[model])


async def _best_mode(
    upstream: Upstream, model: str, question: tuple[Sequence[int], Sequence[int]]
) -> tuple[LogprobMode, Any]:
    last: Exception = ValueError("it returns none of the labels")
    for mode in LOGPROB_MODES:
        try:
            body = _question(model, mode, *question, priority=1)
            answer = await upstream.post("/completions", body)
            scored = _scored(answer)
        except (Refused, ValueError) as error:
            last = error
            continue
        if not mode.names_labels or all(f"{_BY_ID}{label}" in scored for label in question[1]):
            return mode, answer
    if isinstance(last, Refused) and last.status not in (400, 422):
        raise _refusal(upstream, last)
    raise UpstreamError(
        f"setting 'openai_url': {upstream.url} does not return the log-probabilities of tokens "
        f"after a prompt of token ids ({last}); use a server that does, as `vllm serve`"
    )


async def _check_tokenizer(upstream: Upstream, model: str, tokenizer: HFTokenizer) -> None:
    """Raises UpstreamError if the server tokenizes a sample text differently.

    Compared by ids if the server reports them, else by their number; a token before them (BOS)
    does not matter, since our prompts are sent as ids.
    """
    body = {"model": model, "prompt": _SAMPLE, "max_tokens": 1}
    ours = tokenizer.encode_template(_SAMPLE)
    # vLLM can report the prompt's ids; other servers refuse the field.
    try:
        try:
            answer = await upstream.post("/completions", {**body, "return_token_ids": True})
        except Refused:
            answer = await upstream.post("/completions", body)
    except Refused as error:
        raise _refusal(upstream, error) from None
    try:
        theirs = answer["choices"][0].get("prompt_token_ids")
        if theirs is not None:
            same = theirs[-len(ours) :] == ours and len(theirs) - len(ours) in (0, 1)
        else:
            counted = _usage(answer).get("prompt_tokens")
            same = counted is None or counted - len(ours) in (0, 1)
    except (AttributeError, KeyError, IndexError, TypeError):
        raise UpstreamError(
            f"setting 'openai_url': unexpected answer of {upstream.url} to a completion; give the "
            "URL of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1"
        ) from None
    if not same:
        raise UpstreamError(
            "setting 'openai_tokenizer': this tokenizer makes other tokens of a text than the "
            f"model {model!r} at {upstream.url}; give that model's own tokenizer (folder or hub id)"
        )


async def _software(upstream: Upstream, card: Mapping[str, Any]) -> str:
    """The software that serves the model, with its version if it reports that like vLLM."""
    name = str(card.get("owned_by") or "unknown server")
    try:
        return f"{name} {(await upstream.peek(f'{upstream.root}/version'))['version']}"
    except (Refused, NoAnswer, KeyError, TypeError):
        return name


def _question(
    model: str,
    mode: LogprobMode,
    prompt_ids: Sequence[int],
    label_ids: Sequence[int],
    priority: int,
) -> dict[str, Any]:
    body = {
        "model": model,
        "prompt": list(prompt_ids),
        "max_tokens": 1,
        "temperature": 1.0,
        "top_p": 1.0,
        **mode.fields,
    }
    if mode.names_labels:
        body["logprob_token_ids"] = list(label_ids)
    if mode.takes_priority:
        body["priority"] = priority
    return body


def _scored(answer: Any) -> dict[str, float]:
    """The log-probabilities of the answer's only token, by key. Raises ValueError without any."""
    try:
        scored = answer["choices"][0]["logprobs"]["top_logprobs"][0]
    except (KeyError, IndexError, TypeError):
        scored = None
    if not isinstance(scored, dict) or not scored:
        raise ValueError("no log-probabilities in the answer")
    return scored


def _number(logprob: Any) -> float:
    """NaN for anything but a number, and for -inf in any spelling."""
    scored = isinstance(logprob, (int, float)) and logprob > _CLAMPED
    return float(logprob) if scored else math.nan


def _usage(answer: Any) -> Mapping[str, Any]:
    usage = answer.get("usage") if isinstance(answer, dict) else None
    return usage if isinstance(usage, dict) else {}


def cached_tokens(answer: Any) -> int:
    """Prompt tokens that the server took from its prefix cache.

    0 if it does not report them (vLLM: --enable-prompt-tokens-details).
    """
    details = _usage(answer).get("prompt_tokens_details") or {}
    return int(details.get("cached_tokens") or 0)


def _refusal(upstream: Upstream, error: Refused) -> UpstreamError:
    if error.status in (401, 403):
        return UpstreamError(
            f"environment {KEY_VARIABLE}: {upstream.url} refuses the key, or its absence "
            f"({error}); set the variable to a key of that server"
        )
    return UpstreamError(
        f"setting 'openai_url': {upstream.url} is not an OpenAI-compatible server ({error}); give "
        "the URL that ends in /v1, such as http://127.0.0.1:8000/v1"
    )
