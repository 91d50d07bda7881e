"""The process that holds the model while `offline` samples.

A process of its own, so that the engine's threads and memory go with it, and so that the caller
needs neither torch nor vLLM. One JSON object per line: a `Job` comes in on stdin, a `Chunk` (or an
error) per chunk of prompts goes out on stdout, then `done`, and the next job may come: the model
stays loaded. When stdin closes, the caller is dead and so is this process. The sampler is the one
that PPO and ReST use (engines.py).
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from queue import Queue
from typing import IO, Any

from constitution.errors import UserError
from hardware.dtypes import Dtype
from rlaif.batching.chat import ChatTemplateError, prompt_ids, with_template_kwargs
from rlaif.generation.base import (
    FolderModel,
    Generated,
    Sampler,
    SamplingError,
    response_text,
)
from rlaif.generation.engines import open_folder_sampler


@dataclass(frozen=True, slots=True)
class Request:
    """One response to draw."""

    prompt: str  # the prompt's id
    messages: list[dict[str, str]]  # {"role": ..., "content": ...}
    index: int  # among the responses to the prompt, from 0
    seed: int


@dataclass(frozen=True, slots=True)
class Job:
    """The work of one run, with the settings of `SamplingConfig`."""

    model: str
    engine: str
    dtype: Dtype
    max_new_tokens: int
    temperature: float
    top_p: float
    kv_cache_gib: float
    start: int  # index of the first chunk to sample; earlier ones count for the longest prompt
    chunks: list[list[Request]]
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GeneratedResponse:
    """The response to one request."""

    text: str
    tokens: int  # end token included
    complete: bool  # ended by an end token, not by max_new_tokens
    end_token: str = ""  # that one's text, where there is one


@dataclass(frozen=True, slots=True)
class Chunk:
    """The responses to one chunk of requests, in their order."""

    responses: list[GeneratedResponse]
    seconds: float  # of sampling them


class Samplers:
    """The sampler of one job after another: opened anew where the next one needs another model, or
    longer or more responses than the one before."""

    def __init__(self) -> None:
        self._model: FolderModel | None = None
        self._engine = ""
        self._sampler: Sampler | None = None

    def of(self, engine: str, model: FolderModel) -> Sampler:
        """A sampler that can do what `model` asks for."""
        if self._sampler is not None and engine == self._engine and self._suffices_for(model):
            return self._sampler
        again = self._sampler is not None
        self.close()
        if again:  # with room to spare, so that jobs of growing length do not load it each time
            model = replace(model, max_tokens=min(2 * model.max_tokens, model.context))
        self._sampler = open_folder_sampler(engine, model)
        self._engine, self._model = engine, model
        return self._sampler

    def _suffices_for(self, wanted: FolderModel) -> bool:
        opened = self._model
        return (
            opened is not None
            and (opened.name, opened.dtype) == (wanted.name, wanted.dtype)
            and opened.max_tokens >= wanted.max_tokens
            and opened.sequences >= wanted.sequences
            and opened.kv_cache_gib >= wanted.kv_cache_gib
        )

    def close(self) -> None:
        """Free the model."""
        if self._sampler is not None:
            self._sampler.close()
        self._sampler = None


def run(job: Job, send: Callable[[dict[str, Any]], None], samplers: Samplers | None = None) -> None:
    """Sample the chunks from `job.start` on, and send each when it is finished.

    send: called with a JSON object per message. samplers: of earlier jobs, to be used again.
    Raises SamplingError, BackboneError or ChatTemplateError for a prompt that is too long or that
    the chat template refuses, or a model or engine that cannot be used.
    """
    tokenizer, context = _load_tokenizer(job.model)
    tokenizer = with_template_kwargs(tokenizer, job.chat_template_kwargs)
    chunks = tokenize(job, tokenizer, context)
    send({"loading": job.engine})
    model = FolderModel(
        job.model,
        tokenizer,
        job.dtype,
        max_tokens=max(len(ids) for chunk in chunks for ids in chunk) + job.max_new_tokens,
        kv_cache_gib=job.kv_cache_gib,
        sequences=max(map(len, chunks)),
        context=context,
    )
    sampler = (samplers or Samplers()).of(job.engine, model)
    for ids, requests in zip(chunks[job.start :], job.chunks[job.start :], strict=True):
        begin = time.monotonic()
        sampler.sync()
        seeds = [request.seed for request in requests]
        drawn = sampler.generate(ids, job.max_new_tokens, job.temperature, seeds, job.top_p)
        responses = [_response(tokenizer, each) for each in drawn]
        send(asdict(Chunk(responses, time.monotonic() - begin)))


def _load_tokenizer(model: str) -> tuple[Any, int]:
    """The model's tokenizer, and how many tokens the model can read."""
    from transformers import AutoConfig, AutoTokenizer

    from rlaif.models.folder import context_length

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        context = context_length(AutoConfig.from_pretrained(model))
    except OSError as error:
        raise SamplingError(
            f"model cannot be loaded: {model}: {error}; give a model folder or a hub id"
        ) from error
    if not tokenizer.chat_template:
        raise SamplingError(
            f"model has no chat template: {model}; use an instruction-tuned model, or put a "
            "chat_template.jinja into its folder"
        )
    return tokenizer, context


def tokenize(job: Job, tokenizer: Any, context: int) -> list[list[list[int]]]:
    """Token ids of every request, by chunk, in the model's chat template.

    context: tokens the model can read. Raises SamplingError for a prompt that leaves no room for
    its response, or that the template refuses.
    """
    chunks: list[list[list[int]]] = []
    for requests in job.chunks:
        chunk: list[list[int]] = []
        for request in requests:
            if request.index == 0:
                ids = _prompt_ids(tokenizer, request)
            if len(ids) + job.max_new_tokens > context:
                raise SamplingError(
                    f"prompt {request.prompt} is too long: {len(ids)} tokens, and max_new_tokens="
                    f"{job.max_new_tokens} for the response, but {job.model} reads {context} in "
                    "all; shorten the prompt or lower max_new_tokens"
                )
            chunk.append(ids)
        chunks.append(chunk)
    return chunks


def _prompt_ids(tokenizer: Any, request: Request) -> list[int]:
    try:
        return prompt_ids(tokenizer, request.messages)
    except ChatTemplateError as error:
        raise SamplingError(f"prompt {request.prompt}: {error}, or drop the prompt") from error


def _response(tokenizer: Any, drawn: Generated) -> GeneratedResponse:
    text = response_text(tokenizer, drawn)
    return GeneratedResponse(str(text), len(drawn.ids), text.complete, text.end_token)


def job_from_json(line: str) -> Job:
    """Parse a job from one line of JSON, as `dataclasses.asdict` gives it."""
    fields = json.loads(line)
    fields["chunks"] = [[Request(**request) for request in chunk] for chunk in fields["chunks"]]
    return Job(**fields)


def main() -> None:
    """Read jobs from stdin and send messages to stdout; what libraries print goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    jobs: Queue[str] = Queue()
    threading.Thread(target=_read, args=(sys.stdin, jobs), daemon=True).start()

    def send(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    samplers = Samplers()
    while True:
        job = job_from_json(jobs.get())
        try:
            run(job, send, samplers)
        except Exception as error:
            traceback.print_exc()
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            send({"error": f"{kind}{error}"})
            return
        send({"done": True})


def _read(stdin: IO[str], jobs: Queue[str]) -> None:
    for line in stdin:
        jobs.put(line)
    os._exit(1)  # the caller is dead


if __name__ == "__main__":
    main()
