"""One base model; every role that training needs is a LoRA adapter over it.

    policy      the adapter that is trained; its saved folder opens in peft as it is
    value       PPO's value function, where it has a role of its own (ppo/critic.py)
    reward      a trained reward model, frozen, or the one being trained (with heads)
    reference   role None: the base with all adapters off

So PPO's four models need the memory of one. The language-model head is applied only to the tokens
that count (logprobs.py), in float32.

Full fine-tuning (`train_fully`) has no adapters: one role is the base itself, its weights held and
trained in float32 (matrices multiplied in bfloat16 if that is the dtype). The reference is then
gone after the first step: compute log-probs of role None before it, or take a `frozen_copy`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hardware.dtypes import resolve_dtype
from rlaif.batching.chat import bind_end_ids, template_kwargs_of, with_template_kwargs
from rlaif.batching.encode import Batch, Pair, Row
from rlaif.batching.logprobs import ResponseSums, spread, token_logprobs
from rlaif.batching.prefix_sharing import (
    SharedBatch,
    batch_packs,
    group_pairs,
    pack_by_prompt,
    pad_packs,
)
from rlaif.distributed import fsdp
from rlaif.distributed.processes import ProcessGroup
from rlaif.models.attention.check import CheckOutcome, examine, obey
from rlaif.models.attention.shared_rows import keeps_apart, mask_for
from rlaif.models.folder import (
    BackboneError,
    context_length,
    decoder_of,
    end_token_ids,
    fingerprint,
    read_model,
    refuse_unknown_heads,
    refuse_unknown_tokens,
    save_model,
)
from rlaif.models.lora import Adapters, Role
from rlaif.models.lora_config import LoraConfig, TrainDtype
from rlaif.models.merge import folded_in, folded_weights

__all__ = [
    "Backbone",
    "BackboneError",
    "LoraConfig",
    "Role",
    "all_whole",
]


class Backbone:
    """A base model with its roles. Example: `Backbone.load("models/smollm2-135m")`.

    model: a transformers causal language model. name: its folder or hub id. dtype: of matrix
    products; the model's own, or bfloat16 over float32 weights. Raises BackboneError for a head
    or tokenizer that is not supported.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, dtype: torch.dtype) -> None:
        refuse_unknown_heads(model, tokenizer, name)
        refuse_unknown_tokens(model, tokenizer, name)
        self.name = name
        self.dtype = dtype
        self.tokenizer = tokenizer
        bind_end_ids(tokenizer, end_token_ids(tokenizer, model.generation_config))
        self.model = model.eval().requires_grad_(False)  # eval: no dropout anywhere
        self.trunk = decoder_of(model)
        self._head: Tensor = model.get_output_embeddings().weight.detach().float()  # (V, d)
        self.device = self._head.device  # where it computes; sharded later, then
        self.workers: ProcessGroup | None = None  # those over whom `shard` cuts it
        self._gathered: Any = None  # a whole model of sharded weights, to be saved
        self.fingerprint = fingerprint(model)
        self._adapters = Adapters(self.model, name)
        self._shares_rows = True  # if the model keeps responses apart
        self._active: Role | None = None
        self._folded: Role | None = None  # the role whose adapter is in the base's weights now
        self._whole: Role | None = None  # the role that is the base itself
        self._untrained: int | None = None  # state of its weights before the first step

    @classmethod
    def load(
        cls, model: str, dtype: TrainDtype = "auto", train_fully: bool = False,
        workers: ProcessGroup | None = None, template_kwargs: Mapping[str, Any] | None = None,
    ) -> Backbone:  # fmt: skip
        """Load the base from a model folder or hub id, and check that it is computed exactly.

        train_fully: keep weights in float32, for `add_role(role, None, seed)`. workers: of an FSDP
        launch, all of which must load it; it stays on the CPU until `shard`. Else it is unsharded.
        template_kwargs: variables of the chat template (batching/chat.py). Raises BackboneError
        when it cannot be loaded, or the check fails (attention/check.py), and ChatTemplateError.
        """
        cut = workers if workers is not None and workers.sharded else None
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        computed = resolve_dtype(dtype)
        with fsdp.ram_efficient_loading() if cut else nullcontext():
            base, tokenizer = read_model(model, torch.float32 if train_fully else computed)
        tokenizer = with_template_kwargs(tokenizer, template_kwargs)
        loaded = cls(base if cut else base.to(device), tokenizer, model, computed)
        # Of processes that share a host, only one may have read the weights: the main process
        # checks for all, still on its CPU. Unsharded, each checks its own copy, with one outcome.
        outcome = loaded._examined() if cut is None or cut.is_main else None
        if cut:
            loaded.workers, loaded.device = cut, device
            outcome, loaded.fingerprint = cut.gather([(outcome, loaded.fingerprint)])[0]
        loaded._shares_rows = obey(outcome, base, model).shares_prompts
        return loaded

    def _examined(self) -> CheckOutcome:
        """Compare the log-probs of a dozen tokens with those of the model's own class."""
        return examine(
            self.model, self.tokenizer, self.dtype,
            alone=lambda batch: self.logprobs(None, batch)[batch.response_mask],
            shared=lambda batch: self.logprobs_from(self.predicting(None, batch), batch),
        )  # fmt: skip

    def frozen_copy(self) -> Backbone:
        """Load the untrained base again, as a backbone with roles of its own."""
        dtype: TrainDtype = "bfloat16" if self.dtype is torch.bfloat16 else "float32"
        kwargs = template_kwargs_of(self.tokenizer)
        return Backbone.load(self.name, dtype, workers=self.workers, template_kwargs=kwargs)

    @property
    def head_weight(self) -> Tensor:
        """The language-model head, (V, d) float32; if sharded, each access is collective."""
        return fsdp.full_tensor(self._head).float()

    @property
    def hidden_size(self) -> int:
        """Width d of the hidden states."""
        return self._head.shape[1]

    @property
    def context(self) -> int:
        """Context length in tokens, prompt and response together."""
        return context_length(self.model.config)

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids of the tokens that end a response."""
        return end_token_ids(self.tokenizer, self.model.generation_config)

    # ── roles ────────────────────────────────────────────────────────────────────────────────

    def add_role(self, role: Role, lora: LoraConfig | None, seed: int) -> None:
        """Add a trainable adapter that starts equal to the base (its B is zero).

        lora=None: the base itself becomes the role and trains (load it with train_fully). Raises
        BackboneError when base and lora do not fit.
        """
        if lora is None:
            self._train_whole(role)
            return
        self._refuse_adapters_over_a_trained_base()
        self._adapters.add(role, lora, seed)
        self._activate(role)

    def load_role(self, role: Role, folder: Path) -> None:
        """Load a saved adapter as a frozen role. Raises BackboneError when it does not fit."""
        self._refuse_adapters_over_a_trained_base()
        self._adapters.load(role, folder)
        self._activate(role)

    def save_role(self, role: Role, folder: Path) -> None:
        """Write a role's adapter in peft's format, or a fully trained base as a model folder.

        The latter in the dtype of its matrix products; call `gather` before. Raises BackboneError.
        """
        if role == self._whole:
            save_model(self._gathered or self.model, self.tokenizer, folder, self.dtype)
        else:
            self._adapters.save(role, folder)

    def shard(self, workers: ProcessGroup) -> None:
        """Under FSDP, shard the base over the processes; adapters, to be added before, stay whole.

        Afterwards all computation is collective, except inside `unsharded`. Does nothing if sharded
        already, or not loaded for these workers. Raises ShardingError.
        """
        if workers == self.workers and not fsdp.is_sharded(self._head):
            adapters = [p for name, p in self.model.named_parameters() if "lora_" in name]
            fsdp.shard(self.model, adapters, self.dtype)
            self._head = self.model.get_output_embeddings().weight
            self._untrained = self._weights_version()

    @contextmanager
    def unsharded(self) -> Iterator[None]:
        """Gather all weights of a sharded model in this process for the block, without gradient.

        Inside, computation is not collective; entering is. Does nothing if not sharded.
        """
        if not fsdp.is_sharded(self._head):
            yield
            return
        cut, self._head = self._head, self.head_weight.detach()
        try:
            with fsdp.unsharded(self.trunk):
                yield
        finally:
            self._head = cut

    def gather(self, workers: ProcessGroup) -> None:
        """Gather a sharded, fully trained base on the main process's CPU, for `save_role`.

        Collective; does nothing for other backbones.
        """
        if workers.sharded and self._whole:
            self._gathered = fsdp.full_model(self.model, self.dtype, workers.is_main)

    def role_parameters(self, role: Role) -> dict[str, torch.nn.Parameter]:
        """Name → parameter of a role, float32 if it trains; tied weights appear once."""
        if role == self._whole:
            return dict(self.model.named_parameters())
        return self._adapters.parameters(role)

    def _train_whole(self, role: Role) -> None:
        if self.model.dtype is not torch.float32 or self._adapters.roles or self._whole:
            raise BackboneError(
                f"{self.name}: lora=null trains the base itself, alone and in float32; load it "
                "with train_fully, without other roles (those go on a frozen_copy)"
            )
        self.model.requires_grad_(True)
        self._head = self.model.get_output_embeddings().weight  # live, and maybe tied
        self._whole, self._untrained = role, self._weights_version()

    def _weights_version(self) -> int:
        """Changes whenever a weight is written to, by an optimizer or from a checkpoint."""
        return sum(parameter._version for parameter in self.model.parameters())

    def _refuse_adapters_over_a_trained_base(self) -> None:
        if self._whole:
            raise BackboneError(
                f"{self.name}: the base itself trains as {self._whole!r}, an adapter over it would "
                "shift with it; put the adapter on a frozen_copy"
            )

    def _activate(self, role: Role | None) -> None:
        if self._folded:
            assert role == self._folded, f"{self._folded} is merged into the base: no {role} now"
            return
        if role is None and self._whole and self._weights_version() != self._untrained:
            raise BackboneError(
                f"{self.name}: after a step of full fine-tuning there is no reference; compute its "
                "log-probs before, or use a frozen_copy"
            )
        self._adapters.activate(None if role == self._whole else role)
        self._active = role

    def bound_to_role(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        """`compute`, to run under the role that is active now whenever it is called."""
        role = self._active

        def under_role(*args: Any, **kwargs: Any) -> Any:
            if role != self._active:
                self._activate(role)
            return compute(*args, **kwargs)

        return under_role

    @contextmanager
    def merged(self, role: Role | None) -> Iterator[None]:
        """Fold a role into the base's weights for the block: faster, without gradient.

        No other role can be used inside; the base is restored exactly afterwards. Folding rounds to
        the base's dtype (merge.py says with what effect).
        """
        if role is None or role in (self._whole, self._folded):
            yield
            return
        self._activate(None)
        with folded_in(self.model, role):
            self._folded = role
            try:
                yield
            finally:
                self._folded = None

    def named_weights(self, role: Role | None) -> Iterator[tuple[str, Tensor]]:
        """Yield (name as in a model folder, weight) of the model with the role folded in.

        Tensors are on this device, in the base's dtype. Raises BackboneError as `folded_weights`.
        """
        return folded_weights(self.model, None if role == self._whole else role)

    # ── what a role computes ─────────────────────────────────────────────────────────────────

    def _forward(self, role: Role | None, ids: Tensor, **how: Any) -> Tensor:
        """Last hidden states (B, T, d). For no rows one token is computed and dropped, so
        that the processes of a sharded model stay in step."""
        rows = len(ids)
        if not rows:
            ids, how = ids.new_zeros(1, 1), {"use_cache": False}
        if role != self._active or self._folded or (role is None and self._whole):
            self._activate(role)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.dtype != self.model.dtype
        ):
            hidden: Tensor = self.trunk(input_ids=ids, **how).last_hidden_state
        return hidden[:rows]

    def hidden_states(self, role: Role | None, ids: Tensor) -> Tensor:
        """Last hidden states of ids (B, T) padded on the right: (B, T, d)."""
        return self._forward(role, ids, use_cache=False)

    def logprobs(self, role: Role | None, batch: Batch, temperature: float = 1.0) -> Tensor:
        """Log-probs of the response tokens: (B, T) nats, 0 outside response_mask."""
        hidden = self.hidden_states(role, batch.ids)[:, :-1][batch.response_mask[:, 1:]]  # (N, d)
        targets = batch.ids[batch.response_mask]  # (N,)
        values = token_logprobs(hidden, targets, self.head_weight, temperature)  # (N,)
        return spread(values, batch.response_mask)

    def pack_rows(self, rows: Sequence[Row], most: float = math.inf) -> list[list[int]]:
        """Group rows into packs of at most `most` tokens (`pack_by_prompt`); returns their indices.

        Every row is alone if this model would not keep the responses of a pack apart.
        """
        if self._keeps_apart(max((len(row.ids) for row in rows), default=0)):
            return pack_by_prompt(rows, self.hidden_size, most)
        return [[place] for place in range(len(rows))]

    def micro_batches(self, rows: Sequence[Row], budget: int) -> list[list[list[int]]]:
        """Group rows into batches of packs of similar length, for `pad_packs`; returns indices.

        A batch has at most `budget` padded tokens, unless it is a single longer row.
        """
        return batch_packs(rows, self.pack_rows(rows, budget), budget)

    def pair_batches(self, pairs: Sequence[Pair], budget: int) -> list[list[int]]:
        """Group pairs into batches of at most `budget` padded tokens, for `batch_pairs`.

        Returns indices (`group_pairs`).
        """
        packed = [len(self.pack_rows(pair.rows)) == 1 for pair in pairs]
        return group_pairs([pair.rows for pair in pairs], packed, budget)

    def batch_pairs(self, pairs: Sequence[Pair]) -> SharedBatch:
        """Pad pairs to a batch of R = 2 B responses: chosen, rejected, chosen, …"""
        packs = [[p.rows[i] for i in pack] for p in pairs for pack in self.pack_rows(p.rows)]
        return pad_packs(packs, self.device)

    def predicting(self, role: Role | None, batch: SharedBatch) -> Tensor:
        """Hidden states that predict the batch's N response tokens: (N, d)."""
        return self._shared_hidden(role, batch)[batch.predictors]

    def logprobs_from(self, hidden: Tensor, batch: SharedBatch, temperature: float = 1.0) -> Tensor:
        """Log-probs of the batch's response tokens, from `predicting`'s hidden: (N,) nats."""
        return token_logprobs(hidden, batch.targets, self.head_weight, temperature)

    def response_sums(
        self, role: Role | None, batch: SharedBatch, temperature: float = 1.0
    ) -> ResponseSums:
        """Log-probs of the batch's R responses, summed over their tokens."""
        values = self.logprobs_from(self.predicting(role, batch), batch, temperature)  # (N,)
        return ResponseSums(spread(values, batch.mask).sum(1), batch.mask.sum(1))

    def ends(self, role: Role | None, batch: SharedBatch) -> Tensor:
        """Hidden states at the last tokens of the batch's R responses: (R, d)."""
        return self._shared_hidden(role, batch)[batch.last]

    def _shared_hidden(self, role: Role | None, batch: SharedBatch) -> Tensor:
        """(B·T, d)"""
        how: dict[str, Tensor] = {}
        if batch.positions is not None and batch.attention is not None:
            assert self._keeps_apart(batch.longest), f"{self.name}: no responses can share a row"
            mask = mask_for(self.model, batch.attention, self.dtype)
            how = {"position_ids": batch.positions, "attention_mask": mask}
        return self._forward(role, batch.ids, use_cache=False, **how).flatten(0, 1)

    def _keeps_apart(self, longest: int) -> bool:
        """Whether responses of conversations of this length can share a row."""
        return self._shares_rows and keeps_apart(self.model, longest)


@contextmanager
def all_whole(backbones: Iterable[Backbone]) -> Iterator[None]:
    """Enter `Backbone.unsharded` of all these backbones."""
    with ExitStack() as stack:
        for backbone in backbones:
            stack.enter_context(backbone.unsharded())
        yield
