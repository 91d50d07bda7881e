"""The policy under training → responses with log π of each token, by transformers or by vLLM.

    sync()                                   the sampler takes over the policy's present weights
    generate(prompts, …, seeds)              one response per prompt, drawn from softmax(logits / T)

Nothing cuts the distribution (top_p = 1, top_k off), and the log-probs are those of what was drawn
from: log softmax(logits / T). Each response has its own seed, so that it is the same whoever is
sampled beside it, as far as floating-point sums in batches of other shapes allow.

    transformers    the trainer's own forward (`exact`: its log-probs may stand as old_logprobs)
    vLLM            its kernels round otherwise, so that exp(log π_trainer - log π_sampler) is near
                    1 and not 1: the trainer's log-probs are computed again, and the ratio weighs
                    the response

Both keep the keys and values of at most `kv_cache_gib` GiB at a time; vLLM on a CPU takes all of it
when it starts, so ask for no more than `kv_cache_needed`.
Left out: engines in other processes or on other GPUs (see docs/distributed.md for their recipe).
"""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol

from constitution.errors import UserError, install_hint
from hardware import vllm_cpu, vllm_logs
from hardware.dtypes import Dtype
from hardware.memory import GIB
from rlaif.generation.weight_sync import EXTENSION, hand_over
from rlaif.generation.worker import EngineName

if TYPE_CHECKING:
    from torch import Tensor

    from rlaif.models.backbone import Backbone, Generated

MAX_SEQUENCES = 256  # responses drawn at the same time
_IN_PROCESS = "VLLM_ENABLE_V1_MULTIPROCESSING"


class RolloutError(UserError):
    """A sampler that cannot be opened: which engine, why, and what to do."""


class Sampler(Protocol):
    """Responses of the policy. `exact`: the log-probs are the trainer's own."""

    exact: bool

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float,
        seeds: Sequence[int],
    ) -> list[Generated]:
        """One response per prompt, in order, each from its own seed. temperature > 0."""

    def sync(self) -> None:
        """Take over the policy's present weights; called before the first `generate` of each
        iteration."""

    def close(self) -> None:
        """Give the memory back. Harmless when done twice."""


def open_sampler(
    engine: Literal["auto", "vllm", "transformers"],
    backbone: Backbone,
    max_tokens: int,
    kv_cache_gib: float,
) -> Sampler:
    """A sampler of the role "policy". `max_tokens`: prompt and response together.

    auto is vLLM where it is installed and this is the only process of the training.
    Raises RolloutError: vLLM is absent, was imported with other settings, or cannot start.
    """
    if choose_engine(engine, _processes()) == "vllm":
        return VLLMSampler(backbone, max_tokens, kv_cache_gib)
    return TransformersSampler(backbone, max_tokens, kv_cache_gib)


def choose_engine(
    engine: Literal["auto", "vllm", "transformers"], processes: int = 1
) -> EngineName:
    """Which engine `open_sampler` takes. Raises RolloutError where vLLM is wanted and cannot be."""
    installed = importlib.util.find_spec("vllm") is not None
    if engine == "auto":
        return "vllm" if installed and processes <= 1 else "transformers"
    if engine == "vllm" and not installed:
        raise RolloutError(
            f"engine=vllm, but vLLM is not installed; {install_hint('vllm')}, or choose "
            "engine=transformers"
        )
    if engine == "vllm" and processes > 1:
        raise RolloutError(
            f"engine=vllm in a training of {processes} processes: the engine wants the process "
            "group for itself; choose engine=transformers, or train in one process"
        )
    return engine


def _processes() -> int:
    """Of the process group of this training; 0 without one."""
    import torch.distributed

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0
    return torch.distributed.get_world_size()


# ── transformers ─────────────────────────────────────────────────────────────────────────────


class TransformersSampler:
    """The trainer's own model, the adapter folded in meanwhile. There is nothing to sync.

    exact where it computes in float32: in bfloat16 the folding rounds, and so do the kernels that
    add one token to a cache, so that the log-probs are off by up to about 0.1.
    """

    def __init__(self, backbone: Backbone, max_tokens: int, kv_cache_gib: float) -> None:
        import torch

        self.exact = backbone.dtype is torch.float32
        self._backbone = backbone
        self._rows = max(1, int(kv_cache_gib * GIB / (max_tokens * bytes_per_token(backbone))))

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float,
        seeds: Sequence[int],
    ) -> list[Generated]:
        from rlaif.batching.encode import in_groups

        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # little padding
        found: dict[int, Generated] = {}
        with self._backbone.merged("policy"):
            for group in in_groups(order, self._rows):
                drawn = _draw(
                    self._backbone,
                    [prompts[i] for i in group],
                    max_new_tokens,
                    temperature,
                    [seeds[i] for i in group],
                )
                found.update(zip(group, drawn, strict=True))
        return [found[i] for i in range(len(prompts))]

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


def _draw(
    backbone: Backbone,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    seeds: Sequence[int],
) -> list[Generated]:
    """One response per prompt with the weights as they are. Equal prompts are read once; rows leave
    the batch as they end."""
    import torch
    import transformers

    from rlaif.models.backbone import Generated

    device = backbone.device
    uniform = torch.stack(
        [torch.rand(max_new_tokens, generator=torch.Generator().manual_seed(s)) for s in seeds]
    ).to(device)  # (B, R)
    distinct = list(dict.fromkeys(map(tuple, prompts)))
    width = max(map(len, distinct))
    ids = torch.tensor([[*([0] * (width - len(p))), *p] for p in distinct], device=device)
    real = torch.tensor([[*([0] * (width - len(p))), *([1] * len(p))] for p in distinct])
    real = real.to(device)  # (P, T), pads on the left
    cache = transformers.DynamicCache(config=backbone.model.config)
    hidden = _last_hidden(backbone, ids, real, cache)  # (P, d)

    place = {prompt: row for row, prompt in enumerate(distinct)}
    kept = torch.tensor([place[tuple(prompt)] for prompt in prompts], device=device)  # (B,)
    hidden, real = hidden[kept], real[kept]
    cache.batch_select_indices(kept)
    rows = list(range(len(prompts)))  # whose response each row of the batch is
    drawn: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    complete = [False] * len(prompts)
    for at in range(max_new_tokens):
        ids, values = draw_tokens(_logits(backbone, hidden) / temperature, uniform[rows, at])
        for row, token, value in zip(rows, ids.tolist(), values.tolist(), strict=True):
            drawn[row].append(token)
            logprobs[row].append(value)
            complete[row] = token in backbone.eos_ids
        going = [i for i, row in enumerate(rows) if not complete[row]]
        if not going or at + 1 == max_new_tokens:
            break
        if len(going) < len(rows):
            kept = torch.tensor(going, device=device)
            cache.batch_select_indices(kept)
            ids, real, rows = ids[kept], real[kept], [rows[i] for i in going]
        real = torch.cat([real, real.new_ones(len(rows), 1)], dim=1)
        hidden = _last_hidden(backbone, ids[:, None], real, cache)
    return [Generated(*each) for each in zip(drawn, logprobs, complete, strict=True)]


def draw_tokens(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """A token per row and its log-prob, both (B,): the first whose cumulated probability is over u.

    logits (B, V) after the temperature; uniform (B,) in [0, 1): one number per token, so that a
    response needs no more of its generator than its own draws.
    """
    import torch

    log_pi = logits.log_softmax(-1)
    cumulated = log_pi.double().exp().cumsum(-1)  # (B, V)
    threshold = uniform.double()[:, None] * cumulated[:, -1:]
    tokens = torch.searchsorted(
        cumulated, threshold, right=True
    )  # (B, 1); right: never one of P = 0
    return tokens[:, 0], log_pi.gather(1, tokens)[:, 0]


def _last_hidden(backbone: Backbone, ids: Tensor, real: Tensor, cache: Any) -> Tensor:
    """(B, d) at the last of ids (B, t), which `cache` then holds too. real (B, T): 1 on no pad."""
    import torch

    mixed = backbone.dtype is not backbone.model.dtype  # float32 weights, multiplied in bfloat16
    places = (real.cumsum(1)[:, -ids.shape[1] :] - 1).clamp(min=0)
    with torch.no_grad(), torch.autocast(backbone.device.type, backbone.dtype, enabled=mixed):
        hidden: Tensor = backbone.trunk(
            input_ids=ids, attention_mask=real, position_ids=places, past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]  # fmt: skip
    return hidden


def _logits(backbone: Backbone, hidden: Tensor) -> Tensor:
    """(B, d) → (B, V) in float32, as the trainer computes them (logprobs.py)."""
    return hidden.float() @ backbone.head_weight.detach().T


def bytes_per_token(backbone: Backbone) -> int:
    """Memory of one token's keys and values in all layers."""
    config = backbone.model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * backbone.dtype.itemsize)


def kv_cache_needed(backbone: Backbone, responses: int, tokens: int) -> float:
    """GiB of keys and values of so many responses at once, of `tokens` each with their prompt."""
    blocks = responses * -(-tokens // vllm_cpu.BLOCK_TOKENS) + 1  # vLLM keeps one for itself
    return blocks * vllm_cpu.BLOCK_TOKENS * bytes_per_token(backbone) / GIB


# ── vLLM ─────────────────────────────────────────────────────────────────────────────────────


class VLLMSampler:
    """vLLM in this process; a prompt's n responses share its keys and values."""

    exact = False

    def __init__(self, backbone: Backbone, max_tokens: int, kv_cache_gib: float) -> None:
        self._backbone = backbone
        self._synced = False
        self._owns_group = _processes() == 0
        try:
            self._llm: Any = _start(backbone, max_tokens, kv_cache_gib)
        except RolloutError:
            self._leave_group()
            raise

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float,
        seeds: Sequence[int],
    ) -> list[Generated]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        from rlaif.models.backbone import Generated

        assert self._synced, "sync() comes before generate(): the engine holds the bare base"
        ends = sorted(self._backbone.eos_ids)
        params = [
            SamplingParams(
                max_tokens=max_new_tokens,
                temperature=temperature,
                seed=seed,
                stop_token_ids=ends,
                logprobs=0,  # of the drawn token alone
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            for seed in seeds
        ]
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        outputs = [each.outputs[0] for each in self._llm.generate(inputs, params, use_tqdm=False)]
        return [
            Generated(
                list(o.token_ids),
                [float(at[t].logprob) for at, t in zip(o.logprobs, o.token_ids, strict=True)],
                o.finish_reason == "stop",
            )
            for o in outputs
        ]

    def sync(self) -> None:
        hand_over(self._llm, self._backbone.named_weights("policy"))
        self._synced = True

    def close(self) -> None:
        llm, self._llm = self._llm, None
        if llm is None:
            return
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()  # the engine is full of cycles
        self._leave_group()

    def _leave_group(self) -> None:
        """vLLM makes a process group of one, also where it then fails to start."""
        if self._owns_group and _processes():
            from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

            cleanup_dist_env_and_memory()


def _start(backbone: Backbone, max_tokens: int, kv_cache_gib: float) -> Any:
    """The engine over the backbone's own folder, in its dtype."""
    import torch

    on_cpu = backbone.device.type == "cpu"
    dtype: Dtype = "bfloat16" if backbone.dtype is torch.bfloat16 else "float32"
    with _environment(on_cpu), _undisturbed():
        from vllm import LLM

        own: dict[str, Any] = {}
        if on_cpu:
            own = vllm_cpu.engine_arguments(
                backbone.name, dtype, sequences=MAX_SEQUENCES, tokens=vllm_cpu.BULK_STEP_TOKENS
            )
        try:
            llm = LLM(
                backbone.name,
                skip_tokenizer_init=True,
                dtype=dtype,
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
            raise RolloutError(
                f"vLLM could not start with {backbone.name}: {error}; often the memory is too "
                f"little for max_tokens={max_tokens}: change kv_cache_gib (now {kv_cache_gib}), or "
                "choose engine=transformers"
            ) from error


@contextmanager
def _environment(on_cpu: bool) -> Iterator[None]:
    """What vLLM reads as it is imported and started; what the user set stays, but for the engine's
    place. Taken back afterwards, with what vLLM sets beside its own variables: a judge that this
    process starts wants otherwise, and LOCAL_WORLD_SIZE looks like a launcher to accelerate."""
    wanted = {
        _IN_PROCESS: "0",  # its weights are handed over by reference
        "VLLM_LOGGING_LEVEL": "ERROR",  # it warns of tied heads at every sync
        "VLLM_NO_USAGE_STATS": "1",
        **vllm_logs.environment("ERROR"),
    }
    if on_cpu:
        wanted |= vllm_cpu.environment()
    if os.environ.get(_IN_PROCESS, "0") != "0":
        raise RolloutError(
            f"{_IN_PROCESS}={os.environ[_IN_PROCESS]} is set, but rollouts need vLLM in the "
            "trainer's own process; unset it, or choose engine=transformers"
        )
    before = dict(os.environ)
    os.environ.update({name: value for name, value in wanted.items() if name not in before})
    try:
        if "vllm" in sys.modules:  # it may have read and kept another value
            import vllm.envs

            if vllm.envs.VLLM_ENABLE_V1_MULTIPROCESSING:
                raise RolloutError(
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
