"""Proximal policy optimisation (arXiv:1707.06347) of responses against a score.

    r_t = -kl_coef·k1_t,  k1_t = log π_old - log π_ref,     r_T += score at the last real token
    δ_t = r_t + gamma·V_{t+1} - V_t                         Eq. 12, arXiv:1506.02438
    A_t = δ_t + gamma·λ·A_{t+1}                             Eq. 16; V and A after the end are 0
    R_t = A_t + V_t                                         before A is whitened over the mask
    ratio = exp(log π - log π_old)
    L_π = max(-A·ratio, -A·clip(ratio, 1±clip))             Eq. 7, arXiv:1707.06347
    L_V = ½·max((v-R)², (clip(v, v_old±value_clip)-R)²)
    L   = mean over counted tokens of L_π + vf_coef·L_V

    log π_old, log π_ref, V   old_logprobs, ref_logprobs, values (B, T), at the token they lead to
    score                     (B,) of the whole response, less a penalty when it has no end token
    mask                      (B, T) True on response tokens

    adaptive KL    kl_coef ← kl_coef·(1 + clip(kl/target - 1, ±0.2)·n/horizon)
                                                            section 2.2, arXiv:1909.08593
    KL guard       when k3 of KL(π_old, π) on an update batch is over kl_ceiling, that update and
                   the iteration's remaining ones are not made (logged as kl_guard)

A response whose score is None is masked out of everything and counted (unscored), never scored 0.
Left out: an entropy bonus, whitening of scores, importance weights between sampler and trainer
(π_old is recomputed by the trainer; sampler_gap shows how far the sampler's log-probs were off).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from rlaif.backbone import Backbone, Generated
from rlaif.batching import (
    Batch,
    EncodedPrompt,
    Row,
    encode_prompts,
    endless_batch,
    in_groups,
    pad,
)
from rlaif.logprobs import kl_k1, kl_k3, masked_mean, whiten
from rlaif.progress import progress
from rlaif.records import Prompt
from rlaif.scoring import (
    Heads,
    RewardFunction,
    checked_scores,
    reward_function,
    reward_identity,
)
from rlaif.training import (
    Learner,
    Run,
    TrainConfig,
    memory_gib,
    report_skipped,
    require_context,
    require_finite,
    run_inputs,
)


class PPOConfig(TrainConfig):
    """Settings of PPO. Defaults of the equations: TRL 1.12's PPOConfig, unless said otherwise."""

    iterations: int = Field(default=100, ge=1, description="rollouts, each followed by updates")
    prompts_per_iteration: int = Field(default=16, ge=1, description="one response each")
    max_new_tokens: int = Field(default=128, ge=1, description="bound of a response, tokens")
    temperature: float = Field(default=1.0, gt=0, description="of sampling, and so of π")
    epochs: int = Field(default=1, ge=1, description="passes over a rollout; TRL 4, dearer")
    update_batch_size: int = Field(default=4, ge=1, description="responses per optimiser step")
    value_learning_rate: float = Field(
        default=1e-3, gt=0, description="of value adapter and head: they start from nothing"
    )
    kl_coef: float = Field(default=0.05, ge=0, description="weight of k1 per token, nats → score")
    kl_target: float | None = Field(
        default=None, gt=0, description="nats per response; None keeps kl_coef fixed"
    )
    kl_horizon: float = Field(
        default=1e4, gt=0, description="responses over which kl_coef adapts (arXiv:1909.08593)"
    )
    kl_ceiling: float = Field(
        default=0.05, gt=0, description="nats per token, of an update from its rollout's policy"
    )
    gamma: float = Field(default=1.0, ge=0, le=1, description="discount per token")
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    clip: float = Field(
        default=0.2, gt=0, description="of ratio around 1 (arXiv:1707.06347, table 1)"
    )
    value_clip: float = Field(default=0.2, gt=0, description="of v around v_old, in scores")
    vf_coef: float = Field(default=0.1, ge=0)
    missing_eos_penalty: float = Field(
        default=1.0, ge=0, description="off the score of a response cut off by the bound (TRL)"
    )

    @model_validator(mode="after")
    def _refuse_what_does_nothing(self) -> Self:
        if self.kl_target is None and "kl_horizon" in self.model_fields_set:
            raise ValueError("kl_horizon does nothing without kl_target; set both or neither")
        if self.max_new_tokens >= self.max_tokens:
            raise ValueError("max_new_tokens must leave room for the prompt within max_tokens")
        return self


# ── the equations ────────────────────────────────────────────────────────────────────────────


def token_rewards(k1: Tensor, scores: Tensor, last: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """r_t above. k1, mask (B, T); scores, last (B,), last the place of the last real token."""
    rewards = torch.where(mask, -kl_coef * k1, 0.0)
    return rewards.scatter_add(1, last[:, None], scores[:, None])


@dataclass(frozen=True, slots=True)
class Advantages:
    advantages: Tensor  # (B, T), not whitened, 0 outside the mask
    returns: Tensor  # (B, T), advantages + values


def generalised_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float
) -> Advantages:
    """GAE backwards over the response tokens. All (B, T); the mask is contiguous per row."""
    values = torch.where(mask, values, 0.0)
    advantages = torch.zeros_like(values)
    carry = next_value = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]  # Eq. 12, arXiv:1506.02438
        carry = torch.where(mask[:, t], delta + gamma * gae_lambda * carry, 0.0)  # Eq. 16
        advantages[:, t], next_value = carry, values[:, t]
    return Advantages(advantages, advantages + values)


def policy_losses(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip: float
) -> Tensor:
    """L_π per token; any shape."""
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(-advantages * ratio, -advantages * clipped)  # Eq. 7, arXiv:1707.06347


def value_losses(values: Tensor, old_values: Tensor, returns: Tensor, value_clip: float) -> Tensor:
    """L_V per token; any shape."""
    clipped = torch.clamp(values, old_values - value_clip, old_values + value_clip)
    return 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square())


def adapt_kl_coef(kl_coef: float, kl: float, target: float, count: int, horizon: float) -> float:
    """The next coefficient, after `count` responses of mean KL `kl` (arXiv:1909.08593, 2.2)."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * count / horizon)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - Var(R - V) / Var(R) over the mask; 0 where all returns are equal."""
    residual, target = (returns - values)[mask], returns[mask]
    variance = target.var(correction=0)
    return 0.0 if variance == 0 else float(1 - residual.var(correction=0) / variance)


# ── training ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Rollout:
    """The scored responses of one iteration, and all that the updates need to know of them."""

    batch: Batch
    old_logprobs: Tensor  # (B, T)
    values: Tensor  # (B, T)
    advantages: Tensor  # (B, T), whitened
    returns: Tensor  # (B, T)


@dataclass(frozen=True, slots=True)
class Actors:
    """Who takes part: policy and value roles of one backbone, and where scores come from."""

    backbone: Backbone
    value_head: Heads
    score: RewardFunction

    def values(self, batch: Batch) -> Tensor:
        """V of the state each token was drawn in: (B, T), meaningful on the response tokens."""
        hidden = self.backbone.hidden_states("value", batch.ids)
        values: Tensor = self.value_head(hidden[:, :-1])[..., 0]
        return torch.nn.functional.pad(values, (1, 0))


def train(
    config: PPOConfig,
    model: str,
    prompts: Sequence[Prompt],
    reward: Path | RewardFunction,
    out: Path,
) -> Path:
    """Train the policy against `reward`; returns `out`, a peft adapter. Resumes by itself.

    reward: the folder of a reward model (it becomes a role of the same backbone), or a callable
    (conversations, responses) → scores, None where one could not be had.
    Raises TrainingError or BatchError.
    """
    # 1. The frozen base with its roles, the prompts, the score.
    backbone = Backbone.load(model, config.dtype)
    require_context(backbone, config.max_tokens)
    room = config.max_tokens - config.max_new_tokens
    encoded, skipped = encode_prompts(backbone.tokenizer, prompts, room, config.unusable)
    report_skipped(skipped)
    backbone.add_role("policy", config.lora, config.seed)
    backbone.add_role("value", config.lora, config.seed + 1)
    value_head = Heads(["value"], backbone.hidden_size).to(backbone.device)  # zero: V starts as 0
    actors = Actors(backbone, value_head, reward_function(reward, backbone))

    # 2. Where the run stands.
    policy, value = backbone.role_parameters("policy"), backbone.role_parameters("value")
    value |= {f"value_head.{name}": p for name, p in value_head.named_parameters()}
    groups = [(policy, config.learning_rate), (value, config.value_learning_rate)]
    learner = Learner(groups, config.iterations, config)
    generator = torch.Generator(backbone.device).manual_seed(config.seed)
    kl_coef = config.kl_coef
    run = Run(
        out, {**run_inputs("ppo", config, backbone, prompts), "reward": reward_identity(reward)}
    )
    saved = run.resume()
    done = saved["step"] if saved else 0
    if saved:
        learner.load(saved["learner"])
        generator.set_state(saved["generator"])
        kl_coef = saved["kl_coef"]

    # 3. Iterations: roll out, score, update, adapt.
    with progress("PPO", config.iterations, "iterations") as report:
        report(done)
        for step in range(done + 1, config.iterations + 1):
            where = f"PPO, iteration {step}"
            rate = learner.schedule(step)
            batch = endless_batch(len(encoded), config.prompts_per_iteration, step, config.seed)
            chosen = [encoded[i] for i in batch]
            rollout, metrics = roll_out(actors, chosen, generator, kl_coef, config, where)
            metrics |= update(actors, learner, rollout, config, where)
            metrics |= {"kl_coef": kl_coef, "learning_rate": rate, "memory_gib": memory_gib()}
            if config.kl_target is not None:
                kl_coef = adapt_kl_coef(
                    kl_coef, metrics["kl_k1"], config.kl_target, len(chosen), config.kl_horizon
                )
            run.log(step, {**metrics, "skipped": len(skipped)})
            if step % config.checkpoint_every == 0 or step == config.iterations:
                state = {"learner": learner.state(), "generator": generator.get_state()}
                run.save(step, {**state, "kl_coef": kl_coef})
            report(step, f"score {metrics['score']:.2f}, KL {metrics['kl_k1']:.2f}")

    # 4. The policy, as peft reads it.
    backbone.save_role("policy", out)
    return out


@torch.no_grad()
def roll_out(
    actors: Actors,
    prompts: Sequence[EncodedPrompt],
    generator: torch.Generator,
    kl_coef: float,
    config: PPOConfig,
    where: str,
) -> tuple[Rollout, dict[str, float]]:
    """Sample, score, and work out advantages. Metrics, over the scored responses:

    score                 mean, before the missing-EOS penalty
    reward                mean over responses of Σ_t r_t
    kl_k1, kl_k3          to the reference: mean over responses of Σ_t, nats
    entropy               mean per token, nats
    response_length       mean tokens, end token included
    eos_rate              share that ended by itself
    explained_variance    of V before the updates
    sampler_gap           mean |log π_old - the sampler's|, nats
    unscored              responses without a score, in none of these
    rollout_tokens_per_s  response tokens over the time of sampling
    """
    started = time.perf_counter()
    drawn = actors.backbone.generate(
        "policy", [p.ids for p in prompts], config.max_new_tokens, config.temperature, generator
    )
    seconds = time.perf_counter() - started
    texts = [actors.backbone.tokenizer.decode(g.ids, skip_special_tokens=True) for g in drawn]
    found = checked_scores(actors.score, [p.prompt for p in prompts], texts, where)
    kept = [i for i, value in enumerate(found) if value is not None]
    responses = [drawn[i] for i in kept]
    rows = [_row(prompts[i], drawn[i]) for i in kept]
    batch = pad(rows, actors.backbone.device)
    mask = batch.response_mask

    old, ref, entropy, values = _evaluate(actors, batch, config)
    scores = torch.tensor([v for v in found if v is not None], device=actors.backbone.device)
    complete = torch.tensor([g.complete for g in responses], device=actors.backbone.device)
    penalised = scores - config.missing_eos_penalty * (~complete).float()
    k1 = kl_k1(old, ref)
    rewards = token_rewards(k1, penalised, batch.last, mask, kl_coef)
    gae = generalised_advantages(rewards, values, mask, config.gamma, config.gae_lambda)
    sampled = torch.cat([torch.tensor(g.logprobs) for g in responses]).to(old.device)  # (N,)
    metrics = {
        "score": float(scores.mean()),
        "reward": float(rewards.sum(1).mean()),
        "kl_k1": float(k1.sum(1).mean()),
        "kl_k3": float(kl_k3(old, ref).sum(1).mean()),
        "entropy": float(masked_mean(entropy, mask)),
        "response_length": sum(row.response_length for row in rows) / len(rows),
        "eos_rate": float(complete.float().mean()),
        "explained_variance": explained_variance(values, gae.returns, mask),
        "sampler_gap": float((old[mask] - sampled).abs().mean()),
        "unscored": float(len(prompts) - len(rows)),
        "rollout_tokens_per_s": sum(len(g.ids) for g in drawn) / seconds,
    }
    return Rollout(batch, old, values, whiten(gae.advantages, mask), gae.returns), metrics


def _row(prompt: EncodedPrompt, generated: Generated) -> Row:
    return Row(prompt.prompt.id, (*prompt.ids, *generated.ids), len(prompt.ids))


def _evaluate(actors: Actors, batch: Batch, config: PPOConfig) -> tuple[Tensor, ...]:
    """old_logprobs, ref_logprobs, entropy, values: (B, T) each, in micro-batches."""
    parts: list[tuple[Tensor, ...]] = []
    for rows in _slices(len(batch.ids), config.micro_batch_size):
        part = batch.rows(rows)
        policy = actors.backbone.logprobs_and_entropy("policy", part, config.temperature)
        ref = actors.backbone.logprobs(None, part, config.temperature)
        parts.append((policy.logprobs, ref, policy.entropy, actors.values(part)))
    return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))


def _slices(count: int, size: int) -> list[slice]:
    return [slice(group[0], group[-1] + 1) for group in in_groups(range(count), size)]


def update(
    actors: Actors, learner: Learner, rollout: Rollout, config: PPOConfig, where: str
) -> dict[str, float]:
    """`epochs` passes of optimiser steps over one rollout. Metrics, means over the steps made:

    loss                  policy_loss + vf_coef·value_loss
    clip_fraction         share of tokens whose ratio is out of 1±clip
    update_kl             k3 of KL(π_old, π), nats per token, the largest seen
    kl_guard              1 when it stopped the updates
    grad_norm             before clipping
    update_tokens_per_s   response tokens over the time of updating
    """
    started = time.perf_counter()
    means: list[dict[str, float]] = []
    largest, stopped, tokens = 0.0, 0.0, 0
    batches = _slices(len(rollout.batch.ids), config.update_batch_size) * config.epochs
    for rows in batches:
        found = gradients(actors, rollout, rows, config, where)
        largest = max(largest, found["update_kl"])
        if found["update_kl"] > config.kl_ceiling:
            learner.optimiser.zero_grad()
            stopped = 1.0
            break
        means.append({**found, "grad_norm": learner.step(where)})
        tokens += int(rollout.batch.response_mask[rows].sum())
    names = ("loss", "policy_loss", "value_loss", "clip_fraction", "grad_norm")
    return {
        **{name: sum(m[name] for m in means) / max(len(means), 1) for name in names},
        "update_kl": largest,
        "kl_guard": stopped,
        "update_tokens_per_s": tokens / (time.perf_counter() - started),
    }


def gradients(
    actors: Actors, rollout: Rollout, rows: slice, config: PPOConfig, where: str
) -> dict[str, float]:
    """Gather the gradient of the mean loss over the counted tokens of `rows`, in micro-batches.

    Policy and value share no trained weight: each is differentiated at once, so that only one
    role's activations are held at a time.
    """
    start, stop, _ = rows.indices(len(rollout.batch.ids))
    count = int(rollout.batch.response_mask[rows].sum())  # global: micro-batches change nothing
    sums = dict.fromkeys(("policy_loss", "value_loss", "clip_fraction", "update_kl"), 0.0)
    for inner in _slices(stop - start, config.micro_batch_size):
        part = slice(start + inner.start, start + inner.stop)
        batch = rollout.batch.rows(part)
        mask = batch.response_mask
        logprobs = actors.backbone.logprobs("policy", batch, config.temperature)
        old = rollout.old_logprobs[part]
        losses = policy_losses(logprobs, old, rollout.advantages[part], config.clip)
        policy_loss = torch.where(mask, losses, 0.0).sum() / count
        require_finite(policy_loss, "policy loss", where)
        policy_loss.backward()  # type: ignore[no-untyped-call]

        values = actors.values(batch)
        losses = value_losses(
            values, rollout.values[part], rollout.returns[part], config.value_clip
        )
        value_loss = torch.where(mask, losses, 0.0).sum() / count
        require_finite(value_loss, "value loss", where)
        (config.vf_coef * value_loss).backward()  # type: ignore[no-untyped-call]

        with torch.no_grad():
            out = mask & ((logprobs - old).exp() - 1).abs().gt(config.clip)
            moved = torch.where(mask, kl_k3(old, logprobs), 0.0)
        sums["policy_loss"] += float(policy_loss.detach())
        sums["value_loss"] += float(value_loss.detach())
        sums["clip_fraction"] += float(out.sum()) / count
        sums["update_kl"] += float(moved.sum()) / count
    return sums | {"loss": sums["policy_loss"] + config.vf_coef * sums["value_loss"]}
