"""One frozen base model; every role that training needs is a LoRA adapter over it.

    policy      the adapter that is trained; its saved folder opens in peft as it is
    value       PPO's value function (with a head, see scoring.py)
    reward      a trained reward model, frozen, or the one being trained (with heads)
    reference   role None: the base with all adapters off

So PPO's four models cost the memory of one. Hidden states come out of `hidden_states`; the
language-model head runs only over the tokens that count (logprobs.py), in float32.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import peft
import torch
import transformers
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import logging as transformers_logging

from constitution.errors import UserError
from rlaif.batching import Batch, Row, encode_conversation, in_groups, pad
from rlaif.logprobs import LogprobsAndEntropy, token_logprobs, token_logprobs_and_entropy
from rlaif.records import Sample

Role = Literal["policy", "value", "reward"]
Dtype = Literal["auto", "float32", "bfloat16"]
_SCALED_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling")


class BackboneError(UserError):
    """A model or adapter that cannot be used: which, why, and what to do."""


class LoraConfig(BaseModel):
    """The adapters' shape (arXiv:2106.09685). Defaults: rank 16 and alpha = 2 rank, on all linear
    layers, as QLoRA found necessary to match full fine-tuning (arXiv:2305.14314, section 4)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0, description="the update is scaled by alpha / rank")
    targets: str | tuple[str, ...] = Field(
        default="all-linear", description="peft's target_modules: names of layers, or all-linear"
    )


@dataclass(frozen=True, slots=True)
class Generated:
    """One sampled response: ids (end token included if it came), and log π of each when drawn."""

    ids: list[int]
    logprobs: list[float]
    complete: bool


class Backbone:
    """The frozen base with its roles. Example: `Backbone.load("models/smollm2-135m")`."""

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        _refuse_unknown_heads(model, tokenizer, name)
        self.name = name
        self.tokenizer = tokenizer
        self.model = model.eval().requires_grad_(False)  # eval: no dropout anywhere
        self.trunk = model.get_decoder()
        self.head_weight: Tensor = model.get_output_embeddings().weight.detach().float()  # (V, d)
        self.fingerprint = _fingerprint(model)
        self._peft: Any = None
        self._active: Role | None = None
        self._trainable: set[Role] = set()

    @classmethod
    def load(cls, model: str, dtype: Dtype = "auto") -> Backbone:
        """The base of a model folder or hub id. Raises BackboneError when it is not one."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with _readable_errors(model):
            tokenizer = transformers.AutoTokenizer.from_pretrained(model)
            base = transformers.AutoModelForCausalLM.from_pretrained(
                model, dtype=resolve_dtype(dtype)
            )
        return cls(base.to(device), tokenizer, model)

    @property
    def device(self) -> torch.device:
        return self.head_weight.device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def hidden_size(self) -> int:
        return self.head_weight.shape[1]

    @property
    def context(self) -> int:
        """Tokens that the model can read at once."""
        length: int = self.model.config.get_text_config().max_position_embeddings
        return length

    @property
    def eos_ids(self) -> frozenset[int]:
        """Any of these ends a response."""
        also = self.model.generation_config.eos_token_id
        listed = [] if also is None else also if isinstance(also, list) else [also]
        return frozenset([self.tokenizer.eos_token_id, *listed])

    # ── roles ────────────────────────────────────────────────────────────────────────────────

    def add_role(self, role: Role, lora: LoraConfig, seed: int) -> None:
        """A fresh trainable adapter. Its B is zero, so it starts out equal to the base."""
        config = peft.LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
            task_type="CAUSAL_LM",
            base_model_name_or_path=self.name,
        )
        with torch.random.fork_rng(), _readable_errors(self.name):
            torch.manual_seed(seed)
            if self._peft is None:
                self._peft = peft.get_peft_model(self.model, config, adapter_name=role)
            else:
                self._peft.add_adapter(role, config)
        self._trainable.add(role)
        self._activate(role)

    def load_role(self, role: Role, folder: Path) -> None:
        """A saved adapter as a frozen role. Raises BackboneError when it does not fit this base."""
        with _readable_errors(str(folder)):
            if self._peft is None:
                self._peft = peft.PeftModel.from_pretrained(self.model, folder, adapter_name=role)
            else:
                self._peft.load_adapter(folder, adapter_name=role)
        self._activate(role)

    def save_role(self, role: Role, folder: Path) -> None:
        """Write adapter_config.json and adapter_model.safetensors, peft's own format."""
        folder.mkdir(parents=True, exist_ok=True)
        state = peft.get_peft_model_state_dict(self._peft, adapter_name=role)
        try:
            save_tensors(state, folder / "adapter_model.safetensors")
            config = self._peft.peft_config[role]
            trained, config.inference_mode = config.inference_mode, True
            config.save_pretrained(str(folder))
            config.inference_mode = trained
        except OSError as error:
            raise BackboneError(
                f"{folder}: the adapter cannot be saved ({error.strerror}); free some space and "
                "run again: training resumes from its last checkpoint"
            ) from error

    def role_parameters(self, role: Role) -> dict[str, torch.nn.Parameter]:
        """Name → adapter weight (float32 whatever the base is)."""
        return {n: p for n, p in self.model.named_parameters() if "lora_" in n and f".{role}." in n}

    def _activate(self, role: Role | None) -> None:
        """Switch adapters. peft's switches also toggle requires_grad of the roles not active;
        several roles train in one step here, so that is set right again."""
        self._active = role
        if self._peft is None:
            return
        if role is None:
            self._peft.base_model.disable_adapter_layers()
        else:
            self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(role)
        for each in self._peft.peft_config:
            for parameter in self.role_parameters(each).values():
                parameter.requires_grad_(each in self._trainable)

    # ── what a role computes ─────────────────────────────────────────────────────────────────

    def hidden_states(self, role: Role | None, ids: Tensor) -> Tensor:
        """Last hidden states (B, T, d) of right-padded ids (B, T). Causal: pads need no mask."""
        if role != self._active:
            self._activate(role)
        hidden: Tensor = self.trunk(input_ids=ids, use_cache=False).last_hidden_state
        return hidden

    def logprobs(self, role: Role | None, batch: Batch, temperature: float = 1.0) -> Tensor:
        """log π of each response token given all before it, (B, T); 0 outside response_mask."""
        hidden, targets, mask = self._counted(role, batch)
        values = token_logprobs(hidden, targets, self.head_weight, temperature)
        return _spread(values, mask)

    @torch.no_grad()
    def logprobs_and_entropy(
        self, role: Role | None, batch: Batch, temperature: float = 1.0
    ) -> LogprobsAndEntropy:
        """As `logprobs`, with the entropy of each next-token distribution; both (B, T)."""
        hidden, targets, mask = self._counted(role, batch)
        found = token_logprobs_and_entropy(hidden, targets, self.head_weight, temperature)
        return LogprobsAndEntropy(_spread(found.logprobs, mask), _spread(found.entropy, mask))

    def _counted(self, role: Role | None, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states that predict response tokens (N, d), those tokens (N,), the mask (B, T)."""
        mask = batch.response_mask
        hidden = self.hidden_states(role, batch.ids)  # (B, T, d)
        return hidden[:, :-1][mask[:, 1:]], batch.ids[mask], mask

    @torch.no_grad()
    def generate(
        self,
        role: Role | None,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float,
        generator: torch.Generator,
    ) -> list[Generated]:
        """Sample one response per prompt: top_p = 1, top_k off, all draws from `generator`.

        The log-probs are those of the tempered distribution that was drawn from.
        """
        self._activate(role)
        width = max(map(len, prompts))
        ids = torch.tensor([[*([0] * (width - len(p))), *p] for p in prompts], device=self.device)
        real = torch.tensor([[*([0] * (width - len(p))), *([1] * len(p))] for p in prompts])
        real = real.to(self.device)  # (B, T); pads are on the left here
        eos = torch.tensor(sorted(self.eos_ids), device=self.device)
        done = torch.zeros(len(prompts), dtype=torch.bool, device=self.device)
        cache = transformers.DynamicCache(config=self.model.config)
        found = [Generated([], [], False) for _ in prompts]
        tokens: list[Tensor] = []
        logprobs: list[Tensor] = []
        for _ in range(max_new_tokens):
            places = real.cumsum(1)[:, -ids.shape[1] :] - 1
            hidden = self.trunk(
                input_ids=ids, attention_mask=real, position_ids=places.clamp(min=0),
                past_key_values=cache, use_cache=True,
            ).last_hidden_state[:, -1]  # fmt: skip
            logits = hidden.float() @ self.head_weight.T / temperature  # (B, V)
            log_pi = logits.log_softmax(-1)
            ids = torch.multinomial(log_pi.exp(), 1, generator=generator)  # (B, 1)
            tokens.append(ids[:, 0])
            logprobs.append(log_pi.gather(1, ids)[:, 0])
            real = torch.cat([real, real.new_ones(len(prompts), 1)], dim=1)
            done |= torch.isin(ids[:, 0], eos)
            if done.all():
                break
        for row, (drawn, values) in enumerate(
            zip(torch.stack(tokens, 1).tolist(), torch.stack(logprobs, 1).tolist(), strict=True)
        ):
            ends = [i for i, token in enumerate(drawn) if token in self.eos_ids]
            length = ends[0] + 1 if ends else len(drawn)
            found[row] = Generated(drawn[:length], values[:length], bool(ends))
        return found


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    """(N,) values to their places in a (B, T) tensor of zeros."""
    return torch.zeros(mask.shape, device=values.device).masked_scatter(mask, values)


def resolve_dtype(dtype: Dtype) -> torch.dtype:
    """auto: bfloat16 where the hardware multiplies in it, else float32."""
    if dtype != "auto":
        resolved: torch.dtype = getattr(torch, dtype)
        return resolved
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    cpu = torch.cpu.get_capabilities()
    return torch.bfloat16 if cpu.get("avx512_bf16") or cpu.get("amx_bf16") else torch.float32


def _refuse_unknown_heads(model: Any, tokenizer: Any, name: str) -> None:
    scaled = [key for key in _SCALED_LOGITS if getattr(model.config, key, None) not in (None, 1.0)]
    if scaled or getattr(model.get_output_embeddings(), "bias", None) is not None:
        raise BackboneError(
            f"{name}: its logits are not W h alone ({scaled or 'a bias in the head'}); "
            "models with such heads are not supported yet"
        )
    if tokenizer.eos_token_id is None:
        raise BackboneError(f"{name}: its tokenizer has no end token; set tokenizer.eos_token")


def _fingerprint(model: Any) -> str:
    """What the base's weights are, to bfloat16 precision: the same wherever its folder lies."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        bits = parameter.detach().to(torch.bfloat16).view(torch.int16)
        total = int(bits.sum(dtype=torch.int64))
        digest.update(f"{name} {tuple(parameter.shape)} {total}\n".encode())
    return digest.hexdigest()


@contextmanager
def _readable_errors(what: str) -> Iterator[None]:
    try:
        with _without_bars():
            yield
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise BackboneError(
            f"{what}: cannot be loaded: {str(error).splitlines()[0] if str(error) else error!r}; "
            "give a model folder (config.json, *.safetensors, tokenizer) and adapters made for it"
        ) from error


@contextmanager
def _without_bars() -> Iterator[None]:
    """transformers shows bars of its own for what takes a second here."""
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if bar:
            transformers_logging.enable_progress_bar()


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """A safetensors file, whole or as it was before. Raises OSError."""
    partial = path.with_name(path.name + ".partial")
    try:
        save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, partial)
        partial.replace(path)
    except Exception as error:  # safetensors' own error carries the system's in its text
        partial.unlink(missing_ok=True)
        raise error if isinstance(error, OSError) else OSError(0, str(error)) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load_file(path)
    return tensors


def merge_adapter(model: str, adapter: Path, out: Path) -> Path:
    """The base with the adapter folded in, as an ordinary model folder (for vLLM, transformers).

    Folded in float32 and saved in the base's own dtype. `out` appears only when it is complete.
    """
    with _readable_errors(model):
        base = transformers.AutoModelForCausalLM.from_pretrained(model, dtype="auto")
        tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    dtype = base.dtype
    with _readable_errors(str(adapter)):
        merged = peft.PeftModel.from_pretrained(base.float(), adapter).merge_and_unload().to(dtype)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with _without_bars():
            merged.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        shutil.rmtree(out, ignore_errors=True)
        partial.replace(out)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise BackboneError(f"{out}: the merged model cannot be saved ({error})") from error
    return out


TokenLogprobs = Callable[[Sequence[Sample]], list[list[float]]]


class ReferenceAndPolicy(NamedTuple):
    """samples → log-probs of their response tokens, under the base and under base + adapter."""

    reference: TokenLogprobs
    policy: TokenLogprobs


def response_logprobs(model: str, adapter: Path, dtype: Dtype = "auto") -> ReferenceAndPolicy:
    """Log-probs of sampled responses, as (reference, policy). One base is loaded for both.

    The end token counts where the sample is complete. A response is tokenized anew from its text.
    """
    backbone = Backbone.load(model, dtype)
    backbone.load_role("policy", adapter)

    @torch.no_grad()
    def of(role: Role | None, samples: Sequence[Sample]) -> list[list[float]]:
        found: list[list[float]] = []
        for group in in_groups([_sample_row(backbone.tokenizer, s) for s in samples], 8):
            batch = pad(group, backbone.device)
            values = backbone.logprobs(role, batch)  # (B, T)
            found += [v[m].tolist() for v, m in zip(values, batch.response_mask, strict=True)]
        return found

    return ReferenceAndPolicy(lambda s: of(None, s), lambda s: of("policy", s))


def _sample_row(tokenizer: Any, sample: Sample) -> Row:
    prompt = encode_conversation(tokenizer, sample.prompt.messages)
    answer = tokenizer.encode(sample.response, add_special_tokens=False)
    end = [tokenizer.eos_token_id] if sample.complete else []
    return Row(f"{sample.prompt.id}#{sample.index}", (*prompt, *answer, *end), len(prompt))
