"""Reward models: linear heads over hidden states, and the scores that they give.

    s_k = (w_k · h + b_k - mean_k) / std_k      one head k per trait (or one named "overall")
    overall = Σ_k weight_k s_k                  the constitution's trait weights

h is the hidden state at the response's end token. mean and std are those of the training responses
(0 and 1 until training ends). A trained reward model is a folder:

    adapter_config.json, adapter_model.safetensors     the "reward" role, in peft's format; or,
    config.json, model.safetensors, tokenizer …        trained with lora=null, a whole model
    heads.safetensors                                  weight, bias, mean, std
    reward.json                                        trait weights (`reweigh`), base, dtype,
                                                       variables of the chat template
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from constitution.errors import UserError
from constitution.schema import Message
from rlaif.batching.chat import ChatTemplateError, template_kwargs_of, with_template_kwargs
from rlaif.batching.encode import Pair, Row, encode_row
from rlaif.batching.prefix_sharing import SharedBatch, pad_packs
from rlaif.batching.unusable import BatchError
from rlaif.data.files import file_sha256
from rlaif.data.records import Prompt, write_json
from rlaif.distributed.processes import ProcessGroup
from rlaif.models.backbone import Backbone, Role, load_tensors, save_tensors
from rlaif.models.lora_config import TrainDtype

SCORE_TOKENS = 4096  # padded tokens per forward

# (conversations, responses) → scores, None where one could not be had
RewardFunction = Callable[[Sequence[Sequence[Message]], Sequence[str]], Sequence[float | None]]


class RewardModelError(UserError):
    """A reward model or reward function that cannot be used; the message has the remedy."""


class Heads(torch.nn.Module):
    """K linear heads in float32, one per name, over hidden states of width d; initially zero."""

    def __init__(self, names: Sequence[str], hidden_size: int) -> None:
        super().__init__()
        self.names = tuple(names)
        self.weight = torch.nn.Parameter(torch.zeros(len(names), hidden_size))
        self.bias = torch.nn.Parameter(torch.zeros(len(names)))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(len(names)))
        self.register_buffer("std", torch.ones(len(names)))

    def randomize(self, seed: int) -> None:
        """Draw the weights with std 1/√(d+1) ("N implementation details of RLHF with PPO")."""
        generator = torch.Generator().manual_seed(seed)
        std = 1 / math.sqrt(self.weight.shape[1] + 1)
        with torch.no_grad():
            self.weight.copy_(torch.randn(self.weight.shape, generator=generator) * std)

    def forward(self, hidden: Tensor) -> Tensor:
        """Raw scores, not normalized: (..., d) → (..., K) float32."""
        return torch.nn.functional.linear(hidden.float(), self.weight, self.bias)

    def normalize_on(self, raw: Tensor) -> None:
        """Set mean and std to those of raw scores (N, K); a constant head keeps std 1."""
        std = raw.std(dim=0, correction=0)  # (K,)
        self.mean.copy_(raw.mean(dim=0))
        self.std.copy_(torch.where(std > 0, std, 1.0))

    def normalized(self, raw: Tensor) -> Tensor:
        """Raw scores in standard deviations from the training responses' mean: (..., K)."""
        return (raw - self.mean) / self.std


@dataclass(frozen=True, slots=True)
class ScoredResponse:
    """Normalized scores of one response."""

    overall: float  # weighted sum of the traits
    traits: dict[str, float]  # by head, in standard deviations of the training responses


@dataclass(frozen=True, slots=True)
class RewardModel:
    """A reward model: heads over the "reward" role of a backbone, or over a backbone of its own.

    Example: `RewardModel.load("models/smollm2-135m", Path("runs/reward")).score([c], ["Hello."])`
    """

    backbone: Backbone
    heads: Heads
    trait_weights: dict[str, float]  # of the overall score, in the heads' order
    tuning: Literal["lora", "full"] = "lora"
    role: Role | None = "reward"  # None: a backbone that was loaded from a fully tuned folder
    own_tokenizer: Any = None  # with the template variables of its training; None: the backbone's

    @classmethod
    def load(
        cls,
        model: str,
        folder: Path,
        dtype: TrainDtype | None = None,
        workers: ProcessGroup | None = None,
    ) -> RewardModel:
        """Load a trained reward model with a base of its own; raises RewardModelError.

        model: its base, unused if it was fully tuned. dtype: None for that of its training.
        workers: as for Backbone.load.
        """
        facts = _read_facts(folder)
        chosen: TrainDtype = dtype or facts["dtype"] or "auto"
        kwargs = facts.get("chat_template_kwargs")  # absent in folders of earlier versions
        if facts.get("tuning") != "full":
            backbone = Backbone.load(model, chosen, workers=workers, template_kwargs=kwargs)
            return cls.attach(backbone, folder)
        backbone = Backbone.load(str(folder), chosen, workers=workers, template_kwargs=kwargs)
        heads = _read_heads(folder, facts, backbone)
        return cls(backbone, heads, facts["trait_weights"], "full", None)

    @classmethod
    def attach(cls, backbone: Backbone, folder: Path) -> RewardModel:
        """Load a trained adapter as the role "reward"; RewardModelError if over another base."""
        facts = _read_facts(folder)
        if facts.get("tuning") == "full":
            raise RewardModelError(
                f"{folder}: trained with lora=null, so it is a whole model and no adapter over "
                f"{backbone.name}; train it with LoRA, or load it beside with RewardModel.load"
            )
        if facts["base"] != backbone.fingerprint:
            raise RewardModelError(
                f"{folder}: trained over another base ({facts['base_name']}) than {backbone.name}; "
                "give the base it was trained over, or train it again over this one"
            )
        backbone.load_role("reward", folder)
        heads = _read_heads(folder, facts, backbone)
        tokenizer = with_template_kwargs(backbone.tokenizer, facts.get("chat_template_kwargs"))
        return cls(backbone, heads, facts["trait_weights"], own_tokenizer=tokenizer)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer with which conversations are read as in its training."""
        return self.backbone.tokenizer if self.own_tokenizer is None else self.own_tokenizer

    def save(self, folder: Path) -> None:
        """Write the folder, reward.json last. Raises BackboneError or RewardModelError."""
        self.backbone.save_role("reward", folder)
        try:
            save_tensors(self.heads.state_dict(), folder / "heads.safetensors")
        except OSError as error:
            raise RewardModelError(
                f"{folder}: the heads cannot be saved ({error}); free some space and run again: "
                "training resumes from its last checkpoint"
            ) from error
        write_json(
            folder / "reward.json",
            {
                "tuning": self.tuning,
                "base": self.backbone.fingerprint,
                "base_name": self.backbone.name,
                "dtype": str(self.backbone.dtype).removeprefix("torch."),
                "trait_weights": self.trait_weights,  # in the heads' order; free to be changed
                "mean": self.heads.mean.tolist(),  # raw scores of the training responses
                "std": self.heads.std.tolist(),
                "chat_template_kwargs": template_kwargs_of(self.tokenizer),
            },
        )

    def raw(self, batch: SharedBatch) -> Tensor:
        """Raw scores of the batch's R responses by every head: (R, K), differentiable."""
        outputs: Tensor = self.heads(self.backbone.ends(self.role, batch))
        return outputs

    def raw_pairs(self, batch: SharedBatch) -> Tensor:
        """Raw scores of a batch of pairs, chosen first: (B, 2, K), differentiable."""
        return self.raw(batch).view(-1, 2, len(self.heads.names))

    @torch.no_grad()
    def raw_rows(self, rows: Sequence[Row], budget: int = SCORE_TOKENS) -> Tensor:
        """Raw scores of N rows, without gradient: (N, K). budget: padded tokens per forward."""
        outputs = torch.empty(len(rows), len(self.heads.names))  # (N, K)
        for group in self.backbone.micro_batches(rows, budget):
            batch = pad_packs([[rows[i] for i in pack] for pack in group], self.backbone.device)
            outputs[[i for pack in group for i in pack]] = self.raw(batch).cpu()
        return outputs.to(self.backbone.device)

    @torch.no_grad()
    def raw_of_pairs(
        self,
        pairs: Sequence[Pair],
        budget: int = SCORE_TOKENS,
        report: Callable[[int], None] = lambda done: None,
        pad_batches: Callable[[list[list[int]]], list[list[int]]] = list,
    ) -> Tensor:
        """Raw scores of N pairs, chosen first, without gradient: (N, 2, K).

        report: called with the number of pairs done. pad_batches: that of a ProcessGroup, for a
        model that may be sharded.
        """
        outputs = torch.empty(len(pairs), 2, len(self.heads.names))  # (N, 2, K)
        done = 0
        for group in pad_batches(self.backbone.pair_batches(pairs, budget)):
            batch = self.backbone.batch_pairs([pairs[i] for i in group])
            outputs[group] = self.raw_pairs(batch).cpu()
            done += len(group)
            report(done)
        return outputs.to(self.backbone.device)

    def overall(self, per_trait: Tensor) -> Tensor:
        """Overall score, the heads' sum by trait weight: (..., K) → (...)."""
        return per_trait @ per_trait.new_tensor(list(self.trait_weights.values()))

    def mean(self, per_trait: Tensor) -> Tensor:
        """The heads' mean by trait weight: (..., K) → (...)."""
        return self.overall(per_trait) / sum(self.trait_weights.values())

    def score(
        self, conversations: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> list[ScoredResponse]:
        """Normalized scores of responses. Raises BatchError for one longer than the context."""
        scores = self.heads.normalized(self._raw_responses(conversations, responses))  # (N, K)
        return [
            ScoredResponse(overall, dict(zip(self.heads.names, row, strict=True)))
            for overall, row in zip(self.overall(scores).tolist(), scores.tolist(), strict=True)
        ]

    def overall_scores(
        self, conversations: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> list[float | None]:
        """Normalized overall score of each response; None for an empty or a too long one.

        Raises ChatTemplateError for a conversation that this model's chat template refuses.
        """
        tokenizer, context = self.tokenizer, self.backbone.context
        rows: dict[int, Row] = {}
        for place, (messages, response) in enumerate(zip(conversations, responses, strict=True)):
            if response.strip():
                name = f"response {place} to the reward model"
                try:
                    rows[place] = encode_row(tokenizer, name, messages, response, context)
                except ChatTemplateError:
                    raise
                except BatchError:  # too long
                    continue
        per_trait = self.heads.normalized(self.raw_rows(list(rows.values())))
        scores = dict(zip(rows, self.overall(per_trait).tolist(), strict=True))
        return [scores.get(place) for place in range(len(responses))]

    def _raw_responses(
        self, conversations: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> Tensor:
        tokenizer, context = self.tokenizer, self.backbone.context
        return self.raw_rows(
            [
                encode_row(tokenizer, f"response {i}", conversation, response, context)
                for i, (conversation, response) in enumerate(
                    zip(conversations, responses, strict=True)
                )
            ]
        )


class ModelScores:
    """A reward model as a RewardFunction; `unscored` counts its Nones by reason, over all calls."""

    def __init__(self, model: RewardModel) -> None:
        self.model = model
        self.backbones = [model.backbone]
        self.unscored: Counter[str] = Counter()

    def __call__(
        self, conversations: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> list[float | None]:
        """Overall scores; None, counted, for an "empty_response" or one that is "too_long"."""
        scores = self.model.overall_scores(conversations, responses)
        empty = sum(not response.strip() for response in responses)
        why = {"empty_response": empty, "too_long": scores.count(None) - empty}
        self.unscored += Counter(why)  # drops what is 0
        return scores


@runtime_checkable
class OverBackbone(Protocol):
    """A reward whose reward models are still to be opened over a backbone (rewards/mix.py)."""

    def over(self, backbone: Backbone) -> RewardFunction:
        """The reward with its reward models opened, as a role of this backbone if possible."""


@runtime_checkable
class OverModels(Protocol):
    """A reward that computes with backbones in this process."""

    @property
    def backbones(self) -> Sequence[Backbone]:
        """The backbones, which trainers shard like the policy."""


def reward_function(reward: Path | RewardFunction, backbone: Backbone) -> RewardFunction:
    """Open a reward model's folder as a role of the backbone; a callable is a function already.

    Raises RewardModelError for a folder that is not a reward model over this base.
    """
    if isinstance(reward, Path):
        return ModelScores(RewardModel.attach(backbone, reward))
    return reward.over(backbone) if isinstance(reward, OverBackbone) else reward


def backbones_of(function: RewardFunction) -> list[Backbone]:
    """The backbones that a reward computes with; none for a reward without `backbones`."""
    return list(function.backbones) if isinstance(function, OverModels) else []


def reward_identity(reward: Path | RewardFunction) -> Any:
    """JSON values that identify a reward: a run resumes only with the same ones.

    Digests of a reward model's files; a callable's `identity`, or "callable" without one. Raises
    RewardModelError for a folder that cannot be read.
    """
    if not isinstance(reward, Path):
        return getattr(reward, "identity", "callable")
    files = sorted([reward / "reward.json", *reward.glob("*.safetensors")])
    try:
        return [file_sha256(file) for file in files]
    except OSError as error:
        raise RewardModelError(
            f"{reward}: not a reward model ({error}); make one with `rlaif train reward`"
        ) from error


def checked_scores(
    score: RewardFunction, prompts: Sequence[Prompt], responses: Sequence[str], where: str
) -> list[float | None]:
    """Call a reward function; raise RewardModelError unless it gives finite numbers or None.

    where: names the step in errors. UserErrors that the function raises pass through.
    """
    try:
        scores = list(score([p.messages for p in prompts], responses))
    except UserError:
        raise
    except Exception as error:
        raise RewardModelError(
            f"{where}: the reward function raised {type(error).__name__}: {error}; the last "
            "checkpoint stays: correct the function (it may return None for what it cannot score)"
        ) from error
    if len(scores) != len(responses):
        raise RewardModelError(
            f"{where}: the reward function gave {len(scores)} scores for {len(responses)} responses"
        )
    for prompt, value in zip(prompts, scores, strict=True):
        if value is not None and not math.isfinite(value):
            raise RewardModelError(
                f"{where}: the score of a response to prompt {prompt.id} is {value}; "
                "the reward function must return finite numbers, or None for what it cannot score"
            )
    return scores


def require_a_score(scores: Sequence[float | None], where: str) -> None:
    """Raise RewardModelError when all scores of a batch, of all processes, are None."""
    if all(score is None for score in scores):
        raise RewardModelError(
            f"{where}: none of its {len(scores)} responses has a score; see why the reward "
            "function returns None, then run again to go on from the last checkpoint"
        )


def reweigh(folder: Path, weights: Mapping[str, float]) -> dict[str, float]:
    """Change trait weights of a trained reward model without training; returns all weights.

    Earlier scores and evaluations are not recomputed. Raises RewardModelError for a trait without a
    head, a weight that is not a finite number ≥ 0, or if all would be 0.
    """
    facts = _read_facts(folder)
    old: dict[str, float] = facts["trait_weights"]
    unknown = [name for name in weights if name not in old]
    if unknown:
        raise RewardModelError(
            f"{folder}: no head for the trait {unknown[0]!r} (it has: {', '.join(old)}); "
            "only a trait that labels were trained on can be weighed"
        )
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise RewardModelError(f"{name}={weight}: a weight is a finite number of at least 0")
    new = {name: float(weights.get(name, weight)) for name, weight in old.items()}  # heads' order
    if not any(new.values()):
        raise RewardModelError(
            f"{folder}: all weights are 0, so every score would be 0; give at least one above 0"
        )
    write_json(folder / "reward.json", {**facts, "trait_weights": new})
    return new


def _read_facts(folder: Path) -> dict[str, Any]:
    path = folder / "reward.json"
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise RewardModelError(
            f"{folder}: not a reward model ({error}); make one with `rlaif train reward`"
        ) from error
    return facts


def _read_heads(folder: Path, facts: Mapping[str, Any], backbone: Backbone) -> Heads:
    heads = Heads(list(facts["trait_weights"]), backbone.hidden_size)
    path = folder / "heads.safetensors"
    try:
        heads.load_state_dict(load_tensors(path))
    except Exception as error:  # safetensors' own errors have no common class with torch's
        raise RewardModelError(
            f"{path}: not the heads of this reward model ({str(error).splitlines()[0]}); "
            "train it again, or copy the whole folder"
        ) from error
    return heads.to(backbone.device)
