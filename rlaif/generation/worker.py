"""The process that samples: it holds the policy while `offline` asks, then it is gone.

Its own process, so that the engine's threads and memory go with it, and so that the caller needs
neither torch nor vLLM. One JSON object per line: a `Job` comes in on stdin, a `Chunk` (or an error)
per chunk of prompts goes out on stdout. When stdin closes, the caller is dead and so is this.

vLLM where it is installed, transformers elsewhere. Both draw every response from its own seed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any, Literal

from hardware import vllm_cpu, vllm_logs
from hardware.dtypes import Dtype, dtype_name, resolve_dtype

EngineName = Literal["vllm", "transformers"]


@dataclass(frozen=True, slots=True)
class Request:
    """One response wanted: the conversation it answers, which of the prompt's n, its own seed."""

    prompt: str  # the prompt's id
    messages: list[dict[str, str]]
    index: int
    seed: int


@dataclass(frozen=True, slots=True)
class Job:
    """What to sample. `chunks` before `start` are done; they still count for the longest prompt."""

    model: str
    engine: EngineName
    dtype: Dtype
    max_tokens: int
    temperature: float
    top_p: float
    kv_cache_gib: float
    seed: int
    start: int
    chunks: list[list[Request]]


@dataclass(frozen=True, slots=True)
class GeneratedResponse:
    """What came for a request; `tokens` counts the end token too."""

    text: str
    tokens: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Chunk:
    """The responses to one chunk of requests, in their order."""

    responses: list[GeneratedResponse]
    seconds: float


# (token ids of the prompts, their seeds) → responses, in order
Generate = Callable[[list[list[int]], Sequence[int]], list[GeneratedResponse]]


class JobError(ValueError):
    """Something in the job that the user can mend."""


def run(job: Job, send: Callable[[dict[str, Any]], None]) -> None:
    """Answer the chunks from `job.start` on, each as soon as it is finished."""
    chunks, longest = tokenize(job)
    send({"loading": job.engine})
    load = vllm_engine if job.engine == "vllm" else transformers_engine
    generate = load(job, longest + job.max_tokens)
    for ids, requests in zip(chunks[job.start :], job.chunks[job.start :], strict=True):
        begin = time.monotonic()
        responses = generate(ids, [request.seed for request in requests])
        send(asdict(Chunk(responses, time.monotonic() - begin)))


def tokenize(job: Job) -> tuple[list[list[list[int]]], int]:
    """Token ids of every request through the model's chat template, and the longest length."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(job.model)
        context = AutoConfig.from_pretrained(job.model).get_text_config().max_position_embeddings
    except OSError as error:
        raise JobError(f"model {job.model} cannot be loaded: {error}") from error
    if not tokenizer.chat_template:
        raise JobError(
            f"model {job.model} has no chat template, so it does not know what a turn is; "
            "use an instruction-tuned model, or put a chat_template.jinja into its folder"
        )
    longest = 0
    chunks: list[list[list[int]]] = []
    for requests in job.chunks:
        chunk: list[list[int]] = []
        for request in requests:
            if request.index == 0:
                ids = tokenizer.apply_chat_template(
                    request.messages, add_generation_prompt=True, return_dict=False
                )
            if len(ids) + job.max_tokens > context:
                raise JobError(
                    f"prompt {request.prompt} is too long: {len(ids)} tokens, and max_tokens="
                    f"{job.max_tokens} for the response, but {job.model} reads {context} in all; "
                    "shorten the prompt or lower max_tokens"
                )
            chunk.append(ids)
            longest = max(longest, len(ids))
        chunks.append(chunk)
    return chunks, longest


def vllm_engine(job: Job, context: int) -> Generate:
    """vLLM's synchronous engine in this process."""
    import torch

    on_cpu = not torch.cuda.is_available()
    sequences = max(len(chunk) for chunk in job.chunks)
    own: dict[str, Any] = {"max_num_seqs": sequences}
    environment = vllm_logs.environment()
    if on_cpu:
        environment |= vllm_cpu.environment()
        own = vllm_cpu.engine_arguments(
            job.model, job.dtype, sequences=sequences, tokens=vllm_cpu.BULK_STEP_TOKENS
        )
    for variable, value in environment.items():
        os.environ.setdefault(variable, value)
    from vllm import LLM, SamplingParams

    llm = LLM(
        job.model,
        dtype=dtype_name(job.dtype),
        seed=job.seed,
        max_model_len=context,
        kv_cache_memory_bytes=int(job.kv_cache_gib * 2**30),
        generation_config="vllm",  # the model folder's own top_k, top_p, … would change the policy
        worker_extension_cls="hardware.vllm_cpu.SeedsSurviveChunks",
        disable_log_stats=True,
        **own,
    )
    if on_cpu:
        llm.collective_rpc("keep_seeds")

    def generate(prompts: list[list[int]], seeds: Sequence[int]) -> list[GeneratedResponse]:
        llm.reset_prefix_cache()  # a chunk comes out the same whatever came before it
        params = [
            SamplingParams(
                max_tokens=job.max_tokens, temperature=job.temperature, top_p=job.top_p, seed=seed
            )
            for seed in seeds
        ]
        inputs = [{"prompt_token_ids": ids} for ids in prompts]
        outputs = [request.outputs[0] for request in llm.generate(inputs, params, use_tqdm=False)]
        return [
            GeneratedResponse(o.text, len(o.token_ids), o.finish_reason == "stop") for o in outputs
        ]

    return generate


def transformers_engine(job: Job, context: int) -> Generate:
    """transformers' generate: greedy over logits with each row's own Gumbel noise.

    argmax(logits / T + Gumbel noise) is a draw from softmax(logits / T), so that a row depends on
    its own seed only and not on who shares its batch.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.generation.logits_process import TopPLogitsWarper

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    model = (
        AutoModelForCausalLM.from_pretrained(job.model, dtype=resolve_dtype(job.dtype))
        .to(device)
        .eval()
    )
    ends = model.generation_config.eos_token_id or tokenizer.eos_token_id
    ends = [ends] if isinstance(ends, int) else list(ends)
    config = GenerationConfig(
        max_new_tokens=job.max_tokens, do_sample=False, eos_token_id=ends, pad_token_id=ends[0]
    )

    def generate(prompts: list[list[int]], seeds: Sequence[int]) -> list[GeneratedResponse]:
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), ends[0], device=device)  # (B, T), left-padded
        mask = torch.zeros_like(ids)  # (B, T)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt, device=device)
            mask[row, width - len(prompt) :] = 1
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        nucleus = TopPLogitsWarper(job.top_p) if job.top_p < 1 else None

        def perturb(seen: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
            scaled = logits.float() / job.temperature  # (B, V)
            scaled = nucleus(seen, scaled) if nucleus else scaled
            noise = torch.stack(
                [torch.empty(logits.shape[1]).exponential_(generator=g) for g in generators]
            )  # (B, V); minus the log of an exponential is Gumbel
            return scaled - noise.log().to(device)

        with torch.inference_mode():
            rows = model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=config,
                logits_processor=[perturb] if job.temperature > 0 else [],
            )[:, width:].tolist()
        return [_cut(row, ends, tokenizer) for row in rows]

    return generate


def _cut(row: list[int], ends: list[int], tokenizer: Any) -> GeneratedResponse:
    """A row of new tokens up to its first end token, which counts but is not text."""
    place = next((place for place, token in enumerate(row) if token in ends), None)
    tokens = row if place is None else row[: place + 1]
    return GeneratedResponse(
        tokenizer.decode(tokens, skip_special_tokens=True), len(tokens), place is not None
    )


def job_from_json(line: str) -> Job:
    fields = json.loads(line)
    fields["chunks"] = [[Request(**request) for request in chunk] for chunk in fields["chunks"]]
    return Job(**fields)


def main() -> None:
    """Read a job from stdin, answer on stdout; whatever else libraries print goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job = job_from_json(sys.stdin.readline())
    threading.Thread(target=_die_with_the_caller, args=(sys.stdin,), daemon=True).start()

    def send(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    try:
        run(job, send)
    except Exception as error:
        traceback.print_exc()
        kind = "" if isinstance(error, JobError) else f"{type(error).__name__}: "
        send({"error": f"{kind}{error}"})


def _die_with_the_caller(stdin: IO[str]) -> None:
    stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
