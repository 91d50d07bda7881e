"""Heads that read a score off hidden states, and the trained reward model that gives scores.

    s_k = (w_k · h + b_k - mean_k) / std_k      one head k per trait (or one named "overall")
    overall = Σ_k weight_k s_k                  the constitution's trait weights

h is the hidden state at the response's end token, found from the mask. mean and std are those of
the training responses (0 and 1 until training ends).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from constitution.errors import UserError
from constitution.schema import Message
from rlaif.backbone import Backbone, Dtype, load_tensors, save_tensors
from rlaif.batching import Batch, Row, encode_row, in_groups, pad
from rlaif.records import Prompt, write_json

SCORE_BATCH = 8  # rows per forward

# (conversations, responses) → scores, None where one could not be had
RewardFunction = Callable[[Sequence[Sequence[Message]], Sequence[str]], Sequence[float | None]]


class RewardModelError(UserError):
    """A reward model that cannot be loaded or used as asked."""


class Heads(torch.nn.Module):
    """Linear heads in float32, one output per name, whatever the base's dtype."""

    def __init__(self, names: Sequence[str], hidden_size: int) -> None:
        super().__init__()
        self.names = tuple(names)
        self.weight = torch.nn.Parameter(torch.zeros(len(names), hidden_size))
        self.bias = torch.nn.Parameter(torch.zeros(len(names)))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(len(names)))
        self.register_buffer("std", torch.ones(len(names)))

    def randomise(self, seed: int) -> None:
        """Weights of std 1/√(d+1) ("N implementation details of RLHF with PPO")."""
        generator = torch.Generator().manual_seed(seed)
        std = 1 / math.sqrt(self.weight.shape[1] + 1)
        with torch.no_grad():
            self.weight.copy_(torch.randn(self.weight.shape, generator=generator) * std)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., d) → raw outputs (..., K)."""
        return torch.nn.functional.linear(hidden.float(), self.weight, self.bias)

    def normalise_on(self, raw: Tensor) -> None:
        """Make scores like these raw ones (N, K) mean 0, std 1. A constant head stays unscaled."""
        std = raw.std(dim=0, correction=0)
        self.mean.copy_(raw.mean(dim=0))
        self.std.copy_(torch.where(std > 0, std, 1.0))

    def normalised(self, raw: Tensor) -> Tensor:
        return (raw - self.mean) / self.std


@dataclass(frozen=True, slots=True)
class Score:
    overall: float
    traits: dict[str, float]


def end_hidden(hidden: Tensor, last: Tensor) -> Tensor:
    """Hidden states at the last real token: (B, T, d) and (B,) → (B, d)."""
    return hidden[torch.arange(len(last), device=last.device), last]


@dataclass(frozen=True, slots=True)
class RewardModel:
    """A reward model as the "reward" role of a backbone.

    Example: `RewardModel.load("models/smollm2-135m", Path("runs/reward")).score([c], ["Hello."])`
    """

    backbone: Backbone
    heads: Heads
    trait_weights: dict[str, float]

    @classmethod
    def load(cls, model: str, folder: Path, dtype: Dtype | None = None) -> RewardModel:
        """From the folder that reward_model.train wrote, in the dtype it was trained in."""
        if dtype is None:
            dtype = _read_facts(folder)["dtype"]
        return cls.attach(Backbone.load(model, dtype or "auto"), folder)

    @classmethod
    def attach(cls, backbone: Backbone, folder: Path) -> RewardModel:
        """As a role of a backbone that is there already: no second base in memory."""
        facts = _read_facts(folder)
        if facts["base"] != backbone.fingerprint:
            raise RewardModelError(
                f"{folder}: trained over another base ({facts['base_name']}) than {backbone.name}; "
                "give the base it was trained over, or train it again over this one"
            )
        backbone.load_role("reward", folder)
        heads = Heads(list(facts["trait_weights"]), backbone.hidden_size)
        heads.load_state_dict(load_tensors(folder / "heads.safetensors"))
        return cls(backbone, heads.to(backbone.device), facts["trait_weights"])

    def save(self, folder: Path) -> None:
        self.backbone.save_role("reward", folder)
        try:
            save_tensors(self.heads.state_dict(), folder / "heads.safetensors")
        except OSError as error:
            raise RewardModelError(f"{folder}: the heads cannot be saved ({error})") from error
        write_json(
            folder / "reward.json",
            {
                "base": self.backbone.fingerprint,
                "base_name": self.backbone.name,
                "dtype": str(self.backbone.dtype).removeprefix("torch."),
                "trait_weights": self.trait_weights,  # in the heads' order; free to be changed
                "mean": self.heads.mean.tolist(),  # raw scores of the training responses
                "std": self.heads.std.tolist(),
            },
        )

    def raw(self, batch: Batch) -> Tensor:
        """Unnormalised outputs of every head (B, K), differentiable."""
        hidden = self.backbone.hidden_states("reward", batch.ids)  # (B, T, d)
        outputs: Tensor = self.heads(end_hidden(hidden, batch.last))
        return outputs

    @torch.no_grad()
    def raw_rows(self, rows: Sequence[Row]) -> Tensor:
        """Unnormalised outputs of any number of rows (N, K), batched by length."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
        found = torch.empty(len(rows), len(self.heads.names))
        for group in in_groups(order, SCORE_BATCH):
            batch = pad([rows[i] for i in group], self.backbone.device)
            found[list(group)] = self.raw(batch).cpu()
        return found.to(self.backbone.device)

    def overall(self, per_trait: Tensor) -> Tensor:
        """Weighted sum of the heads: (..., K) → (...)."""
        return per_trait @ per_trait.new_tensor(list(self.trait_weights.values()))

    def score(
        self, conversations: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> list[Score]:
        """Scores of whole responses. Raises BatchError for one longer than the model's context."""
        scores = self.heads.normalised(self._raw_responses(conversations, responses))  # (N, K)
        return [
            Score(overall, dict(zip(self.heads.names, row, strict=True)))
            for overall, row in zip(self.overall(scores).tolist(), scores.tolist(), strict=True)
        ]

    def overall_scores(
        self, conversations: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> list[float | None]:
        """One number per response, None for an empty one: there is nothing to score."""
        said = [place for place, response in enumerate(responses) if response.strip()]
        scores = self.score([conversations[i] for i in said], [responses[i] for i in said])
        found: list[float | None] = [None] * len(responses)
        for place, score in zip(said, scores, strict=True):
            found[place] = score.overall
        return found

    def log_odds(
        self, conversations: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> list[float]:
        """The heads' weighted mean as trained, not normalised: a difference of two is the log-odds
        of the label, which normalised scores (made to have std 1) are not."""
        raw = self._raw_responses(conversations, responses)  # (N, K)
        found: list[float] = (self.overall(raw) / sum(self.trait_weights.values())).tolist()
        return found

    def _raw_responses(
        self, conversations: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> Tensor:
        tokenizer, context = self.backbone.tokenizer, self.backbone.context
        return self.raw_rows(
            [
                encode_row(tokenizer, f"response {i}", conversation, response, context)
                for i, (conversation, response) in enumerate(
                    zip(conversations, responses, strict=True)
                )
            ]
        )


def reward_function(reward: Path | RewardFunction, backbone: Backbone) -> RewardFunction:
    """A reward model's folder as a function; a callable is one already."""
    if not isinstance(reward, Path):
        return reward
    model = RewardModel.attach(backbone, reward)
    return model.overall_scores


def reward_identity(reward: Path | RewardFunction) -> Any:
    """What of the reward a resumed run must find again. A callable cannot be looked into."""
    if not isinstance(reward, Path):
        return "callable"
    names = ("reward.json", "heads.safetensors", "adapter_model.safetensors")
    return [hashlib.sha256((reward / name).read_bytes()).hexdigest() for name in names]


def checked_scores(
    score: RewardFunction, prompts: Sequence[Prompt], responses: Sequence[str], where: str
) -> list[float | None]:
    """Call the reward and check what it says. Raises RewardModelError when it cannot be used."""
    try:
        scores = list(score([p.messages for p in prompts], responses))
    except UserError:
        raise
    except Exception as error:
        raise RewardModelError(
            f"{where}: the reward function raised {type(error).__name__}: {error}; the last "
            "checkpoint stays: mend the function (let it return None for what it cannot score)"
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
    if all(value is None for value in scores):
        raise RewardModelError(
            f"{where}: none of its {len(responses)} responses has a score; see why the reward "
            "function returns None, then run again to go on from the last checkpoint"
        )
    return scores


def _read_facts(folder: Path) -> dict[str, Any]:
    path = folder / "reward.json"
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise RewardModelError(
            f"{folder}: not a reward model ({error}); make one with `rlaif train reward`"
        ) from error
    return facts
