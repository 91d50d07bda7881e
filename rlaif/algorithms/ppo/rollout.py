"""One PPO iteration's rollout: responses sampled, scored, measured, and their advantages.

Prompts are shared out among the processes; each samples, scores and measures the responses to its
own. Then everything is gathered, so that means, whitening and batches are those of one process. A
sharded model is whole while it is asked (`Backbone.whole`): one process may ask it more often.

    what                by                                        forwards
    log π_old           an exact sampler, else the policy         0 or 1
    V, gae alone        value=head: the policy                    the same one
                        value=adapter: the value role             1
    log π_ref           the reference                             1

Forwards run over micro-batches of micro_batch_tokens, in which responses to one prompt share
it where that saves work (prefix_sharing.py). No (B, T, V) is made.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rlaif.algorithms.ppo.advantages import (
    explained_variance,
    gae_advantages,
    grpo_advantages,
    on_every_token,
    response_rewards,
    rloo_advantages,
    token_rewards,
)
from rlaif.algorithms.ppo.config import PPOConfig
from rlaif.algorithms.ppo.critic import Critic
from rlaif.batching.encode import EncodedPrompt, Row, in_groups
from rlaif.batching.logprobs import kl_k1, kl_k3, whiten
from rlaif.batching.prefix_sharing import SharedBatch, pad_packs
from rlaif.distributed.processes import ProcessGroup
from rlaif.evaluation.diversity import distinct_n
from rlaif.generation.offline import response_seed
from rlaif.generation.samplers import Sampler
from rlaif.models.backbone import Backbone, Generated, all_whole
from rlaif.models.reward_model import RewardFunction, backbones_of, checked_scores, require_a_score
from rlaif.rewards.sources import reasons, reasons_since


@dataclass(frozen=True, slots=True)
class PPOModels:
    """Who takes part. With adapters `frozen` is the policy's own backbone; in full fine-tuning it
    is a copy of the start, for the policy's base moves."""

    policy: Backbone  # role "policy"
    frozen: Backbone  # role None: the reference; maybe "value", maybe "reward"
    critic: Critic | None  # None: no value function (rloo, grpo)
    score: RewardFunction
    sampler: Sampler

    def read(self, batch: SharedBatch, temperature: float) -> PolicyOutputs:
        """What one forward of the policy tells of the batch's N response tokens."""
        hidden = self.policy.predicting("policy", batch)  # (N, d)
        shared = self.critic is not None and self.critic.shares_trunk
        return PolicyOutputs(
            self.policy.logprobs_from(hidden, batch, temperature),
            self.critic.read(hidden) if self.critic and shared else None,
        )


class PolicyOutputs(NamedTuple):
    logprobs: Tensor  # (N,) nats
    values: Tensor | None  # (N,), of a critic that shares the policy's trunk


@dataclass(frozen=True, slots=True)
class RolloutResponse:
    """One response as the process that sampled it found it. Tensors (n,), on the CPU."""

    row: Row
    text: str
    complete: bool
    score: float | None
    sampler_logprobs: Tensor
    old_logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor  # zeros without a value function


@dataclass(frozen=True, slots=True)
class ValueTargets:
    values: Tensor  # (B, R), before the updates
    returns: Tensor  # (B, R)


@dataclass(frozen=True, slots=True)
class Rollout:
    """The scored responses of one iteration, the same in every process: B rows, R tokens of the
    longest response."""

    rows: list[Row]
    mask: Tensor  # (B, R) True on response tokens, a run from 0
    old_logprobs: Tensor  # (B, R)
    ref_logprobs: Tensor  # (B, R)
    sampler_logprobs: Tensor  # (B, R)
    importance: Tensor  # (B, R), truncated
    advantages: Tensor  # (B, R)
    targets: ValueTargets | None  # None without a value function
    reference_weight: float  # of k3 to the reference in the loss: kl_coef with grpo, else 0


def importance_weights(old_logprobs: Tensor, sampler_logprobs: Tensor) -> Tensor:
    """π_old / sampler, not truncated yet; any shape."""
    return torch.exp(old_logprobs - sampler_logprobs)


@torch.no_grad()
def roll_out(
    actors: PPOModels,
    prompts: Sequence[EncodedPrompt],
    step: int,
    kl_coef: float,
    config: PPOConfig,
    workers: ProcessGroup,
) -> tuple[Rollout, dict[str, float]]:
    """The rollout of iteration `step`, with metrics, those of `assemble` and:

    rollout_seconds       weight sync and sampling, of the slowest process
    scoring_seconds       the score
    measuring_seconds     log-probs and values
    rollout_tokens_per_s  response tokens of all processes over rollout_seconds
    unscored/REASON       responses without a score by why ("empty_response", "judge:HOST:PORT:
                          timed out", …; rewards.py); absent when there are none
    """
    mine = workers.shard([(prompt, place) for place, prompt in enumerate(prompts)])
    known = reasons(actors.score)
    responses, seconds = _respond(actors, mine, step, config)
    missing = sum(r.score is None for r in responses)
    why = workers.gather([reasons_since(known, actors.score, missing)])
    groups = workers.gather(list(in_groups(responses, config.group_size)))
    require_a_score([r.score for group in groups for r in group], f"PPO, iteration {step}")
    rollout, metrics = assemble(groups, kl_coef, config, actors.policy.device)
    for name, spent in seconds.items():
        metrics[name] = workers.max(spent)
    tokens = sum(len(r.sampler_logprobs) for group in groups for r in group)
    metrics["rollout_tokens_per_s"] = tokens / workers.max(seconds["rollout_seconds"])
    metrics |= {f"unscored/{reason}": float(n) for reason, n in sum(why, Counter()).items()}
    return rollout, metrics


def _respond(
    actors: PPOModels, prompts: Sequence[tuple[EncodedPrompt, int]], step: int, config: PPOConfig
) -> tuple[list[RolloutResponse], dict[str, float]]:
    """The responses to (prompt, its place in the iteration), group by group, and the seconds."""
    n = config.group_size
    asked = [prompt for prompt, _ in prompts for _ in range(n)]
    seeds = [
        response_seed(config.seed, f"{prompt.prompt.id}@{step}", place * n + index)
        for prompt, place in prompts
        for index in range(n)
    ]
    times = [time.perf_counter()]
    drawn = sample(actors, asked, seeds, config)
    times.append(time.perf_counter())
    texts = decoded(actors, drawn)
    where = f"PPO, iteration {step}"
    with all_whole(backbones_of(actors.score)):
        scores = checked_scores(actors.score, [p.prompt for p in asked], texts, where)
    times.append(time.perf_counter())
    rows = [
        Row(prompt.prompt.id, (*prompt.ids, *generated.ids), len(prompt.ids))
        for prompt, generated in zip(asked, drawn, strict=True)
    ]
    measured = measure(actors, rows, [torch.tensor(g.logprobs) for g in drawn], config)
    times.append(time.perf_counter())
    responses = [
        RolloutResponse(row, text, generated.complete, score, *numbers)
        for row, text, generated, score, numbers in zip(
            rows, texts, drawn, scores, measured, strict=True
        )
    ]
    names = ("rollout_seconds", "scoring_seconds", "measuring_seconds")
    spent = [after - before for before, after in pairwise(times)]
    return responses, dict(zip(names, spent, strict=True))


def sample(
    actors: PPOModels, prompts: Sequence[EncodedPrompt], seeds: Sequence[int], config: PPOConfig
) -> list[Generated]:
    """One response of the present policy to each prompt; none are asked for none."""
    ids = [prompt.ids for prompt in prompts]
    with actors.policy.unsharded():
        if not prompts:
            return []
        actors.sampler.sync()
        return actors.sampler.generate(ids, config.max_new_tokens, config.temperature, seeds)


def decoded(actors: PPOModels, drawn: Sequence[Generated]) -> list[str]:
    tokenizer = actors.policy.tokenizer
    return [tokenizer.decode(g.ids, skip_special_tokens=True) for g in drawn]


def measure(
    actors: PPOModels, rows: Sequence[Row], sampled: Sequence[Tensor], config: PPOConfig
) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """sampler_logprobs, old_logprobs, ref_logprobs, values of each row, (n,) each on the CPU.

    sampled: the sampler's log-probs of each row's response, which stand as old where it is exact.
    """
    policy, frozen, critic = actors.policy, actors.frozen, actors.critic

    def own(batch: SharedBatch) -> Tensor:  # (N, 2): log π and V, 0 without a critic on the trunk
        told = actors.read(batch, config.temperature)
        values = torch.zeros_like(told.logprobs) if told.values is None else told.values
        return torch.stack([told.logprobs, values], dim=1)

    def reference(batch: SharedBatch) -> Tensor:
        return frozen.logprobs_from(frozen.predicting(None, batch), batch, config.temperature)

    def over(backbone: Backbone, function: Callable[[SharedBatch], Tensor]) -> list[Tensor]:
        """One role over all rows before the next: switching adapters is not free."""
        with backbone.unsharded():
            return _by_row(function, rows, config.micro_batch_tokens, backbone)

    exact = actors.sampler.exact
    told = [] if exact else over(policy, own)
    old = list(sampled) if exact else [each[:, 0] for each in told]
    values = [torch.zeros(len(s)) for s in sampled] if exact else [each[:, 1] for each in told]
    if critic is not None and (exact or not critic.shares_trunk):
        values = over(critic.backbone, critic.values)
    return list(zip(sampled, old, over(frozen, reference), values, strict=True))


def _by_row(
    function: Callable[[SharedBatch], Tensor], rows: Sequence[Row], budget: int, backbone: Backbone
) -> list[Tensor]:
    """What `function` says of each row's response tokens, (N, ...) of a batch and (n, ...) of each
    row."""
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    for group in backbone.micro_batches(rows, budget):
        told = function(pad_packs([[rows[i] for i in pack] for pack in group], backbone.device))
        which = [i for pack in group for i in pack]
        lengths = [rows[i].response_length for i in which]
        for i, values in zip(which, torch.split(told.float().cpu(), lengths), strict=True):
            found[i] = values
    return found


def assemble(
    groups: Sequence[Sequence[RolloutResponse]],
    kl_coef: float,
    config: PPOConfig,
    device: torch.device,
) -> tuple[Rollout, dict[str, float]]:
    """The responses of all processes, in groups by prompt, as a rollout. Those without a score are
    left out and counted. Metrics, over the scored responses:

    score                 mean, before the missing-EOS penalty
    reward                mean over responses of what the advantages are made of: Σ_t r_t (gae),
                          R (rloo), the penalized score (grpo)
    kl_k1, kl_k3          to the reference: mean over responses of Σ_t, nats
    entropy               mean of -log π_old over the tokens drawn, nats: what it estimates
    response_length       mean tokens, end token included
    eos_rate              share that ended by itself
    distinct_2            different pairs of consecutive words over all of them (diversity.py);
                          absent without any
    explained_variance    of V before the updates (gae)
    importance_mean       of π_old / sampler over tokens, before truncation; 1 with an exact sampler
    importance_max        the largest, before truncation
    importance_clipped    share of tokens over importance_cap
    unscored              responses without a score, in none of these
    """
    kept = [(place, r) for place, group in enumerate(groups) for r in group if r.score is not None]
    found = [r for _, r in kept]

    def padded(values: list[Tensor]) -> Tensor:
        return pad_sequence(values, batch_first=True).to(device)  # (B, R)

    mask = padded([torch.ones(len(r.old_logprobs), dtype=torch.bool) for r in found])
    old, ref = padded([r.old_logprobs for r in found]), padded([r.ref_logprobs for r in found])
    sampled = padded([r.sampler_logprobs for r in found])
    raw = importance_weights(old, sampled)
    scores = torch.tensor([r.score for r in found], device=device)
    complete = torch.tensor([r.complete for r in found], device=device)
    learned = _learned(
        scores - config.missing_eos_penalty * (~complete).float(),
        torch.tensor([place for place, _ in kept], device=device),
        torch.where(mask, kl_k1(old, ref), 0.0),
        padded([r.values for r in found]),
        mask,
        kl_coef,
        config,
    )
    metrics: dict[str, float] = {
        "score": float(scores.mean()),
        "reward": learned.reward,
        "kl_k1": float(torch.where(mask, kl_k1(old, ref), 0.0).sum(1).mean()),
        "kl_k3": float(torch.where(mask, kl_k3(old, ref), 0.0).sum(1).mean()),
        "entropy": float(-old[mask].mean()),
        "response_length": sum(r.row.response_length for r in found) / len(found),
        "eos_rate": float(complete.float().mean()),
        "importance_mean": float(raw[mask].mean()),
        "importance_max": float(raw[mask].max()),
        "importance_clipped": float((raw[mask] > config.importance_cap).float().mean()),
        "unscored": float(sum(map(len, groups)) - len(found)),
    }
    pairs = distinct_n([r.text for r in found], 2)
    if pairs is not None:
        metrics["distinct_2"] = pairs
    if learned.targets is not None:
        of = learned.targets
        metrics["explained_variance"] = explained_variance(of.values, of.returns, mask)
    rollout = Rollout(
        rows=[r.row for r in found],
        mask=mask,
        old_logprobs=old,
        ref_logprobs=ref,
        sampler_logprobs=sampled,
        importance=raw.clamp(max=config.importance_cap),
        advantages=learned.advantages,
        targets=learned.targets,
        reference_weight=kl_coef if config.advantages == "grpo" else 0.0,
    )
    return rollout, metrics


class _Learned(NamedTuple):
    advantages: Tensor  # (B, R)
    targets: ValueTargets | None
    reward: float


def _learned(
    scores: Tensor,
    groups: Tensor,
    k1: Tensor,
    values: Tensor,
    mask: Tensor,
    kl_coef: float,
    config: PPOConfig,
) -> _Learned:
    """The configured advantages. scores (penalized), groups (B,); k1, values, mask (B, R)."""
    if config.advantages == "gae":
        rewards = token_rewards(k1, scores, mask, kl_coef)
        gae = gae_advantages(rewards, values, mask, config.gamma, config.gae_lambda)
        targets = ValueTargets(values, gae.returns)
        return _Learned(whiten(gae.advantages, mask), targets, float(rewards.sum(1).mean()))
    if config.advantages == "rloo":
        whole = response_rewards(k1, scores, mask, kl_coef)
        each = rloo_advantages(whole, groups)
        return _Learned(on_every_token(each, mask), None, float(whole.mean()))
    each = grpo_advantages(scores, groups)
    return _Learned(on_every_token(each, mask), None, float(scores.mean()))
