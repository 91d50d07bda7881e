"""Supervised fine-tuning: the policy imitates responses, from a mix of sources (lessons.py).

    L = -(1/N) Σ_rows Σ_t log π(y_t | x, y_<t)        t over the response tokens, end token included

    log π    logprobs (B, T)      mask (B, T) True on response tokens
    N        count: response tokens of the whole step, whatever the micro-batches and processes

What step s trains on is a function of s, so the step's number is the whole cursor.

Left out: packing rows without padding (batches are by length instead), loss on prompt tokens.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlaif.algorithms.sft.config import SFTConfig
from rlaif.algorithms.sft.lessons import EncodedLessons, Pick, encode_lessons, mixture
from rlaif.algorithms.sft.sources import SFTSource, require_lessons
from rlaif.batching.encode import Row, in_groups, length_buckets, pad
from rlaif.data.records import Lesson
from rlaif.distributed.processes import ProcessGroup
from rlaif.models.backbone import Backbone
from rlaif.progress import progress
from rlaif.training.checks import (
    memory_gib,
    report_cut_off,
    report_skipped,
    require_context,
    require_finite,
)
from rlaif.training.heldout import mean_loss
from rlaif.training.learner import Learner
from rlaif.training.plain_text.score import TextForgetting
from rlaif.training.recompute import recompute_layers
from rlaif.training.run import Run, records_digest, run_inputs


def sft_loss(logprobs: Tensor, mask: Tensor, count: int) -> Tensor:
    """Negative log-likelihood of one micro-batch's response tokens, divided by the step's count.

    logprobs (B, T) nats; mask (B, T), True on response tokens; count: response tokens of the whole
    step. Returns a scalar: summed over the micro-batches it is L, nats per token.
    """
    return -torch.where(mask, logprobs, 0.0).sum() / count


def train(
    config: SFTConfig,
    model: str,
    sources: Sequence[SFTSource],
    out: Path,
    eval_samples: Sequence[Lesson] = (),
) -> Path:
    """Train the policy on the sources; returns `out`: a peft adapter, or (lora=null) a model.

    model: short name, folder or hub id of the base. eval_samples: held-out records, whose loss is
    logged; the policy with the lowest is kept instead of the last. A killed run resumes from the
    last checkpoint in `out`. Metrics are those of `train_step`, and at evaluations heldout_loss and
    those of held-out plain text (training/plain_text/score.py). Raises TrainingError, BatchError
    for an unusable record, or BackboneError for the model.
    """
    # 1. The base, the rows of every source, the policy.
    workers = ProcessGroup.current()
    require_lessons(config, sources, eval_samples)
    backbone = Backbone.load(
        model, config.dtype, config.lora is None, workers, config.chat_template_kwargs
    )
    require_context(backbone, config.max_tokens)
    encoded = [encode_lessons(backbone.tokenizer, s.name, s.records, config) for s in sources]
    skipped = [reason for source in encoded for reason in source.skipped]
    report_skipped(skipped)
    left = [source.imitable for source in encoded]
    for source, each in zip(sources, left, strict=True):
        for line in each.describe(source.name, config) if workers.is_main else ():
            print(line, file=sys.stderr)
    heldout: list[Row] = []
    if eval_samples:
        found = encode_lessons(backbone.tokenizer, "held out", eval_samples, config)
        heldout = found.rows
        report_cut_off(found.imitable.cut_off, "held-out records", config.cut_off == "skip")
    backbone.add_role("policy", config.lora, config.seed)
    recompute_layers(backbone, config)
    backbone.shard(workers)
    text = TextForgetting.from_start(backbone, config, workers)

    # 2. The optimizer, and the state of an earlier run.
    batches = _batches(encoded, sources, config)
    policy = backbone.role_parameters("policy")
    learner = Learner([(policy, config.learning_rate)], len(batches), config, workers)
    run = Run(out, _inputs(config, backbone, sources, eval_samples), config, workers)
    saved = run.resume()
    done = saved["step"] if saved else 0
    if saved:
        learner.load(saved["learner"])

    # 3. Steps.
    eval_every = config.evaluates_every(len(batches))
    left_out = {
        "skipped": len(skipped) + sum(each.cut for each in left),
        "unsure": sum(each.unsure for each in left),
        "left_aside": sum(each.aside for each in left),
        "cut_responses": sum(each.cut_off.responses for each in left),
    }
    with progress("SFT", len(batches), "steps") as report:
        report(done)
        for step, batch in enumerate(run.within_budget(batches, done), start=done + 1):
            rate, where = learner.schedule(step), f"SFT, step {step}"
            rows = [encoded[pick.source].rows[pick.row] for pick in batch]
            names = [sources[pick.source].name for pick in batch]
            metrics = train_step(backbone, learner, rows, names, config.micro_batch_tokens, where)
            metrics |= {"learning_rate": rate, **left_out}
            last = run.spend(metrics["tokens"]) or step == len(batches)
            score, due = None, last or step % eval_every == 0
            metrics |= text.metrics(backbone) if due else {}
            if heldout and due:
                budget = config.micro_batch_tokens
                metrics["heldout_loss"] = mean_loss(backbone, "policy", heldout, budget, workers)
                score = -metrics["heldout_loss"]
            run.log(step, metrics)
            if step % config.checkpoint_every == 0 or last or score is not None:
                run.save(step, {"learner": learner.state()}, score)
            report(step, f"loss {metrics['loss']:.3f}")

    # 4. The policy: with held-out records the best, else the last.
    with workers.raise_together():
        best = run.best() if heldout else None
    if best is not None:
        learner.load(best["learner"])
    run.save_policy(backbone)
    return out


def _batches(
    encoded: Sequence[EncodedLessons], sources: Sequence[SFTSource], config: SFTConfig
) -> list[list[Pick]]:
    """The rows of every step."""
    counts, weights = [len(source.rows) for source in encoded], [s.weight for s in sources]
    total = config.rows_of_run(sum(counts))
    picks = mixture(counts, weights, total, config.seed, config.batch_size)
    return [list(batch) for batch in in_groups(picks, config.batch_size)]


def _inputs(
    config: SFTConfig,
    backbone: Backbone,
    sources: Sequence[SFTSource],
    eval_samples: Sequence[Lesson],
) -> Mapping[str, Any]:
    records = [record for source in sources for record in source.records]
    return {
        **run_inputs("sft", config, backbone, records),
        "sources": [[s.name, s.weight, len(s.records)] for s in sources],
        "held_out": records_digest(eval_samples),
    }


def train_step(
    backbone: Backbone,
    learner: Learner,
    rows: Sequence[Row],
    names: Sequence[str],
    micro_batch_tokens: int,
    where: str,
) -> dict[str, float]:
    """Make one optimizer step over `rows` (those of all processes); returns its metrics.

    names: the source of each row. where: names the step in errors. Raises TrainingError for a loss
    or gradient that is not finite.

    loss             L above, nats per response token      loss_<name>    the same for one source
    response_tokens  of the step                           grad_norm      before clipping
    tokens           of the step, with prompts
    tokens_per_s     without padding, with prompts         memory_gib     peak so far
    """
    started = time.perf_counter()
    count = sum(row.response_length for row in rows)  # of all processes and micro-batches
    counts = dict.fromkeys(names, 0)
    for row, name in zip(rows, names, strict=True):
        counts[name] += row.response_length
    nats = dict.fromkeys(counts, 0.0)
    own = learner.workers.shard(list(zip(rows, names, strict=True)))
    groups = length_buckets([len(row.ids) for row, _ in own], micro_batch_tokens)
    for group in learner.workers.pad_batches(groups):
        batch = pad([own[i][0] for i in group], backbone.device)
        logprobs = backbone.logprobs("policy", batch)  # (B, T)
        sft_loss(logprobs, batch.response_mask, count).backward()  # type: ignore[no-untyped-call]
        for i, value in zip(group, logprobs.detach().sum(1).tolist(), strict=True):
            nats[own[i][1]] -= value
    nats = learner.workers.all_reduce(nats)
    # Checked after the sum, so that every process stops and none waits for another.
    require_finite(torch.tensor(sum(nats.values())), "loss", where)
    norm = learner.step(where)
    tokens = sum(len(row.ids) for row in rows)
    by_source = {f"loss_{n}": nats[n] / counts[n] for n in counts} if len(counts) > 1 else {}
    return {
        "loss": sum(nats.values()) / count,
        **by_source,
        "response_tokens": float(count),
        "grad_norm": norm,
        "tokens": float(tokens),
        "tokens_per_s": tokens / (time.perf_counter() - started),
        "memory_gib": memory_gib(),
    }
