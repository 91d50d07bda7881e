"""Reinforced self-training (ReST, arXiv:2308.08998): the policy imitates its own better responses.

    Grow      D_g = {(x, y): y ~ π(·|x), n times for every prompt x}, scored by R         g = 1 … G
    Improve   J(θ) = E_{(x,y)~D_g}[F(x, y; τ_i)·L(x, y; θ)],  F = 1[R(x, y) > τ_i]        i = 1 … I
              τ_1 < τ_2 < … < τ_I                                            Algorithm 1, section 3

    R      scores         L    sft_loss of sft/train.py, over the kept responses
    τ_i    the quantiles[i] of D_g's scores: of all of them ("global"), or of each prompt's own
           ("prompt"), which keeps hard prompts in where easy ones score higher

F and the thresholds are in improve.py, the Grow step in grow.py.

As in the paper, every Improve step starts from the policy of the one before, with a lower learning
rate, since less and less data is left (start="last"; how much lower is our choice). start="base"
starts each from the base, as ReST^EM does (arXiv:2312.06585, section 3). All responses of a Grow
step are kept in grow-01.jsonl, …; a killed run resumes after the last complete chunk of prompts or
the last checkpoint, bit for bit the same (on a CPU, with engine=transformers).

Left out: the paper's first supervised stage (start from an SFT model), its data in D_g (our prompts
have no reference responses), stopping an Improve step by a held-out reward, its offline RL losses.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rlaif.algorithms.rest.config import ReSTConfig
from rlaif.algorithms.rest.grow import GrowStep
from rlaif.algorithms.rest.improve import ImproveSet, improve_set
from rlaif.algorithms.sft.train import train_step
from rlaif.batching.encode import EncodedPrompt, Row, encode_prompts, epoch_batches
from rlaif.data.records import Prompt
from rlaif.distributed import fsdp
from rlaif.distributed.processes import ProcessGroup
from rlaif.generation.base import Sampler, require_attention
from rlaif.generation.engines import open_sampler
from rlaif.generation.remote.opening import open_rollout_workers
from rlaif.models.backbone import Backbone
from rlaif.models.reward_model import RewardFunction, backbones_of, reward_function, reward_identity
from rlaif.progress import progress
from rlaif.rewards.standardized import load_scales, scales_state, standardized
from rlaif.training.checks import report_skipped, require_context
from rlaif.training.config import TrainingError
from rlaif.training.learner import Learner
from rlaif.training.plain_text.score import TextForgetting
from rlaif.training.recompute import recompute_layers
from rlaif.training.run import Run, run_inputs


def train(
    config: ReSTConfig,
    model: str,
    prompts: Sequence[Prompt],
    reward: Path | RewardFunction,
    out: Path,
) -> Path:
    """Alternate Grow and Improve steps; returns `out`: a peft adapter, or (lora=null) a model.

    model: short name, folder or hub id of the base. reward: folder of a reward model, or a callable
    (conversations, responses) → scores, None for a response without one. A killed run resumes from
    the last checkpoint in `out`. Raises TrainingError, BatchError, BackboneError, SamplingError or
    RewardModelError.
    """
    # 1. The base, the prompts, the policy, the score.
    workers = ProcessGroup.current()
    backbone = Backbone.load(
        model, config.dtype, config.lora is None, workers, config.chat_template_kwargs
    )
    require_attention(backbone.model.config, backbone.name)
    require_context(backbone, config.max_tokens)
    prompt_tokens = config.max_tokens - config.max_new_tokens
    encoded, skipped = encode_prompts(backbone.tokenizer, prompts, prompt_tokens, config.unusable)
    report_skipped(skipped)
    backbone.add_role("policy", config.lora, config.seed)
    recompute_layers(backbone, config)
    # A reward model becomes a role of a base that does not move.
    score = reward_function(reward, backbone if config.lora else backbone.frozen_copy())
    score = standardized(score, config.standardize_scores)
    models = [backbone, *backbones_of(score)]
    for each in models:
        each.shard(workers)
    base = _policy_weights(backbone) if config.start == "base" else None
    text = TextForgetting.from_start(backbone, config, workers)

    # 2. The state of an earlier run: `at` is the Improve step it was in.
    inputs = {**run_inputs("rest", config, backbone, prompts), "reward": reward_identity(reward)}
    run = Run(out, inputs, config, workers)
    saved = run.resume()
    at = (saved["grow"], saved["improve"]) if saved else (0, 0)
    step = saved["step"] if saved else 0
    if saved:
        load_scales(score, saved["scales"])
        for name, parameter in backbone.role_parameters("policy").items():
            fsdp.set_full(parameter, saved["learner"]["parameters"][name])

    # 3. Grow, then improve over rising thresholds.
    sampler = _sampler(config, backbone, out, workers)
    tokenizer, digest = backbone.tokenizer, _digest(inputs)
    grow_step = GrowStep(sampler, score, models, encoded, tokenizer, out, digest, config, workers)
    if config.resume == "never":
        grow_step.forget()
    with closing(sampler):
        for grow in range(max(at[0], 1), config.grow_steps + 1):
            if saved and (grow, len(config.quantiles)) == at and saved["finished"]:
                continue  # the next step is another Grow: these responses are not needed again
            if step and run.spent_budget():
                break
            grown = grow_step.grow(grow)
            run.keep_spent()
            if grow != at[0]:  # else the checkpoint has counted them
                run.count(sum(len(sample.ids) for sample in grown))
            for improve, quantile in enumerate(config.quantiles, start=1):
                kept = improve_set(grown, quantile, config.threshold)
                if (grow, improve) < at or not _has_responses(kept, grow, improve, workers):
                    continue
                if step and run.spent_budget():
                    break
                if base is not None:
                    _set_policy_weights(backbone, base)
                rows = _rows(encoded, kept)
                stage = ImproveStep(
                    grow, improve, rows, kept.metrics, scales_state(score), text, config, workers
                )
                step = stage.train(backbone, run, step, saved if (grow, improve) == at else None)
    if step == 0:
        raise TrainingError(
            "ReST kept no response in any step: no score is above another (see grow-01.jsonl); "
            "raise samples_per_prompt, or give a reward that tells responses apart"
        )

    # 4. The policy.
    run.save_policy(backbone)
    return out


def _sampler(config: ReSTConfig, backbone: Backbone, out: Path, workers: ProcessGroup) -> Sampler:
    """What samples: this process, or its rollout workers."""
    room = config.max_tokens, config.kv_cache_gib
    if not config.rollout_workers:
        return open_sampler(config.engine, backbone, *room)
    with workers.raise_together():
        sampler = open_rollout_workers(
            config.engine, backbone, room, config.lora, workers=config.rollout_workers,
            transport=config.rollout_weights, folder=out / "rollouts" / f"rank-{workers.rank}",
            ray=config.ray,
        )  # fmt: skip
    return sampler


def _policy_weights(backbone: Backbone) -> dict[str, Tensor]:
    """A copy of this process's shards of the policy's weights."""
    parameters = backbone.role_parameters("policy")
    return {name: fsdp.local(p.detach()).clone() for name, p in parameters.items()}


def _set_policy_weights(backbone: Backbone, pieces: dict[str, Tensor]) -> None:
    for name, parameter in backbone.role_parameters("policy").items():
        fsdp.set_local(parameter, pieces[name])


@dataclass(frozen=True, slots=True)
class ImproveStep:
    """One Improve step: SFT on the kept responses."""

    grow: int  # g, from 1
    improve: int  # i, from 1
    rows: Sequence[Row]
    set_metrics: dict[str, float | None]  # those of improve_set
    scales: dict[str, tuple[float, float]]  # of standardized scores, for checkpoints
    text: TextForgetting
    config: ReSTConfig
    workers: ProcessGroup

    def train(self, backbone: Backbone, run: Run, step: int, saved: dict[str, Any] | None) -> int:
        """Train after `step` steps of the run; returns the run's steps after it.

        saved: the checkpoint to resume from, if it is one of this Improve step. Metrics, besides
        those of `improve_set` and of SFT's `train_step`:

        grow, improve      g and i        learning_rate    of this step
        text_nll, text_nll_rise           after the last step (training/plain_text/score.py)
        """
        config = self.config
        # Each stage has its own order, since the number of kept responses differs.
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
            for place, batch in enumerate(run.within_budget(batches, done), start=done + 1):
                step += 1
                rate, where = learner.schedule(place), f"{title}, step {place}"
                rows, names = [self.rows[i] for i in batch], ["kept"] * len(batch)
                metrics: dict[str, float | None] = {"grow": self.grow, "improve": self.improve}
                metrics |= train_step(
                    backbone, learner, rows, names, config.micro_batch_tokens, where
                )
                finished, spent = place == len(batches), run.spend(metrics["tokens"] or 0.0)
                metrics |= self.text.metrics(backbone) if finished or spent else {}
                run.log(step, metrics | self.set_metrics | {"learning_rate": rate})
                # the cursor within the Improve step is in the checkpoint: it resumes in the middle
                if finished or spent or step % config.checkpoint_every == 0:
                    cursor = {"grow": self.grow, "improve": self.improve, "done": place}
                    rest = {"scales": self.scales, **cursor, "finished": finished}
                    state = {"learner": learner.state(), **rest}
                    run.save(step, state)
                share_kept = self.set_metrics["share_kept"]
                report(place, f"loss {metrics['loss']:.3f}, kept {share_kept:.0%}")
        return step


def _rows(prompts: Sequence[EncodedPrompt], kept: ImproveSet) -> list[Row]:
    by_id = {p.prompt.id: p.ids for p in prompts}
    return [
        Row(f"{g.prompt}#{g.index}", (*by_id[g.prompt], *g.ids), len(by_id[g.prompt]))
        for g in kept.responses
    ]


def _has_responses(kept: ImproveSet, grow: int, improve: int, workers: ProcessGroup) -> bool:
    """Whether there are responses to train on; an Improve step without any is reported."""
    if not kept.responses and workers.is_main:
        print(
            f"ReST, grow {grow}, improve {improve}: no score is above the threshold "
            f"{kept.metrics['threshold']:.3f}; this step is left out",
            file=sys.stderr,
        )
    return bool(kept.responses)


def _digest(inputs: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
