"""Reward models: linear heads over hidden states, and the scores that they give.

One head has learned the label, P(chosen is better) by the whole constitution, and scores for PPO
and ReST; one more per trait serves reports, several objectives and other weights
(reward/weights.py). Every score is in its own standard deviations from the mean of the training
responses (reward/heads.py). A trained reward model is a folder:

    adapter_config.json, adapter_model.safetensors     the "reward" role, in peft's format; or,
    config.json, model.safetensors, tokenizer …        trained with lora=null, a whole model
    heads.safetensors                                  weight, bias, mean, covariance
    reward.json                                        trait weights, base, dtype, variables of the
                                                       chat template
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from constitution.errors import UserError
from constitution.schema import Message
from rlaif.batching.chat import ChatTemplateError, template_kwargs_of, with_template_kwargs
from rlaif.batching.encode import Pair, Row, response_row
from rlaif.batching.prefix_sharing import SharedBatch, pad_packs
from rlaif.batching.unusable import BatchError
from rlaif.data.files import file_sha256
from rlaif.data.records import Prompt, write_json
from rlaif.distributed.processes import ProcessGroup
from rlaif.models.backbone import Backbone, Role
from rlaif.models.folder import load_tensors, save_tensors
from rlaif.models.lora_config import TrainDtype
from rlaif.models.reward.heads import LABEL, RewardHeads
from rlaif.models.reward.weights import RewardModelError, Weighing, read_facts, weighing_of

Result = TypeVar("Result")

SCORE_TOKENS = 4096  # padded tokens per forward

# (conversations, responses) → scores, None where one could not be had
RewardFunction = Callable[[Sequence[Sequence[Message]], Sequence[str]], Sequence[float | None]]


@dataclass(frozen=True, slots=True)
class ScoredResponse:
    """Scores of one response, each in its own standard deviations of the training responses."""

    overall: float  # by the head on the label; after `reweigh` by a sum of the traits
    traits: dict[str, float]


@dataclass(frozen=True, slots=True)
class RewardModel:
    """A reward model: heads over the "reward" role of a backbone, or over a backbone of its own.

    Example: `RewardModel.load("models/smollm2-135m", Path("runs/reward")).score([c], ["Hello."])`
    """

    backbone: Backbone
    heads: RewardHeads
    weights: Weighing
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
        facts = read_facts(folder)
        chosen: TrainDtype = dtype or facts["dtype"] or "auto"
        kwargs = facts.get("chat_template_kwargs")  # absent in folders of earlier versions
        if facts.get("tuning") != "full":
            backbone = Backbone.load(model, chosen, workers=workers, template_kwargs=kwargs)
            return cls.attach(backbone, folder)
        backbone = Backbone.load(str(folder), chosen, workers=workers, template_kwargs=kwargs)
        weights = weighing_of(facts, folder)
        return cls(backbone, _read_heads(folder, weights, backbone), weights, "full", None)

    @classmethod
    def attach(cls, backbone: Backbone, folder: Path) -> RewardModel:
        """Load a trained adapter as the role "reward"; RewardModelError if over another base."""
        facts = read_facts(folder)
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
        weights = weighing_of(facts, folder)
        backbone.load_role("reward", folder)
        heads = _read_heads(folder, weights, backbone)
        tokenizer = with_template_kwargs(backbone.tokenizer, facts.get("chat_template_kwargs"))
        return cls(backbone, heads, weights, own_tokenizer=tokenizer)

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
                "label_weights": self.weights.label,
                "trait_weights": self.weights.now,
                # Raw scores of the training responses: by the head on the label, then by trait.
                "mean": self.heads.mean.tolist(),
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
        return self.raw(batch).view(-1, 2, self.heads.count)

    @torch.no_grad()
    def raw_rows(self, rows: Sequence[Row], budget: int = SCORE_TOKENS) -> Tensor:
        """Raw scores of N rows, without gradient: (N, K). budget: padded tokens per forward."""
        outputs = torch.empty(len(rows), self.heads.count)  # (N, K)
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
        outputs = torch.empty(len(pairs), 2, self.heads.count)  # (N, 2, K)
        done = 0
        for group in pad_batches(self.backbone.pair_batches(pairs, budget)):
            batch = self.backbone.batch_pairs([pairs[i] for i in group])
            outputs[group] = self.raw_pairs(batch).cpu()
            done += len(group)
            report(done)
        return outputs.to(self.backbone.device)

    def overall(self, raw: Tensor) -> Tensor:
        """The score from raw ones: by the head on the label, or at other weights by the traits.

        (..., K) → (...), in its own standard deviations.
        """
        if self.weights.by_label:
            return self.heads.normalized(raw)[..., LABEL]
        return self.heads.weighted(raw, list(self.weights.now.values()))

    def score(
        self, conversations: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> list[ScoredResponse]:
        """Normalized scores of responses. Raises BatchError for one longer than the context."""
        raw = self._raw_responses(conversations, responses)  # (N, K)
        traits = self.heads.normalized(raw)[:, LABEL + 1 :]  # (N, K - 1)
        return [
            ScoredResponse(overall, dict(zip(self.heads.traits, row, strict=True)))
            for overall, row in zip(self.overall(raw).tolist(), traits.tolist(), strict=True)
        ]

    def overall_scores(
        self, conversations: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> list[float | None]:
        """Normalized overall score of each response; None for an empty or a too long one.

        A ResponseText that was cut off is scored without an end token, as it was trained on. Raises
        ChatTemplateError for a conversation that this model's chat template refuses.
        """
        tokenizer, context = self.tokenizer, self.backbone.context
        rows: dict[int, Row] = {}
        for place, (messages, response) in enumerate(zip(conversations, responses, strict=True)):
            if response.strip():
                name = f"response {place} to the reward model"
                try:
                    rows[place] = response_row(tokenizer, name, messages, response, context)
                except ChatTemplateError:
                    raise
                except BatchError:  # too long
                    continue
        raw = self.raw_rows(list(rows.values()))
        scores = dict(zip(rows, self.overall(raw).tolist(), strict=True))
        return [scores.get(place) for place in range(len(responses))]

    def _raw_responses(
        self, conversations: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> Tensor:
        tokenizer, context = self.tokenizer, self.backbone.context
        return self.raw_rows(
            [
                response_row(tokenizer, f"response {i}", conversation, response, context)
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


def score_responses(
    function: Callable[[Sequence[Sequence[Message]], Sequence[str]], Sequence[Result]],
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    where: str,
) -> list[Result]:
    """One result of `function` for each response; errors as in `checked_scores`."""
    try:
        scores = list(function([p.messages for p in prompts], responses))
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
    return scores


def checked_scores(
    score: RewardFunction, prompts: Sequence[Prompt], responses: Sequence[str], where: str
) -> list[float | None]:
    """Call a reward function; raise RewardModelError unless it gives finite numbers or None.

    where: names the step in errors. UserErrors that the function raises pass through.
    """
    scores = score_responses(score, prompts, responses, where)
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


def _read_heads(folder: Path, weights: Weighing, backbone: Backbone) -> RewardHeads:
    heads = RewardHeads(weights.traits, backbone.hidden_size)
    path = folder / "heads.safetensors"
    try:
        heads.load_state_dict(load_tensors(path))
    except Exception as error:  # safetensors' own errors have no common class with torch's
        raise RewardModelError(
            f"{path}: not the heads of this reward model ({str(error).splitlines()[0]}); "
            "train it again, or copy the whole folder"
        ) from error
    return heads.to(backbone.device)
