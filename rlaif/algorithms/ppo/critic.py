"""PPO's value function: V of the state before each response token predicts its return.

    V(s_t) = w · h(s_t) + b        h the last hidden state before token t; w, b start as 0

    value=head       h is the policy's own: one forward gives log π and V, one backward takes
                     L_π + vf_coef · L_V through the shared trunk (Eq. 9, arXiv:1707.06347)
    value=adapter    h is that of a LoRA role of its own over the frozen base: V does not move the
                     policy, at a second forward and backward (InstructGPT's separate model)

docs/decisions/011 says why the head is the default and why its gradient enters the trunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from rlaif.batching.prefix_sharing import SharedBatch
from rlaif.models.backbone import Backbone
from rlaif.models.lora_config import LoraConfig
from rlaif.models.reward.heads import Heads


@dataclass(frozen=True, slots=True)
class Critic:
    """Value function: a linear head over one role of a backbone."""

    backbone: Backbone
    role: Literal["policy", "value"]
    head: Heads

    @classmethod
    def on_policy(cls, policy: Backbone) -> Critic:
        """Create a critic on the policy's own hidden states (value=head)."""
        return cls(policy, "policy", _head(policy))

    @classmethod
    def beside(cls, frozen: Backbone, lora: LoraConfig, seed: int) -> Critic:
        """Create a critic with a role "value" of its own over a frozen base (value=adapter).

        seed: initializes the adapter.
        """
        frozen.add_role("value", lora, seed)
        return cls(frozen, "value", _head(frozen))

    @property
    def shares_trunk(self) -> bool:
        """Whether V is read off the policy's own hidden states (value=head)."""
        return self.role == "policy"

    def parameters(self) -> dict[str, Tensor]:
        """Name → parameter of what trains for V alone, without a shared trunk."""
        parameters: dict[str, Tensor] = {}
        if not self.shares_trunk:
            parameters |= self.backbone.role_parameters("value")
        return parameters | {f"value_head.{name}": p for name, p in self.head.named_parameters()}

    def read(self, hidden: Tensor) -> Tensor:
        """Values at hidden states of the critic's role: (N, d) → (N,), in units of the score."""
        values: Tensor = self.head(hidden)[..., 0]
        return values

    def values(self, batch: SharedBatch) -> Tensor:
        """Values before each of the batch's N response tokens, (N,), by a forward of its role."""
        return self.read(self.backbone.predicting(self.role, batch))


def _head(backbone: Backbone) -> Heads:
    return Heads(1, backbone.hidden_size).to(backbone.device)
