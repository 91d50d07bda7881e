"""The updates of one PPO iteration: batches, gradients in micro-batches, the KL guard.

The equations are at the top of losses.py and train.py. Tensors have counted tokens only: (N,) are
the response tokens of a micro-batch's rows, one after the other, so no masks are needed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlaif.algorithms.ppo.config import PPOConfig
from rlaif.algorithms.ppo.critic import Critic
from rlaif.algorithms.ppo.drawing.models import PPOModels
from rlaif.algorithms.ppo.losses import (
    ClippedRatios,
    clipped_ratios,
    policy_losses,
    reference_losses,
    row_means,
    value_losses,
)
from rlaif.algorithms.ppo.rollout import Rollout
from rlaif.batching.encode import in_groups
from rlaif.batching.logprobs import kl_k3
from rlaif.batching.prefix_sharing import SharedBatch, pad_packs
from rlaif.distributed.processes import ProcessGroup
from rlaif.models.backbone import Backbone
from rlaif.training.checks import require_finite
from rlaif.training.learner import Learner


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows of a rollout as a dense batch of N response tokens."""

    rollout: Rollout
    places: list[int]  # of the rows in the rollout
    batch: SharedBatch

    @classmethod
    def from_packs(
        cls, rollout: Rollout, packs: Sequence[Sequence[int]], device: torch.device
    ) -> MicroBatch:
        """Pad rows of the rollout to one batch on `device`.

        packs: places in the rollout of rows that share a prompt (`Backbone.micro_batches`).
        """
        batch = pad_packs([[rollout.rows[i] for i in pack] for pack in packs], device)
        return cls(rollout, [i for pack in packs for i in pack], batch)

    def tokens_of(self, values: Tensor) -> Tensor:
        """Select these rows' response tokens: (B, R) of the whole rollout → (N,)."""
        return values[self.places][self.rollout.mask[self.places]]

    def lengths(self) -> Tensor:
        """Response tokens of each row: (B,) long."""
        return self.rollout.mask[self.places].sum(1)


def shuffled_batches(
    rows: Sequence[int], size: int, config: PPOConfig, iteration: int
) -> list[list[int]]:
    """The rows of every optimizer step of an iteration: `epochs` passes, each in an order of its
    own.

    A function of seed, iteration and epoch: the same in every process and after a resume. Without
    a shuffle a batch would hold the responses to few prompts, or to one.
    """
    batches: list[list[int]] = []
    for epoch in range(config.epochs):
        generator = torch.Generator().manual_seed(
            (config.seed * 1_000_003 + iteration) * 1_000_003 + epoch
        )
        order = torch.randperm(len(rows), generator=generator).tolist()
        batches += [[rows[place] for place in group] for group in in_groups(order, size)]
    return batches


def update(
    models: PPOModels,
    learner: Learner,
    rollout: Rollout,
    config: PPOConfig,
    workers: ProcessGroup,
    iteration: int,
) -> dict[str, float]:
    """Make `epochs` passes of optimizer steps over one rollout. Metrics, means over the steps made:

    loss                  policy_loss + vf_coef·value_loss
    policy_loss           the KL term included, with kl_in_loss
    value_loss            before vf_coef; with a value function
    clip_fraction         share of ratios that are out of their range: the sum of the next two
    clip_fraction_low     below 1 - clip
    clip_fraction_high    above 1 + clip_high
    update_kl             k3 of KL(π_old, π), nats per token, the largest seen
    kl_guard              1 when it stopped the updates
    sampler_gap           mean |log π - the sampler's| before the first step, nats per token
    grad_norm             before clipping
    update_seconds        of all updates
    update_tokens         of all rows that were passed, prompts included
    update_tokens_per_s   response tokens over update_seconds

    iteration: decides the order of the rows, and is named in errors. Without rows to train on
    (truncated=mask) no step is made. Raises TrainingError for a loss or gradient that is not
    finite.
    """
    started, where = time.perf_counter(), f"PPO, iteration {iteration}"
    steps: list[dict[str, float]] = []
    largest_kl, guard, tokens, passed, sampler_gap = 0.0, 0.0, 0, 0, None
    for rows in shuffled_batches(rollout.trained, config.batch_rows, config, iteration):
        metrics = policy_gradients(models, rollout, rows, config, workers, where)
        passed += sum(len(rollout.rows[i].ids) for i in rows)
        gap, kl = metrics.pop("sampler_gap"), metrics.pop("update_kl")
        sampler_gap = gap if sampler_gap is None else sampler_gap
        largest_kl = max(largest_kl, kl)
        # The gradient is computed together with the KL; over the ceiling it is not applied.
        if kl > config.kl_ceiling:
            learner.clear()
            guard = 1.0
            break
        if models.critic is not None and not models.critic.shares_trunk:
            metrics |= value_gradients(models.critic, rollout, rows, config, workers, where)
        loss = metrics["policy_loss"] + config.vf_coef * metrics.get("value_loss", 0.0)
        steps.append({**metrics, "loss": loss, "grad_norm": learner.step(where)})
        tokens += _token_count(rollout, rows)
    seconds = workers.max(time.perf_counter() - started)
    names = list(steps[0]) if steps else []
    return {
        **{name: sum(step[name] for step in steps) / len(steps) for name in names},
        "update_kl": largest_kl,
        "kl_guard": guard,
        "sampler_gap": sampler_gap or 0.0,
        "update_seconds": seconds,
        "update_tokens": float(passed),
        "update_tokens_per_s": tokens / seconds,
    }


_POLICY_METRICS = (
    "policy_loss", "clip_fraction", "clip_fraction_low", "clip_fraction_high", "update_kl",
    "sampler_gap",
)  # fmt: skip


def policy_gradients(
    models: PPOModels,
    rollout: Rollout,
    rows: Sequence[int],
    config: PPOConfig,
    workers: ProcessGroup,
    where: str,
) -> dict[str, float]:
    """Accumulate this process's gradient of the mean policy loss over the tokens of `rows`, or
    (ratio=sequence) over the rows.

    With a critic on the policy's trunk, vf_coef times the mean value loss is included, in the same
    backward. Returns means over all processes. Raises TrainingError for a loss that is not finite.
    """
    count = _token_count(rollout, rows)
    terms = len(rows) if config.ratio == "sequence" else count
    sums = dict.fromkeys(_POLICY_METRICS, 0.0)
    if models.critic is not None and models.critic.shares_trunk:
        sums["value_loss"] = 0.0
    for part in _micro_batches(rollout, rows, config, workers, models.policy):
        logprobs, values = models.read(part.batch, config.temperature)  # (N,) each
        losses, clipped = _policy_terms(part, logprobs, config)
        policy_loss = losses.sum() / terms
        # one backward for both losses where policy and value share their trunk
        loss = policy_loss
        if values is not None:
            value_loss = _value_loss(part, values, config) / count
            loss = policy_loss + config.vf_coef * value_loss  # Eq. 9, arXiv:1707.06347
            sums["value_loss"] += float(value_loss.detach())
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            old_logprobs = part.tokens_of(rollout.old_logprobs)  # (N,)
            gap = (logprobs - part.tokens_of(rollout.sampler_logprobs)).abs()  # (N,)
            sums["policy_loss"] += float(policy_loss)
            low, high = (float(side.sum()) / terms for side in clipped)
            sums["clip_fraction"] += low + high
            sums["clip_fraction_low"] += low
            sums["clip_fraction_high"] += high
            sums["update_kl"] += float(kl_k3(old_logprobs, logprobs).sum()) / count
            sums["sampler_gap"] += float(gap.sum()) / count
    return _finite(workers.all_reduce(sums), where)


def _policy_terms(
    part: MicroBatch, logprobs: Tensor, config: PPOConfig
) -> tuple[Tensor, ClippedRatios]:
    """(the losses to sum, which of them are clipped): of the N tokens, or of the rows."""
    rollout, low, high = part.rollout, config.clip, config.clip_high
    old = part.tokens_of(rollout.old_logprobs)  # (N,)
    advantages = part.tokens_of(rollout.advantages)  # (N,)
    importance = part.tokens_of(rollout.importance)  # (N,)
    reference = torch.zeros_like(old)  # (N,)
    if rollout.reference_weight:
        ref_logprobs = part.tokens_of(rollout.ref_logprobs)  # (N,)
        reference = rollout.reference_weight * reference_losses(logprobs, ref_logprobs)
    if config.ratio == "sequence":  # a response is one action: all of it becomes its rows' means
        lengths = part.lengths()  # (B,)
        logprobs, old = row_means(logprobs, lengths), row_means(old, lengths)
        advantages, reference = row_means(advantages, lengths), row_means(reference, lengths)
        importance = row_means(importance.log(), lengths).exp()
    losses = policy_losses(logprobs, old, advantages, low, high) * importance + reference
    return losses, clipped_ratios(logprobs.detach(), old, low, high)


def value_gradients(
    critic: Critic,
    rollout: Rollout,
    rows: Sequence[int],
    config: PPOConfig,
    workers: ProcessGroup,
    where: str,
) -> dict[str, float]:
    """Accumulate the gradient of vf_coef times the mean value loss of a critic with its own role.

    Otherwise as `policy_gradients`. Policy and value share no trained weight, so one's activations
    are freed before the other's are computed.
    """
    count = _token_count(rollout, rows)
    sums = {"value_loss": 0.0}
    for part in _micro_batches(rollout, rows, config, workers, critic.backbone):
        loss = _value_loss(part, critic.values(part.batch), config) / count
        (config.vf_coef * loss).backward()  # type: ignore[no-untyped-call]
        sums["value_loss"] += float(loss.detach())
    return _finite(workers.all_reduce(sums), where)


def _finite(sums: dict[str, float], where: str) -> dict[str, float]:
    """The sums of all processes, whose losses are checked after the sum, so that every process
    stops and none waits for another. Raises TrainingError."""
    for name in ("policy_loss", "value_loss"):
        if name in sums:
            require_finite(torch.tensor(sums[name]), name.replace("_", " "), where)
    return sums


def _value_loss(batch: MicroBatch, values: Tensor, config: PPOConfig) -> Tensor:
    """L_V summed over the micro-batch's tokens."""
    targets = batch.rollout.targets
    assert targets is not None, "a critic without targets"
    old_values, returns = batch.tokens_of(targets.values), batch.tokens_of(targets.returns)
    return value_losses(values, old_values, returns, config.value_clip).sum()


def _token_count(rollout: Rollout, rows: Sequence[int]) -> int:
    """Counted tokens of the whole batch: the divisor, whatever the micro-batches and processes."""
    return sum(rollout.rows[i].response_length for i in rows)


def _micro_batches(
    rollout: Rollout,
    rows: Sequence[int],
    config: PPOConfig,
    workers: ProcessGroup,
    backbone: Backbone,
) -> list[MicroBatch]:
    """This process's share of the rows, in micro-batches."""
    own = workers.shard(rows)
    groups = backbone.micro_batches([rollout.rows[i] for i in own], config.micro_batch_tokens)
    return [
        MicroBatch.from_packs(
            rollout, [[own[place] for place in pack] for pack in packs], backbone.device
        )
        for packs in workers.pad_batches(groups)
    ]
