"""Direct preference optimisation (arXiv:2305.18290), on soft labels.

    h = (log π_c - log π_r) - (log ref_c - log ref_r)        log_ratio_margin, (B,)

    soft_sigmoid    -p·logsigmoid(βh) - (1-p)·logsigmoid(-βh)      p = prob_chosen: cDPO per pair
    sigmoid         -logsigmoid(βh)                                Eq. 7
    robust          [-(1-ε)·logsigmoid(βh) + ε·logsigmoid(-βh)] / (1-2ε)
                                                                   arXiv:2403.00409, ε = label_noise
    ipo_sum         (h - 1/(2β))²                                  Eq. 17, arXiv:2310.12036
    ipo_mean        the same, every log π divided by its token count, as TRL does
    sigmoid_norm    -logsigmoid(βh), every log π divided by its token count (arXiv:2411.15124)

    log π_c, log π_r      chosen, rejected of PairLogprobs: sums over the response tokens, (B,)
    log ref               the same with adapters off, computed once before training

Left out: f-divergences, reference-free variants, mixing in SFT, full fine-tuning.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from rlaif.backbone import Backbone, Role
from rlaif.batching import Pair, encode_pairs, epoch_batches, in_groups, pad_pairs
from rlaif.progress import progress
from rlaif.records import Preference
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


@dataclass(frozen=True, slots=True)
class PairLogprobs:
    """Everything a DPO loss is a function of; all (B,), nats summed over tokens."""

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor


def log_ratio_margin(pairs: PairLogprobs) -> Tensor:
    """h above."""
    return (pairs.chosen - pairs.ref_chosen) - (pairs.rejected - pairs.ref_rejected)


def log_ratio_margin_per_token(pairs: PairLogprobs) -> Tensor:
    """h with every log-prob divided by its response's token count."""
    chosen = (pairs.chosen - pairs.ref_chosen) / pairs.chosen_tokens
    return chosen - (pairs.rejected - pairs.ref_rejected) / pairs.rejected_tokens


def soft_sigmoid_loss(h: Tensor, prob_chosen: Tensor, beta: float) -> Tensor:
    return -prob_chosen * F.logsigmoid(beta * h) - (1 - prob_chosen) * F.logsigmoid(-beta * h)


def sigmoid_loss(h: Tensor, beta: float) -> Tensor:
    return -F.logsigmoid(beta * h)  # Eq. 7, arXiv:2305.18290


def robust_loss(h: Tensor, beta: float, label_noise: float) -> Tensor:
    clean, flipped = -F.logsigmoid(beta * h), -F.logsigmoid(-beta * h)
    return ((1 - label_noise) * clean - label_noise * flipped) / (1 - 2 * label_noise)


def ipo_loss(h: Tensor, beta: float) -> Tensor:
    return (h - 1 / (2 * beta)).square()  # Eq. 17, arXiv:2310.12036, their τ is our β


# name → losses (B,) of (log-probs, prob_chosen (B,), β, label_noise)
LOSSES: dict[str, Callable[[PairLogprobs, Tensor, float, float], Tensor]] = {
    "soft_sigmoid": lambda x, p, beta, _: soft_sigmoid_loss(log_ratio_margin(x), p, beta),
    "sigmoid": lambda x, _p, beta, _: sigmoid_loss(log_ratio_margin(x), beta),
    "robust": lambda x, _p, beta, noise: robust_loss(log_ratio_margin(x), beta, noise),
    "ipo_sum": lambda x, _p, beta, _: ipo_loss(log_ratio_margin(x), beta),
    "ipo_mean": lambda x, _p, beta, _: ipo_loss(log_ratio_margin_per_token(x), beta),
    "sigmoid_norm": lambda x, _p, beta, _: sigmoid_loss(log_ratio_margin_per_token(x), beta),
}


class DPOConfig(TrainConfig):
    """Settings of DPO."""

    epochs: int = Field(default=2, ge=1, description="passes over the pairs")
    batch_size: int = Field(default=8, ge=1, description="pairs per optimiser step")
    beta: float = Field(
        default=0.1, gt=0, description="strength of the KL leash (arXiv:2305.18290)"
    )
    loss: str = Field(default="soft_sigmoid", description=f"one of {', '.join(LOSSES)}")
    label_noise: float | None = Field(
        default=None, gt=0, lt=0.5, description="share of wrong labels; of loss=robust alone"
    )

    @field_validator("loss")
    @classmethod
    def _known(cls, loss: str) -> str:
        if loss not in LOSSES:
            raise ValueError(f"no such loss; there are {', '.join(LOSSES)}")
        return loss

    @model_validator(mode="after")
    def _noise_belongs_to_robust(self) -> Self:
        if (self.loss == "robust") != (self.label_noise is not None):
            raise ValueError("label_noise belongs to loss=robust: set both or neither")
        return self


def train(config: DPOConfig, model: str, preferences: Sequence[Preference], out: Path) -> Path:
    """Train the policy on labelled pairs; returns `out`, a peft adapter. Resumes by itself.

    Raises TrainingError or BatchError.
    """
    # 1. The frozen base, the pairs, the policy as a fresh adapter.
    backbone = Backbone.load(model, config.dtype)
    require_context(backbone, config.max_tokens)
    encoded = encode_pairs(backbone.tokenizer, preferences, config.max_tokens, config.unusable)
    report_skipped(encoded.skipped)
    backbone.add_role("policy", config.lora, config.seed)

    # 2. Where the run stands.
    batches = epoch_batches(len(encoded.pairs), config.batch_size, config.epochs, config.seed)
    learner = Learner(
        [(backbone.role_parameters("policy"), config.learning_rate)], len(batches), config
    )
    run = Run(out, run_inputs("dpo", config, backbone, preferences))
    saved = run.resume()
    done = saved["step"] if saved else 0
    if saved:
        learner.load(saved["learner"])

    # 3. Reference log-probs, once.
    reference = saved["reference"] if saved else reference_logprobs(backbone, encoded.pairs, config)

    # 4. Steps.
    with progress("DPO", len(batches), "steps") as report:
        report(done)
        for step, batch in enumerate(batches[done:], start=done + 1):
            rate = learner.schedule(step)
            pairs = [encoded.pairs[i] for i in batch]
            metrics = train_step(
                backbone, learner, pairs, reference[batch], config, f"DPO, step {step}"
            )
            metrics |= {"learning_rate": rate, "skipped": len(encoded.skipped)}
            run.log(step, metrics)
            if step % config.checkpoint_every == 0 or step == len(batches):
                run.save(step, {"learner": learner.state(), "reference": reference})
            report(step, f"loss {metrics['loss']:.3f}, margin {metrics['margin']:.2f}")

    # 5. The policy, as peft reads it.
    backbone.save_role("policy", out)
    return out


@torch.no_grad()
def reference_logprobs(backbone: Backbone, pairs: Sequence[Pair], config: DPOConfig) -> Tensor:
    """log ref of every pair's chosen and rejected response: (N, 2)."""
    found = torch.empty(len(pairs), 2)
    order = sorted(range(len(pairs)), key=lambda i: pairs[i].tokens)
    with progress("DPO, reference log-probs", len(pairs), "pairs") as report:
        for place, group in enumerate(in_groups(order, config.micro_batch_size)):
            report(place * config.micro_batch_size)
            sums = response_sums(backbone, None, [pairs[i] for i in group])
            found[list(group)] = torch.stack(sums.logprobs.chunk(2), dim=1).cpu()
        report(len(pairs))
    return found


@dataclass(frozen=True, slots=True)
class ResponseSums:
    """Of 2B rows, the chosen ones first."""

    logprobs: Tensor  # (2B,) nats summed over the response
    response_tokens: Tensor  # (2B,)
    tokens: int  # real tokens, prompts included


def response_sums(backbone: Backbone, role: Role | None, pairs: Sequence[Pair]) -> ResponseSums:
    batch = pad_pairs(pairs, backbone.device)
    logprobs = backbone.logprobs(role, batch)  # (2B, T)
    return ResponseSums(logprobs.sum(1), batch.response_mask.sum(1), batch.tokens)


def train_step(
    backbone: Backbone,
    learner: Learner,
    pairs: Sequence[Pair],
    reference: Tensor,  # (B, 2)
    config: DPOConfig,
    where: str,
) -> dict[str, float]:
    """One optimiser step over `pairs`, in micro-batches; the loss is the mean over pairs.

    loss       mean loss                          margin    mean β h: implicit rewards' difference
    accuracy   share of pairs with h > 0          chosen_reward, rejected_reward   β log π/ref
    """
    started = time.perf_counter()
    sums = dict.fromkeys(("loss", "margin", "accuracy", "chosen_reward", "rejected_reward"), 0.0)
    tokens = 0
    by_length = sorted(range(len(pairs)), key=lambda i: pairs[i].tokens)
    for group in in_groups(by_length, config.micro_batch_size):
        found = response_sums(backbone, "policy", [pairs[i] for i in group])
        ref = reference[list(group)].to(backbone.device)
        chosen, rejected = found.logprobs.chunk(2)  # (B,) each
        chosen_tokens, rejected_tokens = found.response_tokens.chunk(2)
        x = PairLogprobs(chosen, rejected, ref[:, 0], ref[:, 1], chosen_tokens, rejected_tokens)
        p = torch.tensor([pairs[i].prob_chosen for i in group], device=backbone.device)
        losses = LOSSES[config.loss](x, p, config.beta, config.label_noise or 0.0)  # (B,)
        total = losses.sum() / len(pairs)  # of all pairs: micro-batches do not change the gradient
        require_finite(total, "loss", where)
        total.backward()  # type: ignore[no-untyped-call]
        h = log_ratio_margin(x).detach()
        sums["loss"] += float(losses.detach().sum())
        sums["margin"] += config.beta * float(h.sum())
        sums["accuracy"] += float((h > 0).sum())
        sums["chosen_reward"] += config.beta * float((x.chosen - x.ref_chosen).detach().sum())
        sums["rejected_reward"] += config.beta * float((x.rejected - x.ref_rejected).detach().sum())
        tokens += found.tokens
    norm = learner.step(where)
    return {name: value / len(pairs) for name, value in sums.items()} | {
        "grad_norm": norm,
        "tokens_per_s": tokens / (time.perf_counter() - started),
        "memory_gib": memory_gib(),
    }
