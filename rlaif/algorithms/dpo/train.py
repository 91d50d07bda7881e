"""Direct preference optimization (arXiv:2305.18290), on soft labels.

    h = (log π_c - log π_r) - (log ref_c - log ref_r)        log_ratio_margin, (B,)

    soft_sigmoid    -p·logsigmoid(βh) - (1-p)·logsigmoid(-βh)      p = prob_chosen: cDPO per pair
    sigmoid         -logsigmoid(βh)                                Eq. 7
    robust          [-(1-ε)·logsigmoid(βh) + ε·logsigmoid(-βh)] / (1-2ε)
                                                                   arXiv:2403.00409, ε = label_noise
    ipo_sum         (h - 1/(2β))²                                  Eq. 17, arXiv:2310.12036
    ipo_mean        the same, every log π divided by its token count, as TRL does
    sigmoid_norm    -logsigmoid(βh), every log π divided by its token count (arXiv:2411.15124)

    log π_c, log π_r      chosen, rejected of PairLogprobs: sums over the response tokens, (B,)
    log ref               the same before training, by pair and once (reference_cache.py)

Where it saves work a pair computes its prompt once for both rows (prefix_sharing.py).
Left out: f-divergences, reference-free variants, mixing in SFT.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from rlaif.algorithms.dpo.reference_cache import ReferenceCache, ReferenceLogprobs
from rlaif.batching.encode import Pair, epoch_batches
from rlaif.data.records import Preference
from rlaif.distributed.processes import ProcessGroup
from rlaif.models.backbone import Backbone
from rlaif.progress import progress
from rlaif.training.config import Learner, Run, TrainingError, memory_gib, require_finite
from rlaif.training.heldout import (
    HeldOutConfig,
    is_evaluated,
    load_and_encode,
    load_kept,
    pair_inputs,
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


class DPOConfig(HeldOutConfig):
    """Settings of DPO."""

    epochs: int = Field(default=2, ge=1, description="passes over the pairs")
    batch_size: int = Field(default=8, ge=1, description="pairs per optimizer step")
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


def train(
    config: DPOConfig,
    model: str,
    preferences: Sequence[Preference],
    out: Path,
    eval_preferences: Sequence[Preference] = (),
    reference_cache: Path | None = None,
) -> Path:
    """Train the policy on labeled pairs; returns `out`: a peft adapter, or (lora=null) a model.

    With eval_preferences the held-out loss is logged (heldout.py). reference_cache: a folder that
    several runs share; None: `out`. Resumes by itself. Raises TrainingError or BatchError.
    """
    # 1. The base, the pairs, and the policy: an adapter over the base, or the base itself.
    workers = ProcessGroup.current()
    backbone, encoded, heldout = load_and_encode(
        model, preferences, eval_preferences, config, workers
    )
    backbone.add_role("policy", config.lora, config.seed)
    backbone.shard(workers)

    # 2. Where the run stands.
    batches = epoch_batches(len(encoded.pairs), config.batch_size, config.epochs, config.seed)
    trained = [(backbone.role_parameters("policy"), config.learning_rate)]
    learner = Learner(trained, len(batches), config, workers)
    inputs = pair_inputs("dpo", config, backbone, preferences, eval_preferences)
    run = Run(out, inputs, config, workers)

    # 3. Reference log-probs, once, while the policy is still the base.
    if saved := run.resume():
        reference = saved["reference"].clone()
        learner.load(saved["learner"])
    else:
        cache = ReferenceCache(reference_cache or out, backbone.fingerprint, numerics(backbone))
        every = encoded.pairs + heldout.pairs
        reference = reference_logprobs(backbone, every, config, cache, workers)  # (N, 2)

    # 4. Steps.
    done, epoch = saved["step"] if saved else 0, len(batches) // config.epochs
    with progress("DPO", len(batches), "steps") as report:
        report(done)
        for step, batch in enumerate(batches[done:], start=done + 1):
            rate = learner.schedule(step)
            pairs, where = [encoded.pairs[i] for i in batch], f"DPO, step {step}"
            metrics = train_step(backbone, learner, pairs, reference[batch], config, where)
            metrics |= {"learning_rate": rate, "skipped": len(encoded.skipped)}
            score = None
            if heldout.pairs and is_evaluated(config, step, len(batches), epoch):
                looked = heldout.pairs, reference[len(encoded.pairs) :]
                metrics |= evaluate(backbone, *looked, config, workers, where)
                score = -metrics["heldout_loss"]
            run.log(step, metrics)
            if score is not None or step % config.checkpoint_every == 0 or step == len(batches):
                run.save(step, {"learner": learner.state(), "reference": reference}, score)
            report(step, f"loss {metrics['loss']:.3f}, margin {metrics['margin']:.2f}", metrics)

    # 5. The policy as peft (or transformers) reads it: the last step's, or the best (keep).
    load_kept(config, run, learner)
    backbone.gather(workers)
    if workers.is_main:
        backbone.save_role("policy", out)
    workers.barrier()
    run.finish()
    return out


def numerics(backbone: Backbone) -> str:
    """What the reference is computed in: full fine-tuning keeps float32 weights under bfloat16
    multiplications, which is not the same as weights in bfloat16."""
    computed, held = (str(d).removeprefix("torch.") for d in (backbone.dtype, backbone.model.dtype))
    return computed if computed == held else f"{computed}-of-{held}"


@torch.no_grad()
def reference_logprobs(
    backbone: Backbone,
    pairs: Sequence[Pair],
    config: DPOConfig,
    cache: ReferenceCache,
    workers: ProcessGroup,
) -> Tensor:
    """log ref of every pair's chosen and rejected response: (N, 2). Only what the cache lacks is
    computed. To be called before the first step: with lora=null there is no reference after it.

    Raises TrainingError where one is not finite.
    """
    own = {cache.key(pair): pair for pair in workers.shard(pairs)}
    known = cache.read(own)
    lacking = [(key, pair) for key, pair in own.items() if key not in known]
    groups = backbone.pair_batches([pair for _, pair in lacking], config.micro_batch_tokens)
    with progress("DPO, reference log-probs", len(own), "pairs") as report:
        for group in workers.pad_batches(groups):
            report(len(known))
            part = [lacking[i] for i in group]
            batch = backbone.batch_pairs([pair for _, pair in part])
            values = backbone.response_sums(None, batch).logprobs.view(-1, 2)  # (B, 2)
            if not values.isfinite().all():
                raise TrainingError(
                    f"the reference log-probs of pairs {', '.join(p.id for _, p in part)} are not "
                    "all finite: the model overflows or is damaged; set dtype=float32"
                )
            found = {
                key: ReferenceLogprobs(*row)
                for (key, _), row in zip(part, values.tolist(), strict=True)
            }
            cache.append(found)  # group by group: killed here, the next run goes on here
            known |= found
        report(len(known))
    rows = [known[cache.key(pair)] for pair in workers.shard(pairs)]
    return torch.tensor(workers.gather(rows)).reshape(-1, 2)


@dataclass(frozen=True, slots=True)
class PairMicroBatch:
    """One micro-batch."""

    losses: Tensor  # (B,)
    pairs: PairLogprobs
    tokens: int  # computed, pads aside: a shared prompt counts once


def parts(
    backbone: Backbone,
    pairs: Sequence[Pair],
    reference: Tensor,  # (N, 2)
    config: DPOConfig,
    workers: ProcessGroup,
) -> Iterator[PairMicroBatch]:
    """This process's share of the pairs under the policy, in micro-batches of equal length."""
    own = workers.shard(range(len(pairs)))
    groups = backbone.pair_batches([pairs[i] for i in own], config.micro_batch_tokens)
    for group in workers.pad_batches(groups):
        places = [own[i] for i in group]
        batch = backbone.batch_pairs([pairs[i] for i in places])
        sums = backbone.response_sums("policy", batch)
        ref = reference[places].to(backbone.device)
        chosen, rejected = sums.logprobs.view(-1, 2).unbind(1)  # (B,) each
        x = PairLogprobs(chosen, rejected, ref[:, 0], ref[:, 1], *sums.tokens.view(-1, 2).unbind(1))
        p = torch.tensor([pairs[i].prob_chosen for i in places], device=backbone.device)
        losses = LOSSES[config.loss](x, p, config.beta, config.label_noise or 0.0)  # (B,)
        yield PairMicroBatch(losses, x, batch.tokens)


def metric_sums(part: PairMicroBatch, beta: float) -> Tensor:
    """In the order of METRICS, each summed over the pairs: (5,)."""
    x = part.pairs
    h = log_ratio_margin(x)
    chosen, rejected = beta * (x.chosen - x.ref_chosen), beta * (x.rejected - x.ref_rejected)
    columns = (part.losses, beta * h, (h > 0).float(), chosen, rejected)
    return torch.stack([column.detach().double().sum() for column in columns])


METRICS = ("loss", "margin", "accuracy", "chosen_reward", "rejected_reward")


def train_step(
    backbone: Backbone,
    learner: Learner,
    pairs: Sequence[Pair],
    reference: Tensor,  # (B, 2)
    config: DPOConfig,
    where: str,
) -> dict[str, float]:
    """One optimizer step over `pairs` (those of all processes); the loss is the mean over them.

    loss       mean loss                          margin    mean β h: implicit rewards' difference
    accuracy   share of pairs with h > 0          chosen_reward, rejected_reward   β log π/ref
    grad_norm  before clipping                    tokens_per_s  computed ones, pads aside
    """
    started, workers = time.perf_counter(), learner.workers
    sums = torch.zeros(len(METRICS), dtype=torch.float64, device=backbone.device)
    tokens = 0
    for part in parts(backbone, pairs, reference, config, workers):
        # Of all pairs: neither micro-batches nor processes change the gradient.
        (part.losses.sum() / len(pairs)).backward()  # type: ignore[no-untyped-call]
        sums += metric_sums(part, config.beta)
        tokens += part.tokens
    own = dict(zip(METRICS, sums.tolist(), strict=True))
    total = workers.all_reduce(own | {"tokens": float(tokens)})
    # After the sum, so that every process stops, and none waits for another.
    require_finite(torch.tensor(total["loss"]), "loss", where)
    norm = learner.step(where)
    return {name: total[name] / len(pairs) for name in METRICS} | {
        "grad_norm": norm,
        "tokens_per_s": total["tokens"] / (time.perf_counter() - started),
        "memory_gib": memory_gib(),
    }


@torch.no_grad()
def evaluate(
    backbone: Backbone,
    pairs: Sequence[Pair],
    reference: Tensor,  # (N, 2)
    config: DPOConfig,
    workers: ProcessGroup,
    where: str,
) -> dict[str, float]:
    """heldout_loss, heldout_margin, heldout_accuracy: as in train_step, over pairs not trained on.

    Where nothing was learned that carries over, heldout_accuracy stays about ½ and the heldout_loss
    of the sigmoid losses about log 2.
    """
    sums = torch.zeros(len(METRICS), dtype=torch.float64, device=backbone.device)
    for part in parts(backbone, pairs, reference, config, workers):
        sums += metric_sums(part, config.beta)
    total = workers.all_reduce(dict(zip(METRICS, sums.tolist(), strict=True)))
    require_finite(torch.tensor(total["loss"]), "held-out loss", where)
    names = ("loss", "margin", "accuracy")
    return {f"heldout_{name}": total[name] / len(pairs) for name in names}
