"""vLLM on a CPU: settings and fixes shared by the judge, the sampler and rollouts.

Settings that differ from vLLM's defaults, and why (measured on two CPU cores):

- prefix caching with blocks of 32 tokens (default 128): 1.4 times the reads per second;
- eager mode: starts in 20 s instead of 70 s, where compilation gains 10 %; without TorchDynamo the
  first read needs no C++ compiler, and half a second instead of ten;
- all cores compute (`nobind`); by default vLLM reserves one;
- chunked prefill, so that an engine step takes one or two seconds. By default a step computes
  everything that waits, up to the context's length: on two cores minutes without an answer, and
  beyond vLLM's time limit for a step the engine dies.

vLLM samples a token after every chunk of a prompt and discards all but the last. It then rewinds
the generators of seeded requests, which a CPU generator does not support, and the engine dies.
`SeedsSurviveChunks` hides these generators until the prompt is complete.

Written for vLLM 0.32; the class below runs inside its workers.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from constitution.errors import UserError
from hardware.dtypes import Dtype
from hardware.memory import GIB, ModelSize, available_bytes, give_back_freed, model_size
from hardware.speed import matmul_gflops

BLOCK_TOKENS = 32
KV_CACHE_GIB = 1.0  # our default; vLLM's own is half of the memory
STEP_SECONDS = 2.0
# (minimum, maximum). 32 rows are multiplied at 56 % of the speed of 512, 64 rows at 73 %, 256 at
# 95 % (float32, one AVX2 core): there is little to gain beyond.
STEP_TOKENS = (64, 2048)
# For bulk sampling, where latency does not matter: fixed, so that a resumed run computes the same
# sums as the interrupted one.
BULK_STEP_TOKENS = 2048
UNKNOWN_STEP_TOKENS = 512  # if the model's size is unknown, as for a hub id not downloaded yet
STEP_LIMIT = "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS"  # environment: a step that takes longer is fatal
_VLLM_STEP_LIMIT_SECONDS = 300  # its default
_PROCESSES_GIB = 2.0  # Python, libraries and activations of the server and vLLM's two processes


def step_tokens(weights: int, gflops: float) -> int:
    """Tokens per engine step, so that it takes about STEP_SECONDS; a multiple of BLOCK_TOKENS.

    weights: those that every token is multiplied by, at two operations each. gflops: the speed of
    the CPU, GFLOP/s.
    """
    if weights <= 0:
        return UNKNOWN_STEP_TOKENS
    tokens = STEP_SECONDS * gflops * 1e9 / (2 * weights)
    least, most = STEP_TOKENS
    return min(most, max(least, round(tokens / BLOCK_TOKENS) * BLOCK_TOKENS))


def engine_arguments(
    model: str | Path, dtype: Dtype, *, sequences: int, tokens: int | None = None
) -> dict[str, Any]:
    """Keyword arguments of vLLM's engine for short steps. Takes a second, to measure the CPU.

    sequences: maximum concurrent requests. tokens: per step; None: computed from the CPU's speed.
    Where a step may come near vLLM's time limit, raises that limit in the environment.
    """
    size = model_size(Path(model))
    weights = size.parameters - size.vocabulary  # the head is computed for a row per request
    gflops = matmul_gflops(dtype)
    tokens = max(tokens or step_tokens(weights, gflops), sequences)
    expected = 2 * weights * tokens / (gflops * 1e9)
    if 60 * expected > _VLLM_STEP_LIMIT_SECONDS:  # 60: other work on the cores
        os.environ.setdefault(STEP_LIMIT, str(round(60 * expected)))
    return {
        "enforce_eager": True,
        "block_size": BLOCK_TOKENS,
        "enable_chunked_prefill": True,
        "max_num_batched_tokens": tokens,
        "max_num_seqs": sequences,
    }


def environment() -> dict[str, str]:
    """Environment variables to set, unless the user has, before vLLM is imported.

    Raises UserError on a machine without `lscpu`.
    """
    if shutil.which("lscpu") is None:
        raise UserError(
            "vLLM on a CPU needs the command `lscpu`, which is missing; install the package "
            "util-linux"
        )
    return {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "TORCHDYNAMO_DISABLE": "1",  # right only with enforce_eager
        # Waiting threads of libgomp spin. On busy cores that costs far more than the sleep it
        # saves (222 instead of 48 tokens/s of sampling at load 6).
        "GOMP_SPINCOUNT": "1000",
    }


def memory_gib(
    size: ModelSize, dtype: str, kv_cache_gib: float = KV_CACHE_GIB
) -> tuple[float, float]:
    """Memory of a judge's three processes, in GiB: (while it loads, afterwards).

    While loading, vLLM packs a copy of the vocabulary (see `drop_packed_vocabulary`). A float32
    head on a 16-bit model is a separate copy. Measured with 1.8 billion weights, a quarter of them
    vocabulary, in float32: 12.1 and 9.7.
    """
    width = 4 if dtype == "float32" else 2
    head = 0 if dtype == "float32" else 4 * size.vocabulary
    afterwards = (size.parameters * width + head) / GIB + kv_cache_gib + _PROCESSES_GIB
    return afterwards + size.vocabulary * width / GIB, afterwards


def check_memory(
    name: str, size: ModelSize, dtype: str, kv_cache_gib: float = KV_CACHE_GIB
) -> tuple[float, float]:
    """As `memory_gib`; (0, 0) if the size is unknown. Raises UserError if too little is free."""
    if not size.parameters:
        return 0.0, 0.0
    loading, afterwards = memory_gib(size, dtype, kv_cache_gib)
    free = available_bytes()
    if free is not None and free < loading * GIB:
        other = memory_gib(size, "bfloat16", kv_cache_gib)[0]
        remedy = f", or dtype bfloat16 ({other:.1f} GiB, and slow here)" * (dtype == "float32")
        raise UserError(
            f"too little memory for {name} in {dtype}: {free / GIB:.1f} GiB are free, loading it "
            f"takes about {loading:.1f}; stop other programs, or choose a smaller model, a smaller "
            f"kv_cache_gib (now {kv_cache_gib:g}){remedy}"
        )
    return loading, afterwards


class SeedsSurviveChunks:
    """Worker extension for vLLM (`worker_extension_cls`) with two fixes.

    Once the engine has started, call

    collective_rpc("keep_seeds")               makes seeded sampling work with chunked prefill
    collective_rpc("drop_packed_vocabulary")   saves memory when the head is rarely used
    """

    model_runner: Any

    def keep_seeds(self) -> None:
        """Sample tokens that will be discarded from the global generator, not the request's."""
        runner = self.model_runner
        draw = runner.sample_tokens

        def draw_for_complete_prompts(grammar_output: Any) -> Any:
            # The sampler uses the batch's dictionary of generators by row and rewinds them
            # afterwards; a row that is not in it uses the global generator.
            generators = runner.input_batch.generators
            incomplete = runner.discard_request_mask.np
            hidden = {row: generators.pop(row) for row in [*generators] if incomplete[row]}
            try:
                return draw(grammar_output)
            finally:
                generators.update(hidden)

        runner.sample_tokens = draw_for_complete_prompts

    def drop_packed_vocabulary(self) -> None:
        """Free what the vocabulary takes beyond the head that is multiplied.

        oneDNN's packed copies of the input embedding and of the head: the embedding is never
        multiplied by, and a judge needs one row of the head per read. And half of an embedding of
        its own in float32 whose numbers are those of a bfloat16 file: rows are converted as they
        are looked up, which is exact. Frees 2.2 GiB of a 1.5B model in float32.
        """
        import torch
        from vllm.model_executor.layers import vocab_parallel_embedding as vocabulary

        layers = list(self.model_runner.get_model().modules())
        heads = [layer for layer in layers if isinstance(layer, vocabulary.ParallelLMHead)]
        for layer in layers:
            if isinstance(layer, vocabulary.VocabParallelEmbedding):
                if hasattr(layer, "cpu_linear"):
                    layer.cpu_linear = torch.nn.functional.linear
                if heads and all(layer.weight is not head.weight for head in heads):
                    store_in_bfloat16(layer)
        give_back_freed()


def store_in_bfloat16(embedding: Any) -> None:
    """Halve an embedding in float32 if that loses nothing; its rows are float32 as before."""
    from torch import bfloat16, float32
    from torch.nn import Parameter
    from torch.nn.functional import embedding as look_up

    weight = embedding.weight
    if weight.dtype != float32 or not (weight.to(bfloat16) == weight).all():
        return
    embedding.weight = Parameter(weight.to(bfloat16), requires_grad=False)
    embedding.quant_method.embedding = lambda layer, ids: look_up(ids, layer.weight).float()
