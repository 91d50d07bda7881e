"""Sampling with vLLM in this process, over the policy under training or a model in its folder.

Both use the same engine arguments and sampling parameters, so that equal weights, prompts
and seeds give equal responses. A prompt's responses share its keys and values.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hardware import vllm_cpu, vllm_logs
from hardware.dtypes import Dtype, dtype_name
from hardware.memory import GIB
from rlaif.generation.base import FolderModel, Generated, SamplingError, training_processes
from rlaif.generation.weight_sync import EXTENSION, hand_over

if TYPE_CHECKING:
    from torch import Tensor

    from rlaif.models.backbone import Backbone

MAX_SEQUENCES = 256  # responses of the policy drawn at the same time
_IN_PROCESS = "VLLM_ENABLE_V1_MULTIPROCESSING"


class VLLMSampler:
    """Samples the role "policy" of a backbone; every `sync` hands its weights to the engine.

    max_tokens: prompt and response together. kv_cache_gib: GiB of keys and values, reserved at
    once. Raises SamplingError when vLLM cannot start.
    """

    exact = False

    def __init__(self, backbone: Backbone, max_tokens: int, kv_cache_gib: float) -> None:
        self._backbone = backbone
        self._synced = False
        self._owns_group = training_processes() == 0
        try:
            self._llm: Any = _start_over(backbone, max_tokens, kv_cache_gib)
        except SamplingError:
            self._leave_group()
            raise

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float,
        seeds: Sequence[int],
        top_p: float = 1.0,
    ) -> list[Generated]:
        """Sample as `Sampler.generate`; `sync` must have been called before."""
        assert self._synced, "sync() comes before generate(): the engine holds the bare base"
        ends = self._backbone.eos_ids
        return draw(self._llm, prompts, max_new_tokens, temperature, seeds, top_p, ends)

    def sync(self) -> None:
        """Copy the policy's merged weights into the engine, and empty its prefix cache."""
        hand_over(self._llm, self._backbone.named_weights("policy"))
        self._synced = True

    def close(self) -> None:
        """Shut the engine down, and the process group that it created."""
        llm, self._llm = self._llm, None
        if llm is None:
            return
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()  # the engine is full of cycles
        self._leave_group()

    def _leave_group(self) -> None:
        """vLLM makes a process group of one, also where it then fails to start."""
        if self._owns_group and training_processes():
            from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

            cleanup_dist_env_and_memory()


class VLLMWorkerSampler:
    """Samples a model whose weights are sent to it: a rollout worker's, without a backbone.

    model: the folder or hub id that it starts from. ends: ids of the tokens that end a response.
    transfer: vLLM's weight-transfer backend, "" for weights by `take`. Raises SamplingError when
    vLLM cannot start.
    """

    exact = False

    def __init__(
        self, model: str, dtype: Dtype, max_tokens: int, kv_cache_gib: float,
        ends: frozenset[int], transfer: str = "",
    ) -> None:  # fmt: skip
        import torch

        on_cpu = not torch.cuda.is_available()
        self._ends = ends
        with _environment(on_cpu):
            self.llm: Any = start(
                model,
                dtype=dtype,
                max_tokens=max_tokens,
                kv_cache_gib=kv_cache_gib,
                sequences=None,
                on_cpu=on_cpu,
                transfer=transfer,
            )

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float,
        seeds: Sequence[int],
        top_p: float = 1.0,
    ) -> list[Generated]:
        """Sample as `Sampler.generate`."""
        return draw(self.llm, prompts, max_new_tokens, temperature, seeds, top_p, self._ends)

    def take(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replace the weights, (name as in a folder, tensor), and empty the prefix cache."""
        hand_over(self.llm, weights)

    def sync(self) -> None:
        """Do nothing: weights come by `take`, or by vLLM's own transfer."""

    def close(self) -> None:
        """Do nothing: the engine's memory is freed when the process ends."""


class VLLMFolderSampler:
    """Samples a model loaded unchanged from its folder; its engine lives as long as the process.

    Raises SamplingError when vLLM cannot start.
    """

    exact = False

    def __init__(self, model: FolderModel) -> None:
        import torch

        on_cpu = not torch.cuda.is_available()
        environment = vllm_logs.environment() | (vllm_cpu.environment() if on_cpu else {})
        for variable, value in environment.items():
            os.environ.setdefault(variable, value)
        self._ends = _end_tokens(model)
        self._llm = start(
            model.name,
            dtype=model.dtype,
            max_tokens=model.max_tokens,
            kv_cache_gib=model.kv_cache_gib,
            sequences=model.sequences,
            on_cpu=on_cpu,
        )

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float,
        seeds: Sequence[int],
        top_p: float = 1.0,
    ) -> list[Generated]:
        """Sample as `Sampler.generate`, with the end tokens of the folder."""
        return draw(self._llm, prompts, max_new_tokens, temperature, seeds, top_p, self._ends)

    def sync(self) -> None:
        """Empty the prefix cache, so that a chunk does not depend on earlier ones."""
        self._llm.reset_prefix_cache()

    def close(self) -> None:
        """Do nothing: the engine's memory is freed when the process ends."""


def start(
    model: str,
    *,
    dtype: Dtype,
    max_tokens: int,
    kv_cache_gib: float,
    sequences: int | None,
    on_cpu: bool,
    transfer: str = "",
) -> Any:
    """Start a synchronous `vllm.LLM` over a model folder.

    max_tokens: prompt and response together. kv_cache_gib: GiB of keys and values. sequences:
    responses drawn at the same time; None for vLLM's default (on a CPU, MAX_SEQUENCES). transfer: a
    weight-transfer backend of vLLM. Raises SamplingError when vLLM cannot start.
    """
    from vllm import LLM

    own: dict[str, Any] = {} if sequences is None else {"max_num_seqs": sequences}
    if on_cpu:
        own = vllm_cpu.engine_arguments(
            model, dtype, sequences=sequences or MAX_SEQUENCES, tokens=vllm_cpu.BULK_STEP_TOKENS
        )
    if transfer:
        from vllm.config import WeightTransferConfig

        own["weight_transfer_config"] = WeightTransferConfig(backend=transfer)
    try:
        llm = LLM(
            model,
            skip_tokenizer_init=True,
            dtype=dtype_name(dtype),
            seed=0,  # of nothing that is used: every response has its own
            max_model_len=max_tokens,
            kv_cache_memory_bytes=int(kv_cache_gib * GIB),
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",  # after the temperature: what is drawn from
            generation_config="vllm",  # the folder's own top_k, … would change the policy
            worker_extension_cls=EXTENSION,
            disable_log_stats=True,
            use_tqdm_on_load=False,
            **own,
        )
        if on_cpu:
            llm.collective_rpc("keep_seeds")
        return llm
    except Exception as error:  # vLLM raises RuntimeError, ValueError, OSError, …
        raise SamplingError(
            f"vLLM could not start with {model}: {error}; often the memory is too little for "
            f"{max_tokens} tokens of prompt and response: change kv_cache_gib (now {kv_cache_gib}),"
            " or choose engine=transformers"
        ) from error


def draw(
    llm: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    seeds: Sequence[int],
    top_p: float,
    ends: frozenset[int],
) -> list[Generated]:
    """Sample one response per prompt as `Sampler.generate`, with a synchronous `vllm.LLM`.

    ends: ids of the tokens that end a response.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    params = [
        SamplingParams(
            max_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            stop_token_ids=sorted(ends),
            logprobs=0,  # of the drawn token alone
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        for seed in seeds
    ]
    inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
    outputs = [each.outputs[0] for each in llm.generate(inputs, params, use_tqdm=False)]
    return [
        Generated(
            list(o.token_ids),
            [float(at[t].logprob) for at, t in zip(o.logprobs, o.token_ids, strict=True)],
            o.finish_reason == "stop",
        )
        for o in outputs
    ]


def _end_tokens(model: FolderModel) -> frozenset[int]:
    from transformers import AutoConfig, GenerationConfig

    from rlaif.models.folder import end_token_ids

    try:
        config = GenerationConfig.from_pretrained(model.name)
    except OSError:  # a folder without generation_config.json
        config = GenerationConfig.from_model_config(AutoConfig.from_pretrained(model.name))
    return end_token_ids(model.tokenizer, config)


def _start_over(backbone: Backbone, max_tokens: int, kv_cache_gib: float) -> Any:
    """The engine over the backbone's own folder, in its dtype."""
    import torch

    on_cpu = backbone.device.type == "cpu"
    dtype: Dtype = "bfloat16" if backbone.dtype is torch.bfloat16 else "float32"
    with _environment(on_cpu), _undisturbed():
        return start(
            backbone.name,
            dtype=dtype,
            max_tokens=max_tokens,
            kv_cache_gib=kv_cache_gib,
            sequences=None,
            on_cpu=on_cpu,
        )


@contextmanager
def _environment(on_cpu: bool) -> Iterator[None]:
    """The variables that vLLM reads when it is imported and started; values set by the user stay.

    They are removed afterwards, with what vLLM sets beside its own variables: a judge started by
    this process needs other values, and LOCAL_WORLD_SIZE looks like a launcher to accelerate.
    Raises SamplingError where the user's values put the engine into another process."""
    wanted = {
        _IN_PROCESS: "0",  # its weights are handed over by reference
        "VLLM_LOGGING_LEVEL": "ERROR",  # it warns of tied heads at every sync
        "VLLM_NO_USAGE_STATS": "1",
        **vllm_logs.environment("ERROR"),
    }
    if on_cpu:
        wanted |= vllm_cpu.environment()
    if os.environ.get(_IN_PROCESS, "0") != "0":
        raise SamplingError(
            f"{_IN_PROCESS}={os.environ[_IN_PROCESS]} is set, but rollouts need vLLM in the "
            "trainer's own process; unset it, or choose engine=transformers"
        )
    before = dict(os.environ)
    os.environ.update({name: value for name, value in wanted.items() if name not in before})
    try:
        if "vllm" in sys.modules:  # it may have read and kept another value
            import vllm.envs

            if vllm.envs.VLLM_ENABLE_V1_MULTIPROCESSING:
                raise SamplingError(
                    f"vLLM was used in this process before rollouts could set {_IN_PROCESS}=0; set "
                    "it in the environment before starting, or choose engine=transformers"
                )
        yield
    finally:
        ours = {*wanted, vllm_cpu.STEP_LIMIT}
        own = {name for name in os.environ if name.startswith("VLLM_")} - ours
        for name in os.environ.keys() - before.keys() - own:
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """vLLM's start seeds torch's global generator, and on CPU replaces torch.set_num_threads by a
    warning. The trainer keeps both as they were."""
    import torch

    set_num_threads = torch.set_num_threads
    devices = range(torch.cuda.device_count())
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        torch.set_num_threads = set_num_threads
