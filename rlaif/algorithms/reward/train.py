"""Reward model: heads over the role "reward", trained on soft preference labels.

The loss and its equations are in losses.py. One head learns the label, prob_chosen, and scores for
PPO and ReST; one more per trait learns the trait's label. Plain preference data, without trait
labels, trains the first alone. label_kind=hard rounds p to 0 or 1 (a p of ½ has no side: not
labeled); `compare_nll` of rlaif/evaluation/reward_models.py measures what that costs. After
training each head is shifted and scaled so that the training responses have mean 0 and std 1. The
traits may be weighed anew later (rlaif/models/reward/weights.py).

A pair computes its prompt once for both rows where that saves work (batching/prefix_sharing.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from rlaif.algorithms.reward.config import RewardConfig
from rlaif.algorithms.reward.labels import labels_of, weights_by_head, without_unlabeled
from rlaif.algorithms.reward.losses import preference_loss
from rlaif.batching.corpus.mapped import CorpusPairs, PickedPairs, picked
from rlaif.batching.encode import Pair
from rlaif.data.records import Preference
from rlaif.distributed.processes import ProcessGroup
from rlaif.evaluation.reward_models import PairScores, RewardEvaluation, evaluate_reward
from rlaif.models.backbone import Backbone
from rlaif.models.reward.heads import LABEL, RewardHeads
from rlaif.models.reward.weights import Weighing
from rlaif.models.reward_model import RewardModel
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
from rlaif.training.recompute import recompute_layers
from rlaif.training.run import Run


def train(
    config: RewardConfig,
    model: str,
    preferences: Sequence[Preference] | CorpusPairs,
    out: Path,
    trait_weights: Mapping[str, float],
    eval_preferences: Sequence[Preference] = (),
) -> Path:
    """Train on labeled pairs; returns `out`: peft adapter (lora=null: a model), heads, reward.json.

    model: short name, folder or hub id of the base. preferences may be a corpus, whose pairs are
    read when they are used. trait_weights: weight of each trait in the
    label, `label_weights` of its constitution. eval_preferences: held-out pairs, whose loss is
    logged (training/heldout.py) and whose evaluation.json is written
    (evaluation/reward_models.py). A killed run resumes from the last checkpoint in `out`.
    Raises TrainingError, BatchError for an unusable pair, or BackboneError for the model.
    """
    # 1. The base, the pairs, a head for the label and one per trait.
    workers = ProcessGroup.current()
    backbone, encoded, heldout = load_and_encode(
        model, preferences, eval_preferences, config, workers
    )
    weights = weights_by_head(encoded.pairs, trait_weights, config.label_kind)
    encoded = without_unlabeled(encoded, weights, config.label_kind)
    reward_model = fresh_model(backbone, weights, config)
    backbone.shard(workers)
    reward_model.heads.to(backbone.device)
    evaluation = HeldOutPairs(eval_preferences, heldout.pairs, reward_model, config, workers)

    # 2. The optimizer, and the state of an earlier run.
    batches = batches_of(encoded.pairs, config.batch_size, config.epochs, config.seed)
    trained = [(parameters(reward_model), config.learning_rate)]
    learner = Learner(trained, len(batches), config, workers)
    inputs = pair_inputs("reward", config, backbone, preferences, eval_preferences)
    run = Run(out, inputs | {"label_weights": weights}, config, workers)
    saved = run.resume()
    if saved:
        learner.load(saved["learner"])

    # 3. Steps.
    cut = count_cut(preferences).pair_metrics()
    done, epoch = saved["step"] if saved else 0, len(batches) // config.epochs
    with progress("reward model", len(batches), "steps") as report:
        report(done)
        for step, batch in enumerate(run.within_budget(batches, done), start=done + 1):
            rate = learner.schedule(step)
            pairs, where = picked(encoded.pairs, batch), f"reward model, step {step}"
            metrics = train_step(reward_model, learner, pairs, config, where)
            metrics |= {"learning_rate": rate, "skipped": encoded.skips, **cut}
            last = run.spend(metrics["tokens"] or 0.0) or step == len(batches)
            score = None
            if heldout.pairs and (last or is_evaluated(config, step, epoch)):
                result = evaluation.evaluate()
                metrics |= heldout_metrics(result)
                score = -result.nll
            run.log(step, metrics)
            if score is not None or step % config.checkpoint_every == 0 or last:
                run.save(step, {"learner": learner.state()}, score)
            report(step, _note(metrics), metrics)

    # 4. The last weights, or the best (keep); training responses get mean 0 and std 1.
    load_kept(config, run, learner)
    normalize(reward_model, encoded.pairs, config, workers)
    save(reward_model, evaluation, out)
    run.finish()
    return out


def _note(metrics: Mapping[str, float | None]) -> str:
    """The state of training in the progress line."""
    return f"loss {metrics['loss']:.3f}, accuracy {metrics['accuracy'] or 0:.2f}"


def normalize(
    model: RewardModel, pairs: Sequence[Pair], config: RewardConfig, workers: ProcessGroup
) -> None:
    """Shift and scale each head so that its scores of these pairs' responses have mean 0, std 1.

    Collective: every process scores its share of the pairs.
    """
    with progress("reward model, scores of the training pairs", len(pairs), "pairs") as report:
        if isinstance(pairs, CorpusPairs):
            model.heads.normalize_on_pieces(pieces(model, pairs, config, workers, report))
        else:
            raw = raw_scores(model, pairs, config, workers, report)  # (N, 2, K)
            model.heads.normalize_on(raw.flatten(0, 1))  # (2 N, K)


def pieces(
    model: RewardModel,
    pairs: CorpusPairs,
    config: RewardConfig,
    workers: ProcessGroup,
    report: Callable[[float], None],
) -> Iterator[Tensor]:
    """Raw scores of a corpus's responses, SCORED_AT_ONCE pairs at a time: (2 n, K) each."""
    for at in range(0, len(pairs), SCORED_AT_ONCE):
        report(at)
        piece = pairs[at : at + SCORED_AT_ONCE]
        yield raw_scores(model, piece, config, workers).flatten(0, 1)


def fresh_model(
    backbone: Backbone, trait_weights: Mapping[str, float], config: RewardConfig
) -> RewardModel:
    """Add the role "reward" to the backbone, with untrained heads: the label's, one per trait."""
    backbone.add_role("reward", config.lora, config.seed)
    recompute_layers(backbone, config)
    weights = Weighing.as_labeled(trait_weights)
    heads = RewardHeads(weights.traits, backbone.hidden_size)
    heads.randomize(config.seed)
    tuning: Literal["lora", "full"] = "lora" if config.lora else "full"
    return RewardModel(backbone, heads.to(backbone.device), weights, tuning)


def parameters(model: RewardModel) -> dict[str, Tensor]:
    """Name → parameter of everything that trains: the role's weights and the heads'."""
    return {**model.backbone.role_parameters("reward"), **dict(model.heads.named_parameters())}


def raw_scores(
    model: RewardModel,
    pairs: Sequence[Pair],
    config: RewardConfig,
    workers: ProcessGroup,
    report: Callable[[float], None] | None = None,
) -> Tensor:
    """Raw scores of N pairs by K heads, without gradient: (N, 2, K), chosen first.

    Collective: each process scores its share, and all get all. report: called with an estimate of
    the number of pairs done by all processes.
    """

    def report_all(done: int) -> None:
        if report is not None:
            report(min(done * workers.count, len(pairs)))

    own = model.raw_of_pairs(
        workers.shard(pairs), config.micro_batch_tokens, report_all, workers.pad_batches
    )
    every = workers.gather(own.tolist())
    return torch.tensor(every, device=model.backbone.device)


@dataclass(frozen=True, slots=True)
class HeldOutPairs:
    """Evaluates a reward model on pairs that it is not trained on."""

    preferences: Sequence[Preference]
    pairs: Sequence[Pair]  # the usable ones of preferences
    model: RewardModel
    config: RewardConfig
    workers: ProcessGroup

    def evaluate(self) -> RewardEvaluation:
        """Evaluate the raw scores, whose differences are log-odds as in the loss. Collective."""
        raw = raw_scores(self.model, self.pairs, self.config, self.workers)  # (N, 2, K)
        usable = {pair.id for pair in self.pairs}
        kept = [p for p in self.preferences if p.id in usable]
        traits = {
            name: PairScores(*raw[:, :, k].T.tolist())
            for k, name in enumerate(self.model.heads.traits, start=LABEL + 1)
        }
        chosen, rejected = raw[:, :, LABEL].T.tolist()
        return evaluate_reward(kept, chosen, rejected, traits)


def save(model: RewardModel, heldout: HeldOutPairs, out: Path) -> None:
    """Write the reward model's folder, with evaluation.json if there are held-out pairs.

    Collective; only the main process writes.
    """
    evaluation = heldout.evaluate() if heldout.pairs else None
    model.backbone.gather(heldout.workers)
    with heldout.workers.raise_together():
        if heldout.workers.is_main:
            model.save(out)
            if evaluation:
                evaluation.save(out / "evaluation.json")


def heldout_metrics(result: RewardEvaluation) -> dict[str, float | None]:
    """Metrics of a held-out evaluation, under the names of metrics.jsonl:

    heldout_loss         mean cross-entropy of sigmoid(Δ) against prob_chosen, nats; Δ of the head
                         on the label, without centering. log 2: no better than chance
    heldout_accuracy     share of labels ≠ ½ whose side Δ is on, mean over prompts
    heldout_ece          expected calibration error (evaluation/reward_models.py)
    """
    return {
        "heldout_loss": result.nll,
        "heldout_accuracy": result.accuracy.value if result.accuracy else None,
        "heldout_ece": result.ece,
    }


def train_step(
    model: RewardModel,
    learner: Learner,
    pairs: Sequence[Pair],
    config: RewardConfig,
    where: str,
) -> dict[str, float | None]:
    """Make one optimizer step over `pairs` (those of all processes); returns its metrics.

    loss       mean over labels                   margin    mean Δ over labels (raw scores)
    accuracy   share of labels ≠ ½ whose side Δ is on, None where there is no such label
    score      mean raw score over responses and heads
    grad_norm  before clipping                    tokens    computed, without padding
    memory_gib peak so far                        tokens_per_s

    where: names the step in errors. Raises TrainingError when no pair has a label, or for a loss or
    gradient that is not finite.
    """
    started, workers = time.perf_counter(), learner.workers
    device, traits = model.backbone.device, model.heads.traits
    of_all = pairs.labels() if isinstance(pairs, PickedPairs) else pairs
    count = int(labels_of(of_all, traits, config.label_kind).labeled.sum())
    if not count:
        raise TrainingError(f"{where}: none of the {len(pairs)} pairs has a label; remove them")
    sums = torch.zeros(len(SUMS), dtype=torch.float64, device=device)
    tokens = 0
    own = workers.shard(pairs)
    groups = model.backbone.pair_batches(own, config.micro_batch_tokens)
    for group in workers.pad_batches(groups):
        batch = model.backbone.batch_pairs([own[i] for i in group])
        labels = labels_of([own[i] for i in group], traits, config.label_kind)
        p, labeled = labels.prob_chosen.to(device), labels.labeled.to(device)  # (B, K) each
        chosen, rejected = model.raw_pairs(batch).unbind(1)  # (B, K) each
        loss = preference_loss(chosen, rejected, p, labeled, config.centering)
        # Divided by all labels: neither micro-batches nor processes change the gradient.
        (loss.losses.sum() / count).backward()  # type: ignore[no-untyped-call]
        clear = labeled & (p != 0.5)  # (B, K)
        right = clear & ((p > 0.5) == (loss.margins > 0))  # (B, K)
        columns = (loss.losses, loss.margins, chosen + rejected, right, clear)
        sums += torch.stack([column.detach().double().sum() for column in columns])
        tokens += batch.tokens
    total = workers.all_reduce(
        dict(zip(SUMS, sums.tolist(), strict=True)) | {"tokens": float(tokens)}
    )
    # Checked after the sum, so that every process stops and none waits for another.
    require_finite(torch.tensor(total["loss"]), "loss", where)
    norm = learner.step(where)
    return {
        "loss": total["loss"] / count,
        "accuracy": total["right"] / total["clear"] if total["clear"] else None,
        "margin": total["margin"] / count,
        "score": total["score"] / (2 * len(pairs) * model.heads.count),
        "grad_norm": norm,
        "tokens": total["tokens"],
        "tokens_per_s": total["tokens"] / (time.perf_counter() - started),
        "memory_gib": memory_gib(),
    }


SCORED_AT_ONCE = 4096  # pairs of a corpus
SUMS = ("loss", "margin", "score", "right", "clear")
