"""Reward model: Bradley-Terry on soft labels, one head per trait.

    L = -[p·logsigmoid(Δ) + (1-p)·logsigmoid(-Δ)] + c·(s_chosen + s_rejected)²     mean over labels

    Δ         margin = chosen - rejected      (B, K) scores, K heads   Eq. 1, arXiv:2203.02155
    p         prob_chosen                     (B, K) the judge's P(chosen better) on that trait
    labelled  (B, K) False where the judge did not look at the trait: that entry is masked
    c         centering                       Eq. 2, arXiv:2312.09244: scores stay around 0

Pairs without any trait label at all (plain preference data) train one head called "overall" on the
pair's own prob_chosen. After training each head is shifted and scaled so that the training
responses have mean 0 and std 1; overall = Σ trait weight · head, the weights free to be changed.

Left out: InstructGPT's K-way ranking batches (our labels are pairs), full fine-tuning of the base.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from rlaif.backbone import Backbone
from rlaif.batching import EncodedPairs, Pair, encode_pairs, epoch_batches, in_groups, pad_pairs
from rlaif.progress import progress
from rlaif.records import Preference
from rlaif.reward_evaluation import evaluate_reward
from rlaif.scoring import Heads, RewardModel, Score
from rlaif.training import (
    Learner,
    Run,
    TrainConfig,
    TrainingError,
    memory_gib,
    report_skipped,
    require_context,
    require_finite,
    run_inputs,
)

__all__ = ["RewardConfig", "RewardModel", "Score", "preference_loss", "train"]


class RewardConfig(TrainConfig):
    """Settings of reward-model training."""

    epochs: int = Field(default=2, ge=1, description="passes over the pairs; more learns by heart")
    batch_size: int = Field(default=8, ge=1, description="pairs per optimiser step")
    centering: float = Field(default=0.01, ge=0, description="c above, 0.01 (arXiv:2312.09244)")


@dataclass(frozen=True, slots=True)
class RewardLoss:
    """All (B, K), 0 where not labelled."""

    losses: Tensor
    margins: Tensor


def preference_loss(
    chosen: Tensor, rejected: Tensor, prob_chosen: Tensor, labelled: Tensor, centering: float
) -> RewardLoss:
    """The loss of every (pair, head). All tensors (B, K); prob_chosen is read where labelled."""
    p = torch.where(labelled, prob_chosen, 0.5)
    margins = chosen - rejected
    bradley_terry = -(p * F.logsigmoid(margins) + (1 - p) * F.logsigmoid(-margins))
    centred = centering * (chosen + rejected).square()  # Eq. 2, arXiv:2312.09244
    return RewardLoss(
        torch.where(labelled, bradley_terry + centred, 0.0), torch.where(labelled, margins, 0.0)
    )


@dataclass(frozen=True, slots=True)
class Labels:
    prob_chosen: Tensor  # (B, K), 0.5 where not labelled
    labelled: Tensor  # (B, K) bool


def labels_of(pairs: Sequence[Pair], names: Sequence[str]) -> Labels:
    """Each pair's soft label for each head; the head "overall" reads the pair's own."""
    table = [
        [p.prob_chosen if name == "overall" else p.traits.get(name) for name in names]
        for p in pairs
    ]
    return Labels(
        torch.tensor([[0.5 if label is None else label for label in row] for row in table]),
        torch.tensor([[label is not None for label in row] for row in table]),
    )


def head_weights(pairs: Sequence[Pair], trait_weights: Mapping[str, float]) -> dict[str, float]:
    """The heads to train with their weights in the overall score, in sorted order.

    A trait that no pair is labelled for has no head. Raises TrainingError for a labelled trait
    without a weight.
    """
    seen = {trait for pair in pairs for trait, label in pair.traits.items() if label is not None}
    unknown = sorted(seen - trait_weights.keys())
    if unknown:
        raise TrainingError(
            f"the labels name the trait {unknown[0]!r}, which has no weight (there are: "
            f"{', '.join(sorted(trait_weights)) or 'none'}); give the constitution that made them"
        )
    return {trait: trait_weights[trait] for trait in sorted(seen)} or {"overall": 1.0}


def without_unlabelled(encoded: EncodedPairs, heads: Mapping[str, float]) -> EncodedPairs:
    """Leave out, by name, the pairs that no head can learn from."""
    if "overall" in heads:
        return encoded
    pairs = [p for p in encoded.pairs if any(p.traits.get(name) is not None for name in heads)]
    learnt = {p.id for p in pairs}
    reasons = [f"{p.id}: no trait label" for p in encoded.pairs if p.id not in learnt]
    return EncodedPairs(pairs, encoded.skipped + reasons)


def train(
    config: RewardConfig,
    model: str,
    preferences: Sequence[Preference],
    out: Path,
    trait_weights: Mapping[str, float],
    eval_preferences: Sequence[Preference] = (),
) -> Path:
    """Train on soft labels; returns `out`: peft adapter, heads.safetensors, reward.json.

    With eval_preferences, evaluation.json is written beside (reward_evaluation.py). Resumes by
    itself. Raises TrainingError or BatchError.
    """
    # 1. The frozen base, the pairs, one head per trait.
    backbone = Backbone.load(model, config.dtype)
    require_context(backbone, config.max_tokens)
    encoded = encode_pairs(backbone.tokenizer, preferences, config.max_tokens, config.unusable)
    weights = head_weights(encoded.pairs, trait_weights)
    encoded = without_unlabelled(encoded, weights)
    report_skipped(encoded.skipped)
    backbone.add_role("reward", config.lora, config.seed)
    heads = Heads(list(weights), backbone.hidden_size)
    heads.randomise(config.seed)
    reward_model = RewardModel(backbone, heads.to(backbone.device), weights)

    # 2. Where the run stands.
    batches = epoch_batches(len(encoded.pairs), config.batch_size, config.epochs, config.seed)
    trained = {**backbone.role_parameters("reward"), **dict(heads.named_parameters())}
    learner = Learner([(trained, config.learning_rate)], len(batches), config)
    run = Run(out, {**run_inputs("reward", config, backbone, preferences), "traits": weights})
    saved = run.resume()
    done = saved["step"] if saved else 0
    if saved:
        learner.load(saved["learner"])

    # 3. Steps.
    with progress("reward model", len(batches), "steps") as report:
        report(done)
        for step, batch in enumerate(batches[done:], start=done + 1):
            rate = learner.schedule(step)
            pairs = [encoded.pairs[i] for i in batch]
            metrics = train_step(reward_model, learner, pairs, config, f"reward model, step {step}")
            metrics |= {"learning_rate": rate, "skipped": len(encoded.skipped)}
            run.log(step, metrics)
            if step % config.checkpoint_every == 0 or step == len(batches):
                run.save(step, {"learner": learner.state()})
            report(step, f"loss {metrics['loss']:.3f}, accuracy {metrics['accuracy'] or 0:.2f}")

    # 4. Scores of the training responses get mean 0 and std 1.
    rows = [row for pair in encoded.pairs for row in (pair.chosen, pair.rejected)]
    heads.normalise_on(reward_model.raw_rows(rows))
    reward_model.save(out)

    # 5. Held-out pairs, on the loss's own scale.
    if eval_preferences:
        conversations = [p.prompt for p in eval_preferences]
        chosen = reward_model.log_odds(conversations, [p.chosen_text for p in eval_preferences])
        rejected = reward_model.log_odds(conversations, [p.rejected_text for p in eval_preferences])
        evaluate_reward(eval_preferences, chosen, rejected).save(out / "evaluation.json")
    return out


def train_step(
    model: RewardModel, learner: Learner, pairs: Sequence[Pair], config: RewardConfig, where: str
) -> dict[str, float | None]:
    """One optimiser step over `pairs`, in micro-batches; the loss is the mean over all labels.

    loss       the L above                        margin    mean Δ over labels (raw scores)
    accuracy   share of labels ≠ ½ whose side Δ is on, None where there is no such label
    score      mean raw score over responses and heads
    """
    started = time.perf_counter()
    device = model.backbone.device
    every = labels_of(pairs, model.heads.names)
    count = int(every.labelled.sum())  # global: micro-batches do not change the gradient
    loss = margin = score = right = told = 0.0
    tokens = 0
    for group in in_groups(sorted(pairs, key=lambda p: p.tokens), config.micro_batch_size):
        batch = pad_pairs(group, device)
        labels = labels_of(group, model.heads.names)
        p, labelled = labels.prob_chosen.to(device), labels.labelled.to(device)
        chosen, rejected = model.raw(batch).chunk(2)  # (B, K) each
        found = preference_loss(chosen, rejected, p, labelled, config.centering)
        total = found.losses.sum() / count
        require_finite(total, "loss", where)
        total.backward()  # type: ignore[no-untyped-call]
        clear = labelled & (p != 0.5)
        loss += float(total.detach())
        margin += float(found.margins.detach().sum())
        score += float((chosen + rejected).detach().sum())
        right += float((clear & ((p > 0.5) == (found.margins > 0))).sum())
        told += float(clear.sum())
        tokens += batch.tokens
    norm = learner.step(where)
    return {
        "loss": loss,
        "accuracy": right / told if told else None,
        "margin": margin / count,
        "score": score / (2 * len(pairs) * len(model.heads.names)),
        "grad_norm": norm,
        "tokens_per_s": tokens / (time.perf_counter() - started),
        "memory_gib": memory_gib(),
    }
