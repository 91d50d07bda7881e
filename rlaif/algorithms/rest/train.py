"""Reinforced self-training (ReST, arXiv:2308.08998): the policy imitates its own better responses.

    Grow      D_g = {(x, y): y ~ π(·|x), n times for every prompt x}, scored by R         g = 1 … G
    Improve   J(θ) = E_{(x,y)~D_g}[F(x, y; τ_i)·L(x, y; θ)],  F = 1[R(x, y) > τ_i]        i = 1 … I
              τ_1 < τ_2 < … < τ_I                                            Algorithm 1, section 3

    R      scores         L    sft.sft_loss, over the kept responses
    τ_i    the quantiles[i] of D_g's scores: of all of them ("global"), or of each prompt's own
           ("prompt"), which keeps hard prompts in where easy ones score higher

As in the paper, every Improve step starts from the policy of the one before, with a lower learning
rate, since less and less data is left (start="last"; by how much lower is our choice). start="base"
begins each from the base anew, as ReST^EM does (arXiv:2312.06585, section 3). All responses of a
Grow step are kept in grow-01.jsonl, …; a killed run goes on after the last whole chunk of prompts
or the last checkpoint, with the same bits (CPU, engine=transformers).

Left out: the paper's first supervised stage (start from an SFT model), its data in D_g (our prompts
have no reference responses), stopping an Improve step by a held-out reward, its offline RL losses.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from rlaif.algorithms.rest.grow import GrownSample, GrowStep
from rlaif.algorithms.sft import train_step
from rlaif.batching.encode import EncodedPrompt, Row, encode_prompts, epoch_batches
from rlaif.data.records import Prompt
from rlaif.distributed import fsdp
from rlaif.distributed.processes import ProcessGroup
from rlaif.evaluation.diversity import distinct_n
from rlaif.generation.samplers import open_sampler
from rlaif.models.backbone import Backbone
from rlaif.models.reward_model import RewardFunction, backbones_of, reward_function, reward_identity
from rlaif.progress import progress
from rlaif.training.config import (
    Learner,
    Run,
    TrainConfig,
    TrainingError,
    report_skipped,
    require_context,
    run_inputs,
)


class ReSTConfig(TrainConfig):
    """Settings of ReST."""

    grow_steps: int = Field(default=1, ge=1, description="G above; the paper's best by people")
    samples_per_prompt: int = Field(default=8, ge=2, description="n above, responses per prompt")
    quantiles: tuple[float, ...] = Field(
        default=(0.5, 0.75, 0.9), min_length=1, description="one Improve step each, rising"
    )
    threshold: Literal["global", "prompt"] = Field(
        default="global", description="the quantile of all scores, or of each prompt's own"
    )
    start: Literal["last", "base"] = Field(
        default="last", description="where an Improve step starts: from the one before, or anew"
    )
    learning_rate_decay: float = Field(
        default=0.5, gt=0, le=1, description="factor from one Improve step of a Grow to the next"
    )
    epochs: int = Field(default=1, ge=1, description="passes over what an Improve step keeps")
    batch_size: int = Field(default=8, ge=1, description="responses per optimizer step")
    max_new_tokens: int = Field(default=128, ge=1, description="bound of a response, tokens")
    temperature: float = Field(default=1.0, gt=0, description="of sampling")
    engine: Literal["auto", "vllm", "transformers"] = Field(
        default="auto", description="who samples; auto: vLLM where it is installed"
    )
    kv_cache_gib: float = Field(default=1.0, gt=0, description="GiB of keys and values, sampling")
    prompts_per_chunk: int = Field(
        default=16, ge=1, description="prompts sampled together; what a killed run may lose"
    )

    @model_validator(mode="after")
    def _refuse_what_cannot_be(self) -> Self:
        if not all(0 <= q < 1 for q in self.quantiles):
            raise ValueError("quantiles: each is at least 0 and below 1 (1 would keep nothing)")
        if any(later <= earlier for earlier, later in pairwise(self.quantiles)):
            raise ValueError("quantiles must rise: every Improve step keeps less than the last")
        if "learning_rate_decay" in self.model_fields_set and len(self.quantiles) == 1:
            raise ValueError("learning_rate_decay does nothing with one quantile; set more of them")
        if self.max_new_tokens >= self.max_tokens:
            raise ValueError("max_new_tokens must leave room for the prompt within max_tokens")
        return self


# ── the equations ────────────────────────────────────────────────────────────────────────────


def thresholds(
    scores: Tensor, prompts: Sequence[str], quantile: float, of: Literal["global", "prompt"]
) -> Tensor:
    """τ for every response, (N,): the quantile of all scores, or of the scores of its prompt.

    scores (N,); prompts: N ids. Between two scores it is interpolated linearly.
    """
    if of == "global":
        return torch.quantile(scores, quantile).expand_as(scores)
    found = torch.empty_like(scores)
    names = {name: number for number, name in enumerate(dict.fromkeys(prompts))}
    group = torch.tensor([names[name] for name in prompts])  # (N,)
    for number in range(len(names)):
        found[group == number] = torch.quantile(scores[group == number], quantile)
    return found


@dataclass(frozen=True, slots=True)
class Kept:
    """What an Improve step trains on, and what is told of it."""

    responses: list[GrownSample]
    metrics: dict[str, float | None]


def improve_set(
    grown: Sequence[GrownSample], quantile: float, of: Literal["global", "prompt"]
) -> Kept:
    """The responses that F keeps. Metrics, the same on every step of the stage:

    threshold          τ_i, mean over responses        share_kept         of the scored responses
    score              mean R over D_g                 score_kept         over the kept ones
    distinct_2         different word pairs of D_g     distinct_2_kept    of the kept ones
    response_length    mean tokens in D_g              response_length_kept
    eos_rate           share of D_g ended by itself    unscored           without R, not in D_g
    """
    scored = [(g, g.score) for g in grown if g.score is not None]
    scores = torch.tensor([score for _, score in scored], dtype=torch.float64)
    tau = thresholds(scores, [g.prompt for g, _ in scored], quantile, of)
    keep = scores > tau  # F, section 3, arXiv:2308.08998
    all_of = [g for g, _ in scored]
    kept = [g for g, kept in zip(all_of, keep.tolist(), strict=True) if kept]
    metrics = {
        "threshold": float(tau.mean()),
        "share_kept": len(kept) / len(all_of),
        "score": float(scores.mean()),
        "score_kept": float(scores[keep].mean()) if kept else None,
        "distinct_2": distinct_n([g.response for g in all_of], 2),
        "distinct_2_kept": distinct_n([g.response for g in kept], 2),
        "response_length": sum(len(g.ids) for g in all_of) / len(all_of),
        "response_length_kept": sum(len(g.ids) for g in kept) / len(kept) if kept else None,
        "eos_rate": sum(g.complete for g in all_of) / len(all_of),
        "unscored": float(len(grown) - len(all_of)),
    }
    return Kept(kept, metrics)


# ── training ─────────────────────────────────────────────────────────────────────────────────


def train(
    config: ReSTConfig,
    model: str,
    prompts: Sequence[Prompt],
    reward: Path | RewardFunction,
    out: Path,
) -> Path:
    """Grow and improve; returns `out`: a peft adapter, or a model folder with lora=null.

    reward: the folder of a reward model, or a callable (conversations, responses) → scores, None
    where one could not be had. Resumes by itself. Raises TrainingError or BatchError.
    """
    # 1. The base, the prompts, the policy, the score.
    workers = ProcessGroup.current()
    backbone = Backbone.load(model, config.dtype, config.lora is None, workers)
    require_context(backbone, config.max_tokens)
    room = config.max_tokens - config.max_new_tokens
    encoded, skipped = encode_prompts(backbone.tokenizer, prompts, room, config.unusable)
    report_skipped(skipped)
    backbone.add_role("policy", config.lora, config.seed)
    # A reward model becomes a role of a base that does not move.
    score = reward_function(reward, backbone if config.lora else backbone.frozen_copy())
    models = [backbone, *backbones_of(score)]
    for each in models:
        each.shard(workers)
    policy = backbone.role_parameters("policy")
    pieces = {name: fsdp.local(p.detach()) for name, p in policy.items()}
    base = {n: piece.clone() for n, piece in pieces.items()} if config.start == "base" else None

    # 2. Where the run stands: `at` is the Improve step it was in.
    inputs = {**run_inputs("rest", config, backbone, prompts), "reward": reward_identity(reward)}
    run = Run(out, inputs, config, workers)
    saved = run.resume()
    at = (saved["grow"], saved["improve"]) if saved else (0, 0)
    step = saved["step"] if saved else 0
    if saved:
        for name, parameter in policy.items():
            fsdp.set_full(parameter, saved["learner"]["parameters"][name])

    # 3. Grow, then improve over rising thresholds.
    sampler = open_sampler(config.engine, backbone, config.max_tokens, config.kv_cache_gib)
    tokenizer, digest = backbone.tokenizer, _digest(inputs)
    grower = GrowStep(sampler, score, models, encoded, tokenizer, out, digest, config, workers)
    if config.resume == "never":
        grower.forget()
    try:
        for grow in range(max(at[0], 1), config.grow_steps + 1):
            if saved and (grow, len(config.quantiles)) == at and saved["finished"]:
                continue  # its next is another Grow: its responses are not needed any more
            grown = grower.grow(grow)
            for improve, quantile in enumerate(config.quantiles, start=1):
                kept = improve_set(grown, quantile, config.threshold)
                if (grow, improve) < at or not _something_kept(kept, grow, improve, workers):
                    continue
                if base is not None:
                    for name, parameter in policy.items():
                        fsdp.set_local(parameter, base[name])
                stage = ImproveStep(
                    grow, improve, _rows(encoded, kept), kept.metrics, config, workers
                )
                resumed = saved if (grow, improve) == at else None
                step = stage.train(backbone, run, step, resumed)
    finally:
        sampler.close()
    if step == 0:
        raise TrainingError(
            "ReST kept no response in any step: no score is above another (see grow-01.jsonl); "
            "raise samples_per_prompt, or give a reward that tells responses apart"
        )

    # 4. The policy.
    backbone.gather(workers)
    if workers.is_main:
        backbone.save_role("policy", out)
    workers.barrier()
    run.finish()
    return out


@dataclass(frozen=True, slots=True)
class ImproveStep:
    """One Improve step: SFT on what is kept."""

    grow: int
    improve: int
    rows: Sequence[Row]
    told: dict[str, float | None]  # improve_set's metrics
    config: ReSTConfig
    workers: ProcessGroup

    def train(self, backbone: Backbone, run: Run, step: int, saved: dict[str, Any] | None) -> int:
        """Train after `step` steps of the run, from this stage's own checkpoint where there is one;
        returns the steps of the run after it. Metrics: improve_set's, sft.train_step's, and

        grow, improve      g and i        learning_rate    of this step
        """
        config = self.config
        # each stage has its own order: what is kept, and so the count, differs
        number = (self.grow - 1) * len(config.quantiles) + self.improve
        seed = config.seed + 1_000_003 * number
        batches = epoch_batches(len(self.rows), config.batch_size, config.epochs, seed)
        peak = config.learning_rate * config.learning_rate_decay ** (self.improve - 1)
        policy = backbone.role_parameters("policy")
        learner = Learner([(policy, peak)], len(batches), config, self.workers)
        done = 0
        if saved is not None:
            learner.load(saved["learner"])
            done = saved["done"]
        title = f"ReST, grow {self.grow}, improve {self.improve}"
        with progress(title, len(batches), "steps") as report:
            report(done)
            for place, batch in enumerate(batches[done:], start=done + 1):
                step += 1
                rate = learner.schedule(place)
                chosen = [self.rows[i] for i in batch]
                where = f"{title}, step {place}"
                names = ["kept"] * len(chosen)
                metrics: dict[str, float | None] = {"grow": self.grow, "improve": self.improve}
                metrics |= train_step(
                    backbone, learner, chosen, names, config.micro_batch_tokens, where
                )
                run.log(step, metrics | self.told | {"learning_rate": rate})
                finished = place == len(batches)
                if finished or step % config.checkpoint_every == 0:
                    cursor = {"grow": self.grow, "improve": self.improve, "done": place}
                    state = {"learner": learner.state(), **cursor, "finished": finished}
                    run.save(step, state)
                report(place, f"loss {metrics['loss']:.3f}, kept {self.told['share_kept']:.0%}")
        return step


def _rows(prompts: Sequence[EncodedPrompt], kept: Kept) -> list[Row]:
    by_id = {p.prompt.id: p.ids for p in prompts}
    return [
        Row(f"{g.prompt}#{g.index}", (*by_id[g.prompt], *g.ids), len(by_id[g.prompt]))
        for g in kept.responses
    ]


def _something_kept(kept: Kept, grow: int, improve: int, workers: ProcessGroup) -> bool:
    if not kept.responses and workers.is_main:
        print(
            f"ReST, grow {grow}, improve {improve}: no score is above the threshold "
            f"{kept.metrics['threshold']:.3f}; this step is left out",
            file=sys.stderr,
        )
    return bool(kept.responses)


def _digest(inputs: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
