"""The updates of one PPO iteration: losses, their gradients in micro-batches, the KL guard.

The equations are at the top of ppo.py. Everything here is over counted tokens alone: (N,) are the
response tokens of the rows at hand, one after the other, so there are no masks to get wrong.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlaif.algorithms.ppo.config import PPOConfig
from rlaif.algorithms.ppo.critic import Critic
from rlaif.algorithms.ppo.rollout import PPOModels, Rollout
from rlaif.batching.encode import in_groups
from rlaif.batching.logprobs import kl_k3
from rlaif.batching.prefix_sharing import SharedBatch, pad_packs
from rlaif.distributed.processes import ProcessGroup
from rlaif.models.backbone import Backbone
from rlaif.training.config import Learner, require_finite


def policy_losses(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip: float
) -> Tensor:
    """L_π per token, before importance weights; any shape."""
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(-advantages * ratio, -advantages * clipped)  # Eq. 7, arXiv:1707.06347


def value_losses(values: Tensor, old_values: Tensor, returns: Tensor, value_clip: float) -> Tensor:
    """L_V per token; any shape."""
    clipped = torch.clamp(values, old_values - value_clip, old_values + value_clip)
    return 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square())


def reference_losses(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """k3 of KL(π, reference) per token, for grpo: Eq. 4, arXiv:2402.03300; any shape."""
    return kl_k3(logprobs, ref_logprobs)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Some rows of a rollout as a dense batch, with what is known of their N response tokens."""

    rollout: Rollout
    which: list[int]
    batch: SharedBatch

    @classmethod
    def of(
        cls, rollout: Rollout, packs: Sequence[Sequence[int]], device: torch.device
    ) -> MicroBatch:
        batch = pad_packs([[rollout.rows[i] for i in pack] for pack in packs], device)
        return cls(rollout, [i for pack in packs for i in pack], batch)

    def counted(self, values: Tensor) -> Tensor:
        """(B, R) of the whole rollout → (N,) of these rows."""
        return values[self.which][self.rollout.mask[self.which]]


def update(
    actors: PPOModels,
    learner: Learner,
    rollout: Rollout,
    config: PPOConfig,
    workers: ProcessGroup,
    where: str,
) -> dict[str, float]:
    """`epochs` passes of optimizer steps over one rollout. Metrics, means over the steps made:

    loss                  policy_loss + vf_coef·value_loss
    policy_loss           with grpo: its KL term included
    value_loss            gae alone, before vf_coef
    clip_fraction         share of tokens whose ratio is out of 1±clip
    update_kl             k3 of KL(π_old, π), nats per token, the largest seen
    kl_guard              1 when it stopped the updates
    sampler_gap           mean |log π - the sampler's| before the first step, nats per token
    grad_norm             before clipping
    update_seconds        of all this
    update_tokens_per_s   response tokens over them
    """
    started = time.perf_counter()
    means: list[dict[str, float]] = []
    largest, stopped, tokens, gap = 0.0, 0.0, 0, None
    batches = list(in_groups(range(len(rollout.rows)), config.update_batch_size))
    for rows in batches * config.epochs:
        found = own_gradients(actors, rollout, rows, config, workers, where)
        gap = found["sampler_gap"] if gap is None else gap
        largest = max(largest, found["update_kl"])
        if found["update_kl"] > config.kl_ceiling:
            learner.clear()
            stopped = 1.0
            break
        if actors.critic is not None and not actors.critic.shares_trunk:
            found |= value_gradients(actors.critic, rollout, rows, config, workers, where)
        found["loss"] = found["policy_loss"] + config.vf_coef * found.get("value_loss", 0.0)
        means.append({**found, "grad_norm": learner.step(where)})
        tokens += sum(rollout.rows[i].response_length for i in rows)
    names = [n for n in (means[0] if means else {}) if n not in ("update_kl", "sampler_gap")]
    seconds = workers.max(time.perf_counter() - started)
    return {
        **{name: sum(m[name] for m in means) / len(means) for name in names},
        "update_kl": largest,
        "kl_guard": stopped,
        "sampler_gap": gap or 0.0,
        "update_seconds": seconds,
        "update_tokens_per_s": tokens / seconds,
    }


def own_gradients(
    actors: PPOModels,
    rollout: Rollout,
    rows: Sequence[int],
    config: PPOConfig,
    workers: ProcessGroup,
    where: str,
) -> dict[str, float]:
    """Gather this process's gradient of the mean policy loss over all counted tokens of `rows`;
    with a critic on the policy's trunk, plus vf_coef times the mean value loss, in one backward.

    The returned means are those of all processes together.
    """
    count = _tokens(rollout, rows)
    sums = dict.fromkeys(("policy_loss", "clip_fraction", "update_kl", "sampler_gap"), 0.0)
    if actors.critic is not None and actors.critic.shares_trunk:
        sums["value_loss"] = 0.0
    for part in _parts(rollout, rows, config, workers, actors.policy):
        logprobs, values = actors.read(part.batch, config.temperature)  # (N,) each
        old = part.counted(rollout.old_logprobs)
        losses = policy_losses(logprobs, old, part.counted(rollout.advantages), config.clip)
        losses = losses * part.counted(rollout.importance)
        if rollout.reference_weight:
            ref = part.counted(rollout.ref_logprobs)
            losses = losses + rollout.reference_weight * reference_losses(logprobs, ref)
        loss = losses.sum() / count
        require_finite(loss, "policy loss", where)
        whole = loss
        if values is not None:
            of_value = _value_loss(part, values, config, where) / count
            whole = loss + config.vf_coef * of_value  # Eq. 9, arXiv:1707.06347
            sums["value_loss"] += float(of_value.detach())
        whole.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            outside = ((logprobs - old).exp() - 1).abs().gt(config.clip)
            gap = (logprobs - part.counted(rollout.sampler_logprobs)).abs()
            sums["policy_loss"] += float(loss)
            sums["clip_fraction"] += float(outside.sum()) / count
            sums["update_kl"] += float(kl_k3(old, logprobs).sum()) / count
            sums["sampler_gap"] += float(gap.sum()) / count
    return workers.all_reduce(sums)


def value_gradients(
    critic: Critic,
    rollout: Rollout,
    rows: Sequence[int],
    config: PPOConfig,
    workers: ProcessGroup,
    where: str,
) -> dict[str, float]:
    """As `own_gradients`, of vf_coef times the mean value loss of a critic that stands beside.

    Policy and value share no trained weight, so that one's activations are gone before the
    other's are made.
    """
    count = _tokens(rollout, rows)
    sums = {"value_loss": 0.0}
    for part in _parts(rollout, rows, config, workers, critic.backbone):
        loss = _value_loss(part, critic.values(part.batch), config, where) / count
        (config.vf_coef * loss).backward()  # type: ignore[no-untyped-call]
        sums["value_loss"] += float(loss.detach())
    return workers.all_reduce(sums)


def _value_loss(part: MicroBatch, values: Tensor, config: PPOConfig, where: str) -> Tensor:
    """L_V summed over the part's tokens."""
    targets = part.rollout.targets
    assert targets is not None, "a critic without targets"
    old, returns = part.counted(targets.values), part.counted(targets.returns)
    loss = value_losses(values, old, returns, config.value_clip).sum()
    require_finite(loss, "value loss", where)
    return loss


def _tokens(rollout: Rollout, rows: Sequence[int]) -> int:
    """Counted tokens of the whole batch: whatever the micro-batches and processes, the divisor."""
    return sum(rollout.rows[i].response_length for i in rows)


def _parts(
    rollout: Rollout,
    rows: Sequence[int],
    config: PPOConfig,
    workers: ProcessGroup,
    backbone: Backbone,
) -> list[MicroBatch]:
    """This process's share of the rows, in micro-batches."""
    mine = workers.shard(rows)
    groups = backbone.micro_batches([rollout.rows[i] for i in mine], config.micro_batch_tokens)
    return [
        MicroBatch.of(rollout, [[mine[place] for place in pack] for pack in packs], backbone.device)
        for packs in workers.pad_batches(groups)
    ]
