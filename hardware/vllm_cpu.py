"""vLLM on a CPU: the settings and corrections that the judge, the sampler and rollouts share.

Settings that are not vLLM's defaults, with why (measured on two CPU cores):

- prefix caching with blocks of 32 tokens (default 128): 1.4 times the reads per second;
- eager mode: starts in 20 s instead of 70 s; compiled gains 10 %; without TorchDynamo the first
  read needs no C++ compiler and half a second instead of ten;
- all cores compute (`nobind`); by default vLLM keeps one for itself;
- prompts are computed in chunks, so that one step of the engine takes a second or two. By default
  a step takes all that waits, up to the context's length: minutes on two cores, in which nobody is
  answered, and beyond vLLM's time limit for a step the engine dies.

vLLM draws a token after every chunk of a prompt and throws away all but the last. It then rewinds
the generators of seeded requests, which a CPU's generator does not support: the engine died of it.
`SeedsSurviveChunks` keeps their generators out of reach until the prompt is complete.

Written for vLLM 0.32; the class below runs inside its workers.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from constitution.errors import UserError
from hardware.dtypes import Dtype
from hardware.memory import GIB, ModelSize, available_bytes, model_size
from hardware.speed import matmul_gflops

BLOCK_TOKENS = 32
KV_CACHE_GIB = 1.0  # the default; vLLM's own is half of the memory
STEP_SECONDS = 2.0
# At least and at most. 32 rows are multiplied at 56 % of the speed of 512, 64 rows at 73 %, 256 at
# 95 % (float32, one AVX2 core): there is little to gain beyond.
STEP_TOKENS = (64, 2048)
# For sampling in bulk, where nobody waits for a turn: fixed, so that a run that was killed computes
# the same sums when it goes on.
BULK_STEP_TOKENS = 2048
UNKNOWN_STEP_TOKENS = 512  # where the model's size is unknown: a hub id that is not fetched yet
STEP_LIMIT = "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS"  # environment: a step that takes longer is fatal
_VLLM_STEP_LIMIT_SECONDS = 300  # its default
_PROCESSES_GIB = 2.0  # Python, libraries and activations of the server and vLLM's two processes


def step_tokens(weights: int, gflops: float) -> int:
    """Tokens that one step may compute, a whole number of cache blocks.

    weights: those that every token is multiplied by, which costs two operations each; at `gflops`,
    `STEP_SECONDS` are this many tokens.
    """
    if weights <= 0:
        return UNKNOWN_STEP_TOKENS
    tokens = STEP_SECONDS * gflops * 1e9 / (2 * weights)
    least, most = STEP_TOKENS
    return min(most, max(least, round(tokens / BLOCK_TOKENS) * BLOCK_TOKENS))


def engine_arguments(
    model: str | Path, dtype: Dtype, *, sequences: int, tokens: int | None = None
) -> dict[str, Any]:
    """Keyword arguments of vLLM's engine for short steps; takes a second, to measure the CPU.

    sequences: requests that may run at the same time. tokens: of a step, where given.
    A model so large that even short steps come near vLLM's limit for a step gets a higher limit.
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
    """Environment variables, to be set before vLLM is imported where the user set none.

    Raises UserError on a machine without `lscpu`.
    """
    if shutil.which("lscpu") is None:
        raise UserError(
            "vLLM on a CPU needs the command `lscpu`, which is missing; install the "
            "package util-linux"
        )
    return {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "TORCHDYNAMO_DISABLE": "1",  # right only with enforce_eager
        # Waiting threads of libgomp spin; beside any other work on the cores that costs far more
        # than the sleep it saves (222 against 48 tokens/s of sampling at load 6).
        "GOMP_SPINCOUNT": "1000",
    }


def memory_gib(
    size: ModelSize, dtype: str, kv_cache_gib: float = KV_CACHE_GIB
) -> tuple[float, float]:
    """What a judge's three processes take, GiB: (while it loads, afterwards).

    While loading, vLLM packs a copy of the vocabulary (see `drop_packed_vocabulary`). A head that
    computes in float32 over a model in 16 bits is a copy of its own. Measured with 1.8 billion
    weights, a quarter of them vocabulary, in float32: 12.1 and 9.7.
    """
    width = 4 if dtype == "float32" else 2
    head = 0 if dtype == "float32" else 4 * size.vocabulary
    lasting = (size.parameters * width + head) / GIB + kv_cache_gib + _PROCESSES_GIB
    return lasting + size.vocabulary * width / GIB, lasting


def check_memory(
    name: str, size: ModelSize, dtype: str, kv_cache_gib: float = KV_CACHE_GIB
) -> tuple[float, float]:
    """As `memory_gib`, (0, 0) where the size is unknown. Raises UserError where it is not free."""
    if not size.parameters:
        return 0.0, 0.0
    loading, lasting = memory_gib(size, dtype, kv_cache_gib)
    free = available_bytes()
    if free is not None and free < loading * GIB:
        other = memory_gib(size, "bfloat16", kv_cache_gib)[0]
        remedy = f", or dtype bfloat16 ({other:.1f} GiB, and slow here)" * (dtype == "float32")
        raise UserError(
            f"too little memory for {name} in {dtype}: {free / GIB:.1f} GiB are free, and loading "
            f"it takes about {loading:.1f}; stop other programs, or choose a smaller model, a "
            f"smaller kv_cache_gib (now {kv_cache_gib:g}){remedy}"
        )
    return loading, lasting


class SeedsSurviveChunks:
    """A worker extension (vLLM's `worker_extension_cls`). After the engine has started, call

    collective_rpc("keep_seeds")               seeded sampling works beside chunked prompts
    collective_rpc("drop_packed_vocabulary")   less memory, where the head is rarely used
    """

    model_runner: Any

    def keep_seeds(self) -> None:
        """No token that is thrown away is drawn from a request's own generator."""
        runner = self.model_runner
        draw = runner.sample_tokens

        def draw_for_complete_prompts(grammar_output: Any) -> Any:
            # The batch's dictionary of generators by row is what the sampler draws from and what
            # is rewound afterwards; a row that is not in it draws from the global generator.
            generators = runner.input_batch.generators
            incomplete = runner.discard_request_mask.np
            held_back = {row: generators.pop(row) for row in [*generators] if incomplete[row]}
            try:
                return draw(grammar_output)
            finally:
                generators.update(held_back)

        runner.sample_tokens = draw_for_complete_prompts

    def drop_packed_vocabulary(self) -> None:
        """Free oneDNN's packed copies of the input embedding, which nobody multiplies by, and of
        the head, of which a judge needs one row per read: 1.7 GiB of a 1.5B model in float32."""
        import torch
        from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

        for layer in self.model_runner.get_model().modules():
            if isinstance(layer, VocabParallelEmbedding) and hasattr(layer, "cpu_linear"):
                layer.cpu_linear = torch.nn.functional.linear
