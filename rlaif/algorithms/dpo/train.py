"""Direct preference optimization (arXiv:2305.18290), on soft labels.

    L = mean over pairs of LOSSES[loss](log π, log ref, prob_chosen)      losses/__init__.py
                           + sft_weight * (-log π(y_c | x) / |y_c|)       preferred_nll

    log π      of the policy, the adapter or model that trains: sums over the response tokens, (B,)
    log ref    the same before training, computed once per pair (reference_cache.py)

A pair computes its prompt once for both rows where that saves work (batching/prefix_sharing.py).
Left out: SFT on other records than the pairs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.dpo.hard_labels import hard_corpus, hard_labels
from rlaif.algorithms.dpo.losses import LOSSES, PairLogprobs, log_ratios, preferred_nll
from rlaif.algorithms.dpo.reference_cache import ReferenceCache, ReferenceLogprobs
from rlaif.algorithms.dpo.reference_file import ReferenceFile, fill_reference
from rlaif.batching.corpus.mapped import CorpusPairs, picked
from rlaif.batching.encode import Pair
from rlaif.data.records import Preference
from rlaif.distributed.processes import ProcessGroup
from rlaif.models.backbone import Backbone
from rlaif.progress import progress
from rlaif.training.checks import memory_gib, require_finite
from rlaif.training.config import TrainingError
from rlaif.training.heldout import (
    batches_of,
    count_cut,
    is_evaluated,
    load_and_encode,
    load_kept,
    pair_inputs,
)
from rlaif.training.learner import Learner
from rlaif.training.plain_text.score import TextForgetting
from rlaif.training.recompute import recompute_layers
from rlaif.training.run import Run


def train(
    config: DPOConfig,
    model: str,
    preferences: Sequence[Preference] | CorpusPairs,
    out: Path,
    eval_preferences: Sequence[Preference] = (),
    reference_cache: Path | None = None,
) -> Path:
    """Train the policy on labeled pairs; returns `out`: a peft adapter, or (lora=null) a model.

    model: short name, folder or hub id of the base. eval_preferences: held-out pairs, whose loss is
    logged (training/heldout.py), beside that of held-out plain text (training/plain_text/score.py).
    preferences may be a corpus, whose pairs are read when they are used. reference_cache: folder of
    reference log-probs that several runs share; None: `out`, for those of a corpus beside it. A
    killed run resumes from the last checkpoint in `out`.
    Raises TrainingError, BatchError for an unusable pair, or BackboneError for the model.
    """
    # 1. The base, the pairs, and the policy: an adapter over the base, or the base itself.
    workers = ProcessGroup.current()
    preferences = training_labels(config.loss, preferences, workers)
    eval_preferences = labels_for(config.loss, eval_preferences, "held-out pairs", workers)
    backbone, encoded, heldout = load_and_encode(
        model, preferences, eval_preferences, config, workers
    )
    backbone.add_role("policy", config.lora, config.seed)
    recompute_layers(backbone, config)
    backbone.shard(workers)
    text = TextForgetting.from_start(backbone, config, workers)

    # 2. The optimizer and the run's folder.
    batches = batches_of(encoded.pairs, config.batch_size, config.epochs, config.seed)
    trained = [(backbone.role_parameters("policy"), config.learning_rate)]
    learner = Learner(trained, len(batches), config, workers)
    inputs = pair_inputs("dpo", config, backbone, preferences, eval_preferences)
    run = Run(out, inputs, config, workers)

    # 3. The reference's log-probs, once, while the policy is still the base.
    saved = run.resume()
    kept = saved["reference"].clone() if saved else None
    folders = out, reference_cache
    reference = reference_of(backbone, encoded.pairs, heldout.pairs, config, workers, folders, kept)
    if saved:
        learner.load(saved["learner"])

    # 4. Steps.
    cut = count_cut(preferences).pair_metrics()
    done, epoch = saved["step"] if saved else 0, len(batches) // config.epochs
    with progress("DPO", len(batches), "steps") as report:
        report(done)
        for step, batch in enumerate(run.within_budget(batches, done), start=done + 1):
            rate = learner.schedule(step)
            pairs, where = picked(encoded.pairs, batch), f"DPO, step {step}"
            metrics = train_step(backbone, learner, pairs, reference.train[batch], config, where)
            metrics |= {"learning_rate": rate, "skipped": encoded.skips, **cut}
            last = run.spend(metrics["tokens"]) or step == len(batches)
            score, due = None, last or is_evaluated(config, step, epoch)
            metrics |= text.metrics(backbone) if due else {}
            if heldout.pairs and due:
                ref = reference.heldout
                metrics |= evaluate(backbone, heldout.pairs, ref, config, workers, where)
                score = -metrics["heldout_loss"]
            run.log(step, metrics)
            if score is not None or step % config.checkpoint_every == 0 or last:
                run.save(step, {"learner": learner.state(), "reference": reference.kept}, score)
            report(step, f"loss {metrics['loss']:.3f}, margin {metrics['margin']:.2f}", metrics)

    # 5. The policy: the last step's, or the best (keep).
    load_kept(config, run, learner)
    run.save_policy(backbone)
    return out


def training_labels(
    loss: str, preferences: Sequence[Preference] | CorpusPairs, workers: ProcessGroup
) -> Sequence[Preference] | CorpusPairs:
    """`labels_for` of the training pairs, which may be a corpus."""
    if not isinstance(preferences, CorpusPairs):
        return labels_for(loss, preferences, "pairs", workers)
    if LOSSES[loss].soft:
        return preferences
    hard = hard_corpus(preferences, loss)
    if workers.is_main and hard.describe():
        print(f"DPO, pairs: {hard.describe()}", file=sys.stderr)
    return hard.pairs


def labels_for(
    loss: str, preferences: Sequence[Preference], what: str, workers: ProcessGroup
) -> Sequence[Preference]:
    """The pairs as the loss needs their labels; prints what was left out or swapped."""
    if LOSSES[loss].soft:
        return preferences
    hard = hard_labels(preferences, loss)
    if workers.is_main and hard.describe():
        print(f"DPO, {what}: {hard.describe()}", file=sys.stderr)
    return hard.pairs


def numerics(backbone: Backbone) -> str:
    """Names of the dtypes that the reference log-probs depend on, part of the cache's key.

    "bfloat16-of-float32" is full fine-tuning, which multiplies float32 weights in bfloat16: its
    log-probs differ from those of bfloat16 weights.
    """
    dtypes = backbone.dtype, backbone.model.dtype
    computed, stored = (str(dtype).removeprefix("torch.") for dtype in dtypes)
    return computed if computed == stored else f"{computed}-of-{stored}"


class PairReference(NamedTuple):
    """Reference log-probs of the pairs of a run."""

    train: Tensor | ReferenceFile  # by the places of a batch (B,): (B, 2)
    heldout: Tensor  # (M, 2)
    kept: Tensor  # what a checkpoint holds


def reference_of(
    backbone: Backbone,
    pairs: Sequence[Pair],
    heldout: Sequence[Pair],
    config: DPOConfig,
    workers: ProcessGroup,
    folders: tuple[Path, Path | None],
    kept: Tensor | None,
) -> PairReference:
    """The reference log-probs of N training and M held-out pairs, computed where they are missing.

    Those of a corpus are in a file that a resumed run reads again; others are in checkpoints.
    folders: (the run's, one that runs share). kept: of the checkpoint that the run goes on from.
    Collective; see `reference_logprobs`.
    """
    out, shared = folders
    train = None
    if isinstance(pairs, CorpusPairs):
        names = backbone.fingerprint, numerics(backbone)
        train = ReferenceFile.open(pairs, shared or pairs.corpus.folder, names, workers)
        fill_reference(backbone, train, config.micro_batch_tokens, workers)
    others = list(heldout) if train is not None else [*pairs, *heldout]
    if kept is None and others:
        cache = ReferenceCache(shared or out, backbone.fingerprint, numerics(backbone))
        kept = reference_logprobs(backbone, others, config, cache, workers)
    kept = torch.empty(0, 2) if kept is None else kept
    if train is not None:
        return PairReference(train, kept, kept)
    return PairReference(kept, kept[len(pairs) :], kept)


@torch.no_grad()
def reference_logprobs(
    backbone: Backbone,
    pairs: Sequence[Pair],
    config: DPOConfig,
    cache: ReferenceCache,
    workers: ProcessGroup,
) -> Tensor:
    """Reference log-probs of every pair's chosen and rejected response: (N, 2) nats.

    Cached values are reused, the others computed and added to the cache. Must be called before the
    first optimizer step: with lora=null training overwrites the reference. Collective. Raises
    TrainingError for a log-prob that is not finite.
    """
    own = {cache.key(pair): pair for pair in workers.shard(pairs)}
    with workers.raise_together():
        known = cache.read(own)
    missing = [(key, pair) for key, pair in own.items() if key not in known]
    groups = backbone.pair_batches([pair for _, pair in missing], config.micro_batch_tokens)
    problem: TrainingError | None = None
    with progress("DPO, reference log-probs", len(own), "pairs") as report:
        for group in workers.pad_batches(groups):
            report(len(known))
            part = [missing[i] for i in group]
            batch = backbone.batch_pairs([pair for _, pair in part])
            values = backbone.response_sums(None, batch).logprobs.view(-1, 2)  # (B, 2)
            try:  # raised below: the forward passes of a sharded model are collective
                computed = _finite_logprobs(part, values)
                cache.append(computed)  # per batch: a killed run goes on after the last one
                known |= computed
            except TrainingError as error:
                problem = problem or error
                if not workers.sharded:
                    break
        report(len(known))
    with workers.raise_together():
        if problem is not None:
            raise problem
    rows = [known[cache.key(pair)] for pair in workers.shard(pairs)]
    return torch.tensor(workers.gather(rows)).reshape(-1, 2)


def _finite_logprobs(
    part: Sequence[tuple[str, Pair]], values: Tensor
) -> dict[str, ReferenceLogprobs]:
    """The log-probs (B, 2) of these B pairs by their keys. Raises TrainingError."""
    if not values.isfinite().all():
        raise TrainingError(
            f"the reference log-probs of pairs {', '.join(p.id for _, p in part)} are not all "
            "finite: the model overflows or is damaged; set dtype=float32"
        )
    return {
        key: ReferenceLogprobs(*row) for (key, _), row in zip(part, values.tolist(), strict=True)
    }


@dataclass(frozen=True, slots=True)
class PairMicroBatch:
    """B pairs of an optimizer step with their losses and log-probs."""

    losses: Tensor  # (B,)
    nll: Tensor  # (B,) of the preferred responses, nats per token
    pairs: PairLogprobs
    tokens: int  # computed, without padding: a shared prompt counts once


def micro_batches(
    backbone: Backbone,
    pairs: Sequence[Pair],
    ref_logprobs: Tensor,  # (N, 2)
    config: DPOConfig,
    workers: ProcessGroup,
) -> Iterator[PairMicroBatch]:
    """Compute this process's share of the pairs under the policy, in micro-batches.

    Pairs of similar length share a micro-batch of at most micro_batch_tokens.
    """
    own = workers.shard(range(len(pairs)))
    groups = backbone.pair_batches([pairs[i] for i in own], config.micro_batch_tokens)
    for group in workers.pad_batches(groups):
        places = [own[i] for i in group]
        batch = backbone.batch_pairs([pairs[i] for i in places])
        sums = backbone.response_sums("policy", batch)
        ref = ref_logprobs[places].to(backbone.device)  # (B, 2)
        chosen, rejected = sums.logprobs.view(-1, 2).unbind(1)  # (B,) each
        chosen_tokens, rejected_tokens = sums.tokens.view(-1, 2).unbind(1)  # (B,) each
        logprobs = PairLogprobs(
            chosen, rejected, ref[:, 0], ref[:, 1], chosen_tokens, rejected_tokens
        )
        probs = [pairs[i].prob_chosen for i in places]
        prob_chosen = torch.tensor(probs, device=backbone.device)  # (B,)
        losses = LOSSES[config.loss].compute(logprobs, prob_chosen, config)  # (B,)
        nll = preferred_nll(logprobs, prob_chosen)  # (B,)
        if config.sft_weight:
            losses = losses + config.sft_weight * nll
        yield PairMicroBatch(losses, nll, logprobs, batch.tokens)


def metric_sums(part: PairMicroBatch, config: DPOConfig) -> Tensor:
    """Sums of the METRICS over the pairs, in their order: (6,) float64, without gradient."""
    ratios = log_ratios(part.pairs, per_token=LOSSES[config.loss].per_token)
    chosen, rejected = config.beta * ratios.chosen, config.beta * ratios.rejected  # (B,) each
    margin = chosen - rejected  # (B,)
    columns = (part.losses, margin, (margin > 0).float(), chosen, rejected, part.nll)
    return torch.stack([column.detach().double().sum() for column in columns])


METRICS = ("loss", "margin", "accuracy", "chosen_reward", "rejected_reward", "preferred_nll")


def train_step(
    backbone: Backbone,
    learner: Learner,
    pairs: Sequence[Pair],
    ref_logprobs: Tensor,  # (B, 2)
    config: DPOConfig,
    where: str,
) -> dict[str, float]:
    """Make one optimizer step over `pairs` (those of all processes); returns its metrics.

    loss       mean over pairs                    margin    mean β h: implicit rewards' difference
    accuracy   share of pairs with h > 0          chosen_reward, rejected_reward   β log π/ref
               (losses per token: h and log π/ref per token too)
    preferred_nll  -log π of the preferred response, nats per token
    grad_norm  before clipping                    tokens    computed, without padding
    memory_gib peak so far                        tokens_per_s

    where: names the step in errors. Raises TrainingError for a loss or gradient that is not finite.
    """
    started, workers = time.perf_counter(), learner.workers
    sums = torch.zeros(len(METRICS), dtype=torch.float64, device=backbone.device)
    tokens = 0
    for part in micro_batches(backbone, pairs, ref_logprobs, config, workers):
        # Divided by all pairs: neither micro-batches nor processes change the gradient.
        (part.losses.sum() / len(pairs)).backward()  # type: ignore[no-untyped-call]
        sums += metric_sums(part, config)
        tokens += part.tokens
    own = dict(zip(METRICS, sums.tolist(), strict=True))
    total = workers.all_reduce(own | {"tokens": float(tokens)})
    # Checked after the sum, so that every process stops and none waits for another.
    require_finite(torch.tensor(total["loss"]), "loss", where)
    norm = learner.step(where)
    return {name: total[name] / len(pairs) for name in METRICS} | {
        "grad_norm": norm,
        "tokens": total["tokens"],
        "tokens_per_s": total["tokens"] / (time.perf_counter() - started),
        "memory_gib": memory_gib(),
    }


@torch.no_grad()
def evaluate(
    backbone: Backbone,
    pairs: Sequence[Pair],
    ref_logprobs: Tensor,  # (N, 2)
    config: DPOConfig,
    workers: ProcessGroup,
    where: str,
) -> dict[str, float]:
    """Metrics of held-out pairs, as in train_step: heldout_loss, heldout_margin, heldout_accuracy.

    Without generalization heldout_accuracy stays near ½, and the heldout_loss of the sigmoid losses
    near log 2. Raises TrainingError for a loss that is not finite.
    """
    sums = torch.zeros(len(METRICS), dtype=torch.float64, device=backbone.device)
    for part in micro_batches(backbone, pairs, ref_logprobs, config, workers):
        sums += metric_sums(part, config)
    total = workers.all_reduce(dict(zip(METRICS, sums.tolist(), strict=True)))
    require_finite(torch.tensor(total["loss"]), "held-out loss", where)
    names = ("loss", "margin", "accuracy")
    return {f"heldout_{name}": total[name] / len(pairs) for name in names}
