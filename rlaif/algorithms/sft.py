"""Supervised fine-tuning: the policy imitates responses, from a mix of sources.

    L = -(1/N) Σ_rows Σ_t log π(y_t | x, y_<t)        t over the response tokens, end token included

    log π    logprobs (B, T)      mask (B, T) True on response tokens
    N        count: response tokens of the whole step, whatever the micro-batches and processes

What can be imitated (records.Lesson): a Sample (its end token only where the policy ended by
itself), a Demonstration, the chosen response of a Preference whose prob_chosen is at least
min_prob_chosen (a label near ½ says nothing), and PlainText, where every token counts: the share
of pre-training text that keeps a model fluent (arXiv:2203.02155, section 3.5, does so in PPO).
Constitutional AI mixes revisions with helpful answers (arXiv:2212.08073, section 3.2).

The mix is by rows and exact: after n rows, source i has given weight_i·n of them, less than one
row off where there are two sources. Each source goes round and round in a seeded order, fresh each
time. What step s trains on is a function of s, so the step's number is the whole cursor.

Left out: packing rows without padding (batches are by length instead), loss on prompt tokens.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from rlaif.batching.encode import BatchError, Row, encode_row, in_groups, length_buckets, pad
from rlaif.data.records import Lesson, PlainText, Preference, Sample, read_lessons
from rlaif.distributed.processes import ProcessGroup
from rlaif.models.backbone import Backbone, Role
from rlaif.progress import progress
from rlaif.training.config import (
    Learner,
    Run,
    TrainConfig,
    TrainingError,
    memory_gib,
    records_digest,
    report_skipped,
    require_context,
    require_finite,
    run_inputs,
)


class SFTConfig(TrainConfig):
    """Settings of supervised fine-tuning."""

    epochs: int = Field(
        default=2, ge=1, description="times as many rows as all sources hold together"
    )
    batch_size: int = Field(default=8, ge=1, description="rows per optimizer step")
    min_prob_chosen: float = Field(
        default=0.6, ge=0.5, le=1, description="of preferences: chosen responses under it are left"
    )
    eval_every: int | None = Field(
        default=None, ge=1, description="steps between held-out losses; null: once an epoch"
    )


@dataclass(frozen=True, slots=True)
class SFTSource:
    """Some records to imitate. `weight`: its share of the rows, relative to the other sources."""

    name: str
    records: Sequence[Lesson]
    weight: float = 1.0

    @classmethod
    def read(cls, text: str) -> SFTSource:
        """A source from "FILE" or "WEIGHT*FILE"; its name is the file's, without the ending.

        Example: `SFTSource.read("0.2*books.jsonl")`. Raises TrainingError or RecordError.
        """
        found = re.fullmatch(r"\s*(?:(?P<weight>[^*/]+)\*)?(?P<file>.+)", text)
        try:
            weight = float(found["weight"] or 1.0) if found else math.nan
        except ValueError:
            weight = math.nan
        if found is None or not weight > 0 or math.isinf(weight):
            raise TrainingError(f"{text!r} is no source; write FILE or WEIGHT*FILE, weight over 0")
        path = Path(found["file"].strip()).expanduser()
        return cls(path.stem, read_lessons(path), weight)


def sft_loss(logprobs: Tensor, mask: Tensor, count: int) -> Tensor:
    """L above, of one micro-batch. logprobs, mask (B, T); count: N of the whole step. Scalar."""
    return -torch.where(mask, logprobs, 0.0).sum() / count


# ── rows ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class EncodedLessons:
    rows: list[Row] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # one reason per record left out
    unsure: int = 0  # preferences under min_prob_chosen


def encode_lessons(
    tokenizer: Any, name: str, lessons: Sequence[Lesson], config: SFTConfig
) -> EncodedLessons:
    """The lessons of one source as rows. Raises BatchError when one (or all) cannot be used."""
    rows: list[Row] = []
    skipped: list[str] = []
    unsure = 0
    for lesson in lessons:
        if isinstance(lesson, Preference) and lesson.prob_chosen < config.min_prob_chosen:
            unsure += 1
            continue
        try:
            rows += _rows(tokenizer, lesson, config.max_tokens)
        except BatchError as error:
            if config.unusable == "error":
                raise
            skipped.append(str(error))
    if not rows:
        why = f"; {unsure} under min_prob_chosen={config.min_prob_chosen}" if unsure else ""
        why += f"; first because {skipped[0]}" if skipped else ""
        raise BatchError(f"{name}: nothing to imitate among {len(lessons)} records{why}")
    return EncodedLessons(rows, skipped, unsure)


def _rows(tokenizer: Any, lesson: Lesson, max_tokens: int) -> list[Row]:
    if isinstance(lesson, PlainText):
        return plain_rows(tokenizer, lesson, max_tokens)
    if isinstance(lesson, Preference):
        id, prompt, response = f"{lesson.id} (chosen)", lesson.prompt, lesson.chosen_text
    elif isinstance(lesson, Sample):
        id, prompt = f"{lesson.prompt.id}#{lesson.index}", lesson.prompt.messages
        response = lesson.response
    else:
        id, prompt, response = lesson.id, lesson.prompt, lesson.response
    if not response.strip():
        raise BatchError(f"{id}: the response is empty; drop the record, or set unusable=skip")
    row = encode_row(tokenizer, id, prompt, response, max_tokens)
    if isinstance(lesson, Sample) and not lesson.complete:  # cut off: nothing to learn of its end
        return [Row(row.id, row.ids[:-1], row.start)]
    return [row]


def plain_rows(tokenizer: Any, text: PlainText, max_tokens: int) -> list[Row]:
    """A text in pieces of at most max_tokens, closed by the end token. Every token counts once:
    each piece begins with the last token of the one before (the first with the tokenizer's begin
    token), which is only read; without a begin token the very first is only read too.
    """
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids = [*begin, *tokenizer.encode(text.text, add_special_tokens=False), tokenizer.eos_token_id]
    if len(ids) < 3:
        raise BatchError(f"{text.id}: the text is empty; drop the record, or set unusable=skip")
    step = max_tokens - 1
    return [
        Row(f"{text.id}, from token {at}", tuple(ids[at : at + max_tokens]), 1)
        for at in range(0, len(ids) - 1, step)
    ]


# ── the mix ──────────────────────────────────────────────────────────────────────────────────


class Pick(NamedTuple):
    """The next row: of which source, and which of its rows."""

    source: int
    row: int


def mixture(counts: Sequence[int], weights: Sequence[float], total: int, seed: int) -> list[Pick]:
    """`total` rows of sources with `counts` rows, in the order they are trained on.

    Row n comes from the source that is furthest behind its share weight·n; a source gives each of
    its rows once before any comes again.
    """
    share = [weight / sum(weights) for weight in weights]
    taken = [0] * len(counts)
    orders: list[list[int]] = [[] for _ in counts]
    picks: list[Pick] = []
    for n in range(1, total + 1):
        source = max(range(len(counts)), key=lambda i: share[i] * n - taken[i])
        lap, place = divmod(taken[source], counts[source])
        if place == 0:
            generator = torch.Generator().manual_seed(_lap_seed(seed, source, lap))
            orders[source] = torch.randperm(counts[source], generator=generator).tolist()
        picks.append(Pick(source, orders[source][place]))
        taken[source] += 1
    return picks


def _lap_seed(seed: int, source: int, lap: int) -> int:
    return ((seed * 1_000_003 + source) * 1_000_003 + lap) % 2**63


# ── training ─────────────────────────────────────────────────────────────────────────────────


def train(
    config: SFTConfig,
    model: str,
    sources: Sequence[SFTSource],
    out: Path,
    eval_samples: Sequence[Lesson] = (),
) -> Path:
    """Train the policy to imitate; returns `out`: a peft adapter, or a model folder with lora=null.

    With `eval_samples` the held-out loss is logged, and the policy of the least one is kept in
    place of the last. Resumes by itself. Raises TrainingError or BatchError.
    """
    # 1. The base, the rows of every source, the policy.
    workers = ProcessGroup.current()
    _check(config, sources, eval_samples)
    backbone = Backbone.load(model, config.dtype, config.lora is None, workers)
    require_context(backbone, config.max_tokens)
    found = [encode_lessons(backbone.tokenizer, s.name, s.records, config) for s in sources]
    skipped = [reason for each in found for reason in each.skipped]
    report_skipped(skipped)
    held_out: list[Row] = []
    if eval_samples:
        held_out = encode_lessons(backbone.tokenizer, "held out", eval_samples, config).rows
    backbone.add_role("policy", config.lora, config.seed)
    backbone.shard(workers)

    # 2. Where the run stands.
    total = config.epochs * sum(len(each.rows) for each in found)
    counts, weights = [len(each.rows) for each in found], [source.weight for source in sources]
    batches = list(in_groups(mixture(counts, weights, total, config.seed), config.batch_size))
    every = config.eval_every or math.ceil(len(batches) / config.epochs)
    policy = backbone.role_parameters("policy")
    learner = Learner([(policy, config.learning_rate)], len(batches), config, workers)
    run = Run(out, _inputs(config, backbone, sources, eval_samples), config, workers)
    saved = run.resume()
    done = saved["step"] if saved else 0
    if saved:
        learner.load(saved["learner"])

    # 3. Steps.
    with progress("SFT", len(batches), "steps") as report:
        report(done)
        for step, batch in enumerate(batches[done:], start=done + 1):
            rate = learner.schedule(step)
            rows = [found[pick.source].rows[pick.row] for pick in batch]
            names = [sources[pick.source].name for pick in batch]
            metrics = train_step(
                backbone, learner, rows, names, config.micro_batch_tokens, f"SFT, step {step}"
            )
            metrics |= {"learning_rate": rate, "skipped": len(skipped)}
            metrics["unsure"] = sum(each.unsure for each in found)
            score = None
            if held_out and (step % every == 0 or step == len(batches)):
                metrics["held_out_loss"] = mean_loss(
                    backbone, "policy", held_out, config.micro_batch_tokens, workers
                )
                score = -metrics["held_out_loss"]
            run.log(step, metrics)
            if step % config.checkpoint_every == 0 or step == len(batches) or score is not None:
                run.save(step, {"learner": learner.state()}, score)
            report(step, f"loss {metrics['loss']:.3f}")

    # 4. The policy: the best on held-out text where there is some, else the last.
    best = run.best() if held_out else None
    if best is not None:
        learner.load(best["learner"])
    backbone.gather(workers)
    if workers.is_main:
        backbone.save_role("policy", out)
    workers.barrier()
    run.finish()
    return out


def _check(config: SFTConfig, sources: Sequence[SFTSource], eval_samples: Sequence[Lesson]) -> None:
    names = [source.name for source in sources]
    if not sources:
        raise TrainingError("SFT has no source to learn from; give at least one")
    if len(set(names)) < len(names):
        raise TrainingError(f"two sources have one name ({', '.join(names)}); rename one")
    for source in sources:
        if not source.weight > 0:
            raise TrainingError(f"source {source.name}: weight={source.weight}; it must be over 0")
    if config.eval_every is not None and not eval_samples:
        raise TrainingError(
            f"eval_every={config.eval_every} does nothing without held-out samples; give some, or "
            "leave it out"
        )
    lessons = [lesson for source in sources for lesson in source.records] + list(eval_samples)
    asked = "min_prob_chosen" in config.model_fields_set
    if asked and not any(isinstance(lesson, Preference) for lesson in lessons):
        raise TrainingError(
            f"min_prob_chosen={config.min_prob_chosen} does nothing: no source holds preferences"
        )


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
    """One optimizer step of the policy over `rows`; `names[i]` is the source of row i.

    loss            L above, nats per response token      loss_<name>    the same of one source
    response_tokens counted in it                         grad_norm      before clipping
    tokens_per_s    real tokens, prompts included
    """
    started = time.perf_counter()
    count = sum(row.response_length for row in rows)  # global: shares and groups change nothing
    counts = dict.fromkeys(names, 0)
    for row, name in zip(rows, names, strict=True):
        counts[name] += row.response_length
    nats = dict.fromkeys(counts, 0.0)
    mine = learner.workers.shard(list(zip(rows, names, strict=True)))
    groups = length_buckets([len(row.ids) for row, _ in mine], micro_batch_tokens)
    for group in learner.workers.pad_batches(groups):
        batch = pad([mine[i][0] for i in group], backbone.device)
        logprobs = backbone.logprobs("policy", batch)  # (B, T)
        loss = sft_loss(logprobs, batch.response_mask, count)
        require_finite(loss, "loss", where)
        loss.backward()  # type: ignore[no-untyped-call]
        for i, value in zip(group, logprobs.detach().sum(1).tolist(), strict=True):
            nats[mine[i][1]] -= value
    norm = learner.step(where)
    nats = learner.workers.all_reduce(nats)
    of_sources = {f"loss_{n}": nats[n] / counts[n] for n in counts} if len(counts) > 1 else {}
    return {
        "loss": sum(nats.values()) / count,
        **of_sources,
        "response_tokens": float(count),
        "grad_norm": norm,
        "tokens_per_s": sum(len(row.ids) for row in rows) / (time.perf_counter() - started),
        "memory_gib": memory_gib(),
    }


@torch.no_grad()
def mean_loss(
    backbone: Backbone,
    role: Role | None,
    rows: Sequence[Row],
    micro_batch_tokens: int,
    workers: ProcessGroup,
) -> float:
    """L of rows without training on them: nats per response token."""
    mine = workers.shard(rows)
    nats = 0.0
    for group in workers.pad_batches(
        length_buckets([len(row.ids) for row in mine], micro_batch_tokens)
    ):
        batch = pad([mine[i] for i in group], backbone.device)
        nats -= float(backbone.logprobs(role, batch).sum())
    total: float = workers.all_reduce({"nats": nats})["nats"]
    return total / sum(row.response_length for row in rows)
