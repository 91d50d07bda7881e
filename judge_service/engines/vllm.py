"""vLLM in this process (AsyncLLM), on CPU and CUDA.

vLLM spawns child processes: a script that creates an engine needs the usual
`if __name__ == "__main__":` guard.

The language-model head computes in float32: in bfloat16 the margin between two labels takes only
five values. Other differences from vLLM's defaults on a CPU are in hardware/vllm_cpu.py.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from constitution.errors import install_hint
from hardware import vllm_cpu, vllm_logs
from hardware.dtypes import Dtype, dtype_name, multiplies_bfloat16
from hardware.memory import GIB, model_size
from judge_service.engine import EngineError, LabelLogprobs, Written
from judge_service.engines.model_folder import (
    ModelFolderError,
    context_limit,
    find_model_folder,
    model_name,
    weights_sha256,
)
from judge_service.engines.tokenizer import HFTokenizer
from judge_service.engines.warmup import warmup_prompt
from judge_service.settings import ServerSettings
from judge_service.types import ModelIdentity

OWNER = "RLAIF_ENGINE_OWNER"  # environment: our process id, for parent_watchdog.py
DEFAULT_CONTEXT_TOKENS = 8192
MAX_CPU_SEQUENCES = 64  # requests in one step; each costs a row of logits as wide as the vocabulary
_SHUTDOWN_SECONDS = 10.0

_log = logging.getLogger("judge_service")

_T = TypeVar("_T")


class VLLMEngine:
    """An `Engine` over one model folder or hub id.

    tensor_parallel_size: GPUs of this machine over which the model is split; it must divide the
    model's attention heads. For other parallelism use `vllm serve` and openai.py.
    kv_cache_gib: memory for the KV cache on each, GiB; None is 1 on CPU and what is free on CUDA.
    max_context_tokens: prompt and answer together; None is the model's own limit, at most 8192.
    dtype: of weights and activations; "auto" is bfloat16 where the hardware multiplies it natively,
    else float32, however the model is stored.
    step_tokens: prompt tokens computed in one step; None is as many as take about two seconds on a
    CPU, and vLLM's default on CUDA. seed: vLLM's, for writing.

    `start()` raises ModelFolderError, a user error, for an unsuitable model and EngineError for a
    failed start.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        tensor_parallel_size: int = 1,
        kv_cache_gib: float | None = None,
        max_context_tokens: int | None = None,
        dtype: Dtype = "auto",
        step_tokens: int | None = None,
        seed: int = 0,
    ) -> None:
        self._model = model
        self._tensor_parallel_size = tensor_parallel_size
        self._kv_cache_gib = kv_cache_gib
        self._requested_context_tokens = max_context_tokens
        self._dtype = dtype
        self._step_tokens = step_tokens
        self._seed = seed
        self._llm: Any = None
        self._tokenizer: HFTokenizer | None = None
        self._identity: ModelIdentity | None = None

    @property
    def identity(self) -> ModelIdentity:
        """The folder's name and the digest of its weights, vLLM's version, device and dtype."""
        return _started(self._identity)

    @property
    def tokenizer(self) -> HFTokenizer:
        """The tokenizer of the model folder. Raises EngineError before `start`."""
        return _started(self._tokenizer)

    @property
    def max_context_tokens(self) -> int:
        """As requested, else the model's own limit, at most DEFAULT_CONTEXT_TOKENS."""
        return int(_started(self._llm).model_config.max_model_len)

    @property
    def alive(self) -> bool:
        """Whether vLLM's processes run; False before `start` and after `close`."""
        return self._llm is not None and not self._llm.errored

    @property
    def recovers(self) -> bool:
        """False: a dead vLLM stays dead, and the server has to be restarted."""
        return False

    async def start(self) -> None:
        """Check the model, load it, check the labels and make one read."""
        folder = await asyncio.to_thread(find_model_folder, self._model)
        _set_environment()
        self._tokenizer = await asyncio.to_thread(HFTokenizer, folder)
        prompt_ids, label_ids = warmup_prompt(self._tokenizer, str(folder))
        try:
            digest = asyncio.create_task(asyncio.to_thread(weights_sha256, folder))
            await asyncio.to_thread(self._launch, folder)
            if self._llm.vllm_config.device_config.device_type == "cpu":
                await self._llm.collective_rpc("keep_seeds")
                await self._llm.collective_rpc("drop_packed_vocabulary")
            self._identity = self._identify(await digest)
            await self.read(prompt_ids, label_ids)
        except BaseException:
            await self.close()
            raise

    async def read(
        self,
        prompt_ids: Sequence[int],
        label_ids: Sequence[int],
        *,
        priority: int = 0,
        use_store: bool = True,
    ) -> LabelLogprobs:
        """As `Engine.read`; vLLM scores exactly the labels, and samples a token that is ignored."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            logprob_token_ids=list(label_ids),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        output = await self._generate(prompt_ids, params, priority)
        logprobs = output.outputs[0].logprobs[0]
        return LabelLogprobs(
            tuple(float(logprobs[label].logprob) for label in label_ids),
            prompt_tokens=len(prompt_ids),
            cached_tokens=output.num_cached_tokens or 0,
        )

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
        """As `Engine.write`; the seed is taken modulo 2**63, since vLLM reads -1 as none."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed % 2**63,  # vLLM takes -1 for "no seed"
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        output = await self._generate(prompt_ids, params, priority)
        token_ids = tuple(output.outputs[0].token_ids)
        return Written(
            text=self.tokenizer.decode(token_ids),
            token_ids=token_ids,
            complete=output.outputs[0].finish_reason == "stop",
            prompt_tokens=len(prompt_ids),
            cached_tokens=output.num_cached_tokens or 0,
        )

    async def forget_prefixes(self) -> None:
        """Empty the prefix cache: needed after new weights, and for fair measurements."""
        await _started(self._llm).reset_prefix_cache()

    async def close(self) -> None:
        """Stop the engine's processes, which takes seconds; reads in progress end in EngineError.

        A closed engine is not alive; closing twice is harmless.
        """
        llm, self._llm = self._llm, None
        if llm is not None:
            if llm.output_handler is not None and not llm.get_num_unfinished_requests():
                llm.output_handler.cancel()  # it would report the end as a failure
            await asyncio.to_thread(llm.shutdown, _SHUTDOWN_SECONDS)
            await asyncio.sleep(0)  # vLLM closes its sockets in a callback of this loop
            llm.engine_core.resources.ctx.destroy(linger=0)  # vLLM leaves that to the collector
            del llm
            gc.collect()  # or its cycles are finalized as the interpreter is torn down

    async def _generate(self, prompt_ids: Sequence[int], params: Any, priority: int) -> Any:
        from vllm.inputs import tokens_input

        llm = _started(self._llm)
        final = None
        try:
            async for output in llm.generate(
                tokens_input(list(prompt_ids)), params, uuid.uuid4().hex, priority=priority
            ):
                final = output
        except Exception as error:  # whatever vLLM raises
            state = "refused the prompt" if self.alive else "died; restart the server"
            raise EngineError(f"the vLLM engine {state}: {error}") from error
        if final is None:
            raise EngineError("the vLLM engine ended a request without an answer")
        return final

    def _launch(self, folder: Path) -> None:
        """Sets `_llm`. Blocks for 15 to 80 seconds."""
        context_tokens = self._context_tokens(folder)
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.platforms import current_platform
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise EngineError(f"vLLM is not installed; {install_hint('vllm')}") from error
        dtype = dtype_name(self._dtype)
        own: dict[str, Any] = {}
        kv_cache_gib = self._kv_cache_gib
        if current_platform.is_cpu():
            for variable, value in vllm_cpu.environment().items():
                os.environ.setdefault(variable, value)
            kv_cache_gib = kv_cache_gib or vllm_cpu.KV_CACHE_GIB
            _log_memory(folder, dtype, kv_cache_gib)
            own = vllm_cpu.engine_arguments(
                folder, self._dtype, sequences=MAX_CPU_SEQUENCES, tokens=self._step_tokens
            )
        elif self._step_tokens is not None:
            own = {"max_num_batched_tokens": self._step_tokens}
        args = AsyncEngineArgs(
            model=str(folder),
            dtype=dtype,
            seed=self._seed,
            tensor_parallel_size=self._tensor_parallel_size,
            max_model_len=context_tokens,
            enable_prefix_caching=True,
            kv_cache_memory_bytes=int(kv_cache_gib * GIB) if kv_cache_gib else None,
            hf_overrides={"head_dtype": "float32"},
            scheduling_policy="priority",
            use_tqdm_on_load=not os.environ.get(
                "TQDM_DISABLE"
            ),  # vLLM overrides tqdm's own reading
            worker_extension_cls="judge_service.engines.parent_watchdog.ParentWatchdog",
            **own,
        )
        try:
            config = args.create_engine_config()
        except ValueError as error:
            raise ModelFolderError(f"{folder}: vLLM cannot run this model: {error}") from error
        try:
            self._llm = AsyncLLM.from_vllm_config(config, disable_log_stats=True)
        except Exception as error:  # vLLM raises RuntimeError, ValueError, OSError, ...
            raise EngineError(
                f"vLLM could not start with {folder.name}: {error}; see its log above for the "
                "cause (often too little memory: try a smaller kv_cache_gib or "
                "max_context_tokens)"
            ) from error

    def _context_tokens(self, folder: Path) -> int:
        limit = context_limit(folder)
        requested = self._requested_context_tokens
        if requested is None:
            return min(DEFAULT_CONTEXT_TOKENS, limit or DEFAULT_CONTEXT_TOKENS)
        if limit is not None and requested > limit:
            raise ModelFolderError(
                f"{folder.name}: max_context_tokens is {requested}, the model's limit is {limit}; "
                "lower it"
            )
        return requested

    def _identify(self, weights_digest: str) -> ModelIdentity:
        import vllm
        from vllm.platforms import current_platform

        return ModelIdentity(
            name=model_name(self._model),
            weights_sha256=weights_digest,
            tokenizer_sha256=self.tokenizer.sha256,
            dtype=str(self._llm.model_config.dtype).removeprefix("torch."),
            engine=f"vllm {vllm.__version__} {current_platform.device_type}, float32 head"
            + (f", tensor parallel {gpus}" if (gpus := self._tensor_parallel_size) > 1 else ""),
        )


def from_settings(settings: ServerSettings) -> VLLMEngine:
    """The engine of a server's settings, not yet started."""
    return VLLMEngine(
        settings.model,
        tensor_parallel_size=settings.tensor_parallel_size,
        kv_cache_gib=settings.kv_cache_gib,
        max_context_tokens=settings.max_context_tokens,
        dtype=settings.dtype,
        step_tokens=settings.step_tokens,
    )


def _started(value: _T | None) -> _T:
    if value is None:
        raise EngineError("the engine is not running: start() it first, or it was closed")
    return value


def _set_environment() -> None:
    """Configure vLLM through the environment, which its child processes inherit.

    The model is a folder by now, so nothing needs the network. What the user has set stays.
    """
    os.environ[OWNER] = str(os.getpid())
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for variable, value in vllm_logs.environment().items():
        os.environ.setdefault(variable, value)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")


def _log_memory(folder: Path, dtype: str, kv_cache_gib: float) -> None:
    """Log the model's memory needs. Raises UserError if that much is not free."""
    loading, lasting = vllm_cpu.check_memory(folder.name, model_size(folder), dtype, kv_cache_gib)
    why = "" if dtype != "float32" or multiplies_bfloat16() else ", as this CPU lacks bfloat16"
    _log.info(
        "%s in %s%s: about %.1f GiB of memory, %.1f while it loads",
        *(folder.name, dtype, why, lasting, loading),
    )
