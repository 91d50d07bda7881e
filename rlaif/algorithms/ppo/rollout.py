"""The rollout of one PPO iteration: responses sampled, scored, measured, and their advantages.

The processes share the prompts; each samples, scores and measures the responses to its own. Then
everything is gathered, so that means, whitening and batches are those of one process. A sharded
model is unsharded meanwhile (`Backbone.unsharded`), since the processes' numbers of passes differ.

    quantity                        computed by                               forwards
    log π_old                       an exact sampler, else the policy         0 or 1
                                    of now, also for responses drawn before
    V, with a value function        value=head: the policy                    the same one
                                    value=adapter: the value role             1
    log π_ref                       the reference                             1

Forwards run over micro-batches of micro_batch_tokens, in which responses to one prompt share it
where that saves work (batching/prefix_sharing.py). (B, T, V) logits are never materialized.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rlaif.algorithms.ppo.advantages import explained_variance
from rlaif.algorithms.ppo.config import PPOConfig
from rlaif.algorithms.ppo.drawing.draw import Drawn, decoded, own_requests, sample
from rlaif.algorithms.ppo.drawing.models import PPOModels
from rlaif.algorithms.ppo.estimator_base import ScoredResponses
from rlaif.batching.encode import EncodedPrompt, Row, in_groups
from rlaif.batching.logprobs import kl_k1, kl_k3
from rlaif.batching.prefix_sharing import SharedBatch, pad_packs
from rlaif.distributed.processes import ProcessGroup
from rlaif.evaluation.diversity import distinct_n
from rlaif.generation.remote.sampler import RemoteSampler
from rlaif.models.backbone import Backbone, all_whole
from rlaif.models.reward_model import backbones_of, require_a_score
from rlaif.rewards.base import reasons, reasons_since
from rlaif.rewards.standardized import raw_scores, settle


@dataclass(frozen=True, slots=True)
class RolloutResponse:
    """One response of n tokens with its measurements, on the CPU."""

    row: Row
    text: str
    complete: bool  # ended by an end token, not by max_new_tokens
    score: float | None
    sampler_logprobs: Tensor  # (n,) nats
    old_logprobs: Tensor  # (n,) nats
    ref_logprobs: Tensor  # (n,) nats
    values: Tensor  # (n,), zeros without a value function


@dataclass(frozen=True, slots=True)
class ValueTargets:
    """What the value function is trained on."""

    values: Tensor  # (B, R), before the updates
    returns: Tensor  # (B, R)


@dataclass(frozen=True, slots=True)
class Rollout:
    """The scored responses of one iteration, the same in every process.

    B rows; R is the length of the longest response.
    """

    rows: list[Row]
    mask: Tensor  # (B, R) True on response tokens, a run from 0
    old_logprobs: Tensor  # (B, R) nats
    ref_logprobs: Tensor  # (B, R) nats
    sampler_logprobs: Tensor  # (B, R) nats
    importance: Tensor  # (B, R), truncated at importance_cap
    advantages: Tensor  # (B, R)
    targets: ValueTargets | None  # None without a value function
    reference_weight: float  # of k3 to the reference in the loss: kl_coef, or 0 if not kl_in_loss
    trained: list[int]  # places of the rows that have a loss (truncated=mask: the complete ones)


def importance_weights(old_logprobs: Tensor, sampler_logprobs: Tensor) -> Tensor:
    """Importance weights π_old / sampler, before truncation; log-probs of any shape, nats."""
    return torch.exp(old_logprobs - sampler_logprobs)


@torch.no_grad()
def roll_out(
    models: PPOModels,
    prompts: Sequence[EncodedPrompt],
    step: int,
    kl_coef: float,
    config: PPOConfig,
    workers: ProcessGroup,
    drawn: Drawn | None = None,
) -> tuple[Rollout, dict[str, float]]:
    """Sample, score and measure the responses of iteration `step`, and estimate their advantages.

    drawn: those that were sampled already (drawing/ahead.py).
    Collective. Raises RewardModelError when no response has a score. Metrics, besides those of
    `assemble`:

    rollout_seconds       weight sync and sampling, of the slowest process
    rollout_restarts      rollout workers started again so far, of all processes; with any
    staleness             updates that the policy made since its weights drew the responses; with
                          off_policy_steps
    scoring_seconds       the score
    measuring_seconds     log-probs and values
    rollout_tokens        response tokens of all processes
    rollout_tokens_per_s  the same over rollout_seconds
    unscored/REASON       responses without a score by reason ("empty_response", "judge:HOST:PORT:
                          timed out", …; rewards/sources.py); absent when there are none
    """
    asked = own_requests(prompts, step, config, workers)
    reasons_before = reasons(models.score)
    if drawn is None:
        begin = time.perf_counter()
        generated = sample(models, asked.prompts, asked.seeds, config, workers)
        drawn = Drawn(generated, time.perf_counter() - begin, 0)
    responses, seconds = _respond(models, asked.prompts, drawn, step, config, workers)
    unscored = sum(r.score is None for r in responses)
    # gathered: every process assembles the same rollout
    by_reason = workers.gather([reasons_since(reasons_before, models.score, unscored)])
    groups = workers.gather(list(in_groups(responses, config.group_size)))
    require_a_score([r.score for group in groups for r in group], f"PPO, iteration {step}")
    rollout, metrics = assemble(groups, kl_coef, config, models.policy.device)
    # the iteration waits for the slowest process
    for name, spent in seconds.items():
        metrics[name] = workers.max(spent)
    tokens = sum(len(r.sampler_logprobs) for group in groups for r in group)
    metrics["rollout_tokens"] = float(tokens)
    metrics["rollout_tokens_per_s"] = tokens / workers.max(seconds["rollout_seconds"])
    metrics |= _of_workers(models, drawn, config, workers)
    counts = sum(by_reason, Counter())
    metrics |= {f"unscored/{reason}": float(count) for reason, count in counts.items()}
    return rollout, metrics


def _of_workers(
    models: PPOModels, drawn: Drawn, config: PPOConfig, workers: ProcessGroup
) -> dict[str, float]:
    found: dict[str, float] = {}
    if isinstance(models.sampler, RemoteSampler):
        own = {"rollout_restarts": float(models.sampler.restarts)}
        found |= workers.all_reduce(own)
    return found | ({"staleness": float(drawn.staleness)} if config.off_policy_steps else {})


def _respond(
    models: PPOModels,
    repeated: Sequence[EncodedPrompt],
    drawn: Drawn,
    step: int,
    config: PPOConfig,
    workers: ProcessGroup,
) -> tuple[list[RolloutResponse], dict[str, float]]:
    """The drawn responses, scored and measured, and the seconds. repeated: the prompt of each."""
    generated = drawn.generated
    times = [time.perf_counter()]
    texts = decoded(models, generated)
    where = f"PPO, iteration {step}"
    with all_whole(backbones_of(models.score)), workers.raise_together():
        raws = raw_scores(models.score, [p.prompt for p in repeated], texts, where)
    scores = settle(models.score, raws, workers)
    times.append(time.perf_counter())
    rows = [
        Row(prompt.prompt.id, (*prompt.ids, *g.ids), len(prompt.ids))
        for prompt, g in zip(repeated, generated, strict=True)
    ]
    measured = measure(models, rows, [torch.tensor(g.logprobs) for g in generated], config)
    times.append(time.perf_counter())
    responses = [
        RolloutResponse(row, text, g.complete, score, *tensors)
        for row, text, g, score, tensors in zip(
            rows, texts, generated, scores, measured, strict=True
        )
    ]
    names = ("rollout_seconds", "scoring_seconds", "measuring_seconds")
    spent = [drawn.seconds, *(after - before for before, after in pairwise(times))]
    return responses, dict(zip(names, spent, strict=True))


def measure(
    models: PPOModels, rows: Sequence[Row], sampled: Sequence[Tensor], config: PPOConfig
) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """(sampler, old, reference log-probs, values) of each row's n response tokens: (n,) on the CPU.

    sampled: the sampler's log-probs of each row; those of an exact sampler are the old ones.
    """
    policy, frozen, critic = models.policy, models.frozen, models.critic

    def policy_outputs(batch: SharedBatch) -> Tensor:  # (N, 2): log π and V, 0 without V here
        logprobs, values = models.read(batch, config.temperature)
        return torch.stack([logprobs, torch.zeros_like(logprobs) if values is None else values], 1)

    def reference(batch: SharedBatch) -> Tensor:  # (N,)
        return frozen.logprobs_from(frozen.predicting(None, batch), batch, config.temperature)

    def over(backbone: Backbone, function: Callable[[SharedBatch], Tensor]) -> list[Tensor]:
        """One role over all rows before the next: switching adapters is not free."""
        with backbone.unsharded():
            return _by_row(function, rows, config.micro_batch_tokens, backbone)

    if models.sampler.exact:  # the policy's forward is saved
        old, values = list(sampled), [torch.zeros(len(s)) for s in sampled]
    else:
        outputs = over(policy, policy_outputs)
        old, values = [each[:, 0] for each in outputs], [each[:, 1] for each in outputs]
    if critic is not None and (models.sampler.exact or not critic.shares_trunk):
        values = over(critic.backbone, critic.values)
    return list(zip(sampled, old, over(frozen, reference), values, strict=True))


def _by_row(
    function: Callable[[SharedBatch], Tensor], rows: Sequence[Row], budget: int, backbone: Backbone
) -> list[Tensor]:
    """`function` over the rows in micro-batches of `budget` tokens: (N, ...) of each batch, taken
    apart into (n, ...) of each row."""
    results: list[Tensor] = [torch.empty(0)] * len(rows)
    for group in backbone.micro_batches(rows, budget):
        values = function(pad_packs([[rows[i] for i in pack] for pack in group], backbone.device))
        places = [i for pack in group for i in pack]
        lengths = [rows[i].response_length for i in places]
        for i, of_row in zip(places, torch.split(values.float().cpu(), lengths), strict=True):
            results[i] = of_row
    return results


def assemble(
    groups: Sequence[Sequence[RolloutResponse]],
    kl_coef: float,
    config: PPOConfig,
    device: torch.device,
) -> tuple[Rollout, dict[str, float]]:
    """Build the rollout from the responses of all processes, grouped by prompt.

    Responses without a score are left out and counted. Metrics, besides those of `rollout_metrics`:

    reward                mean over responses of what the advantages are made of: Σ_t r_t (gae),
                          R (rloo), the penalized score (grpo)
    explained_variance    of V before the updates, with a value function
    unscored              responses without a score, in no other metric
    masked                responses that were cut off, and have no loss (truncated=mask)
    """
    kept = [(place, r) for place, group in enumerate(groups) for r in group if r.score is not None]
    responses = [r for _, r in kept]

    def padded(values: list[Tensor]) -> Tensor:
        return pad_sequence(values, batch_first=True).to(device)  # (B, R)

    mask = padded([torch.ones(len(r.old_logprobs), dtype=torch.bool) for r in responses])
    old = padded([r.old_logprobs for r in responses])
    ref = padded([r.ref_logprobs for r in responses])
    sampled = padded([r.sampler_logprobs for r in responses])
    importance = importance_weights(old, sampled)  # (B, R)
    scores = torch.tensor([r.score for r in responses], device=device)  # (B,)
    complete = torch.tensor([r.complete for r in responses], device=device)  # (B,)
    scored = ScoredResponses(
        scores=scores - config.eos_penalty * (~complete).float(),
        groups=torch.tensor([place for place, _ in kept], device=device),
        kl_k1=torch.where(mask, kl_k1(old, ref), 0.0),
        values=padded([r.values for r in responses]),
        mask=mask,
    )
    estimate = config.estimator.compute(scored, kl_coef, config)
    rollout = Rollout(
        rows=[r.row for r in responses],
        mask=mask,
        old_logprobs=old,
        ref_logprobs=ref,
        sampler_logprobs=sampled,
        importance=importance.clamp(max=config.importance_cap),
        advantages=estimate.advantages,
        targets=_targets(scored.values, estimate.returns),
        reference_weight=kl_coef if config.estimator.kl_in_loss else 0.0,
        trained=[i for i, r in enumerate(responses) if r.complete or config.truncated != "mask"],
    )
    metrics = rollout_metrics(rollout, responses, importance, config)
    metrics["reward"] = float(estimate.rewards.mean())
    metrics["unscored"] = float(sum(map(len, groups)) - len(responses))
    metrics["masked"] = float(len(responses) - len(rollout.trained))
    if rollout.targets is not None:
        of_value = rollout.targets.values, rollout.targets.returns
        metrics["explained_variance"] = explained_variance(*of_value, mask)
    return rollout, metrics


def _targets(values: Tensor, returns: Tensor | None) -> ValueTargets | None:
    return None if returns is None else ValueTargets(values, returns)


def rollout_metrics(
    rollout: Rollout, responses: Sequence[RolloutResponse], importance: Tensor, config: PPOConfig
) -> dict[str, float]:
    """Metrics of the scored responses. importance: (B, R), before truncation.

    score                 mean, before the missing-EOS penalty; a judge's ratings in standard
                          deviations from the mean of the first ones (rewards/standardized.py)
    kl_k1, kl_k3          to the reference: mean over responses of Σ_t, nats
    entropy               mean of -log π_old over the sampled tokens, an estimate of it, nats
    response_length       mean tokens, end token included
    eos_rate              share of responses with an end token
    distinct_2            different pairs of consecutive words over all of them (diversity.py);
                          absent without any
    importance_mean       of π_old / sampler over tokens, before truncation; 1 with an exact sampler
    importance_max        the largest, before truncation
    importance_clipped    share of tokens over importance_cap
    """
    mask, old, ref = rollout.mask, rollout.old_logprobs, rollout.ref_logprobs
    scores = torch.tensor([r.score for r in responses], device=mask.device)  # (B,)
    complete = torch.tensor([r.complete for r in responses], device=mask.device)  # (B,)
    metrics = {
        "score": float(scores.mean()),
        "kl_k1": float(torch.where(mask, kl_k1(old, ref), 0.0).sum(1).mean()),
        "kl_k3": float(torch.where(mask, kl_k3(old, ref), 0.0).sum(1).mean()),
        "entropy": float(-old[mask].mean()),
        "response_length": sum(r.row.response_length for r in responses) / len(responses),
        "eos_rate": float(complete.float().mean()),
        "importance_mean": float(importance[mask].mean()),
        "importance_max": float(importance[mask].max()),
        "importance_clipped": float((importance[mask] > config.importance_cap).float().mean()),
    }
    distinct = distinct_n([r.text for r in responses], 2)
    return metrics if distinct is None else metrics | {"distinct_2": distinct}
