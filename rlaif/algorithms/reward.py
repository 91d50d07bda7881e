"""Reward model: Bradley-Terry on soft labels, one head per trait.

    L = -[p·logsigmoid(Δ) + (1-p)·logsigmoid(-Δ)] + c·(s_chosen + s_rejected)²     mean over labels

    Δ         margin = chosen - rejected      (B, K) scores, K heads   Eq. 1, arXiv:2203.02155
    p         prob_chosen                     (B, K) the judge's P(chosen better) on that trait
    labeled  (B, K) False where the judge did not look at the trait: that entry is masked
    c         centering                       Eq. 2, arXiv:2312.09244: scores stay around 0

labels=hard rounds p to 0 or 1 (a p of ½ has no side: not labeled); compare_nll of
reward_evaluation.py says what that costs. Pairs without any trait label at all (plain preference
data) train one head called "overall" on the pair's own prob_chosen. After training each head is
shifted and scaled so that the training responses have mean 0 and std 1; overall = Σ trait weight ·
head, the weights free to be changed (scoring.py: reweigh).

Where it saves work a pair computes its prompt once for both rows (prefix_sharing.py).
Left out: InstructGPT's K-way ranking batches (our labels are pairs).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from rlaif.batching.encode import EncodedPairs, Pair, epoch_batches
from rlaif.data.records import Preference
from rlaif.distributed.processes import ProcessGroup
from rlaif.evaluation.reward_models import PairScores, RewardEvaluation, evaluate_reward
from rlaif.models.backbone import Backbone
from rlaif.models.reward_model import Heads, RewardModel
from rlaif.progress import progress
from rlaif.training.config import (
    Learner,
    Run,
    TrainingError,
    memory_gib,
    report_skipped,
    require_finite,
)
from rlaif.training.heldout import (
    HeldOutConfig,
    is_evaluated,
    load_and_encode,
    load_kept,
    pair_inputs,
)

__all__ = ["RewardConfig", "RewardModel", "preference_loss", "train"]

LabelKind = Literal["soft", "hard"]


class RewardConfig(HeldOutConfig):
    """Settings of reward-model training."""

    epochs: int = Field(default=2, ge=1, description="passes over the pairs; more learns by heart")
    batch_size: int = Field(default=8, ge=1, description="pairs per optimizer step")
    centering: float = Field(default=0.01, ge=0, description="c above, 0.01 (arXiv:2312.09244)")
    labels: LabelKind = Field(
        default="soft", description="hard: every label becomes 0 or 1, and one of ½ is left out"
    )


@dataclass(frozen=True, slots=True)
class RewardLoss:
    """All (B, K), 0 where not labeled."""

    losses: Tensor
    margins: Tensor


def preference_loss(
    chosen: Tensor, rejected: Tensor, prob_chosen: Tensor, labeled: Tensor, centering: float
) -> RewardLoss:
    """The loss of every (pair, head). All tensors (B, K); prob_chosen is read where labeled."""
    p = torch.where(labeled, prob_chosen, 0.5)
    margins = chosen - rejected
    bradley_terry = -(p * F.logsigmoid(margins) + (1 - p) * F.logsigmoid(-margins))
    centered = centering * (chosen + rejected).square()  # Eq. 2, arXiv:2312.09244
    return RewardLoss(
        torch.where(labeled, bradley_terry + centered, 0.0), torch.where(labeled, margins, 0.0)
    )


@dataclass(frozen=True, slots=True)
class Labels:
    prob_chosen: Tensor  # (B, K), 0.5 where not labeled
    labeled: Tensor  # (B, K) bool


def labels_of(pairs: Sequence[Pair], names: Sequence[str], kind: LabelKind) -> Labels:
    """Each pair's label for each head."""
    table = [[label_of(pair, name, kind) for name in names] for pair in pairs]
    known = [[label is not None for label in row] for row in table]
    values = [[0.5 if label is None else label for label in row] for row in table]
    shape = len(pairs), len(names)
    return Labels(
        torch.tensor(values).view(shape), torch.tensor(known, dtype=torch.bool).view(shape)
    )


def label_of(pair: Pair, name: str, kind: LabelKind) -> float | None:
    """A pair's label for one head, None where there is none; "overall" reads the pair's own.

    Raises TrainingError for a label that is no probability.
    """
    p = pair.prob_chosen if name == "overall" else pair.traits.get(name)
    if p is None:
        return None
    if not 0 <= p <= 1:  # NaN too
        raise TrainingError(
            f"{pair.id}: its label for {name} is {p}, which is no probability; mend the record"
        )
    if kind == "hard":
        return None if p == 0.5 else float(p > 0.5)
    return p


def head_weights(
    pairs: Sequence[Pair], trait_weights: Mapping[str, float], kind: LabelKind
) -> dict[str, float]:
    """The heads to train with their weights in the overall score, in sorted order; "overall" where
    no pair has a trait label at all.

    A trait that no pair teaches has no head: it would stay random. Raises TrainingError for a
    labeled trait without a weight.
    """
    seen = {trait for pair in pairs for trait, label in pair.traits.items() if label is not None}
    unknown = sorted(seen - trait_weights.keys())
    if unknown:
        raise TrainingError(
            f"the labels name the trait {unknown[0]!r}, which has no weight (there are: "
            f"{', '.join(sorted(trait_weights)) or 'none'}); give the constitution that made them"
        )
    if not seen:
        return {"overall": 1.0}
    return {
        trait: trait_weights[trait]
        for trait in sorted(seen)
        if any(label_of(pair, trait, kind) is not None for pair in pairs)
    }


def without_unlabeled(
    encoded: EncodedPairs, heads: Mapping[str, float], kind: LabelKind
) -> EncodedPairs:
    """Leave out the pairs that no head can learn from, so that no batch is without a label, and
    tell them by name on stderr. Raises TrainingError when none is left."""
    pairs: list[Pair] = []
    reasons: list[str] = []
    for pair in encoded.pairs:
        labels = [label_of(pair, name, kind) for name in heads]  # all of them are checked
        if any(label is not None for label in labels):
            pairs.append(pair)
        else:
            why = "no trait label" if kind == "soft" else "no label with a side"
            reasons.append(f"{pair.id}: {why}")
    if not pairs:
        raise TrainingError(
            f"none of the {len(reasons)} pairs has a label to learn from ({reasons[0]}); "
            "label some more" + (", or set labels=soft" if kind == "hard" else "")
        )
    report_skipped(reasons)
    return EncodedPairs(pairs, encoded.skipped + reasons)


def train(
    config: RewardConfig,
    model: str,
    preferences: Sequence[Preference],
    out: Path,
    trait_weights: Mapping[str, float],
    eval_preferences: Sequence[Preference] = (),
) -> Path:
    """Train on labels; returns `out`: peft adapter (lora=null: a model), heads, reward.json.

    With eval_preferences the held-out NLL is logged (heldout.py), and evaluation.json is written
    beside (reward_evaluation.py). Resumes by itself. Raises TrainingError or BatchError.
    """
    # 1. The base, the pairs, one head per trait.
    workers = ProcessGroup.current()
    backbone, encoded, heldout = load_and_encode(
        model, preferences, eval_preferences, config, workers
    )
    weights = head_weights(encoded.pairs, trait_weights, config.labels)
    encoded = without_unlabeled(encoded, weights, config.labels)
    reward_model = fresh_model(backbone, weights, config)
    backbone.shard(workers)
    reward_model.heads.to(backbone.device)
    look = HeldOut(eval_preferences, heldout.pairs, reward_model, config, workers)

    # 2. Where the run stands.
    batches = epoch_batches(len(encoded.pairs), config.batch_size, config.epochs, config.seed)
    trained = [(parameters(reward_model), config.learning_rate)]
    learner = Learner(trained, len(batches), config, workers)
    inputs = pair_inputs("reward", config, backbone, preferences, eval_preferences)
    run = Run(out, inputs | {"traits": weights}, config, workers)
    saved = run.resume()
    if saved:
        learner.load(saved["learner"])

    # 3. Steps.
    done, epoch = saved["step"] if saved else 0, len(batches) // config.epochs
    with progress("reward model", len(batches), "steps") as report:
        report(done)
        for step, batch in enumerate(batches[done:], start=done + 1):
            rate = learner.schedule(step)
            pairs, where = [encoded.pairs[i] for i in batch], f"reward model, step {step}"
            metrics = train_step(reward_model, learner, pairs, config, where)
            metrics |= {"learning_rate": rate, "skipped": len(encoded.skipped)}
            score = None
            if heldout.pairs and is_evaluated(config, step, len(batches), epoch):
                found = look.evaluate()
                metrics |= heldout_metrics(found)
                score = -found.nll
            run.log(step, metrics)
            if score is not None or step % config.checkpoint_every == 0 or step == len(batches):
                run.save(step, {"learner": learner.state()}, score)
            note = f"loss {metrics['loss']:.3f}, accuracy {metrics['accuracy'] or 0:.2f}"
            report(step, note, metrics)

    # 4. The last weights, or the best (keep); training responses get mean 0 and std 1.
    load_kept(config, run, learner)
    normalize(reward_model, encoded.pairs, config, workers)
    save(reward_model, look, out)
    run.finish()
    return out


def normalize(
    model: RewardModel, pairs: Sequence[Pair], config: RewardConfig, workers: ProcessGroup
) -> None:
    """Scores of these pairs' responses get mean 0 and std 1, head by head."""
    with progress("reward model, scores of the training pairs", len(pairs), "pairs") as report:
        raw = raw_scores(model, pairs, config, workers, report)  # (N, 2, K)
    model.heads.normalize_on(raw.flatten(0, 1))


def fresh_model(
    backbone: Backbone, trait_weights: Mapping[str, float], config: RewardConfig
) -> RewardModel:
    """The "reward" role with untrained heads."""
    backbone.add_role("reward", config.lora, config.seed)
    heads = Heads(list(trait_weights), backbone.hidden_size)
    heads.randomize(config.seed)
    tuning: Literal["lora", "full"] = "lora" if config.lora else "full"
    return RewardModel(backbone, heads.to(backbone.device), dict(trait_weights), tuning)


def parameters(model: RewardModel) -> dict[str, Tensor]:
    """All that is trained: the role's and the heads'."""
    return {**model.backbone.role_parameters("reward"), **dict(model.heads.named_parameters())}


def raw_scores(
    model: RewardModel,
    pairs: Sequence[Pair],
    config: RewardConfig,
    workers: ProcessGroup,
    report: Callable[[float], None] | None = None,
) -> Tensor:
    """Raw scores of pairs, computed by all processes and known to each: (N, 2, K).

    report is called with the number of pairs done, as far as one process can tell.
    """

    def of_all(done: int) -> None:
        if report is not None:
            report(min(done * workers.count, len(pairs)))

    own = model.raw_of_pairs(
        workers.shard(pairs), config.micro_batch_tokens, of_all, workers.pad_batches
    )
    every = workers.gather(own.tolist())
    return torch.tensor(every, device=model.backbone.device)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Pairs that are not trained on, and the model that is held against them."""

    preferences: Sequence[Preference]
    pairs: Sequence[Pair]  # those of them that can be used
    model: RewardModel
    config: RewardConfig
    workers: ProcessGroup

    def evaluate(self) -> RewardEvaluation:
        """On the loss's own scale: raw scores, whose differences are log-odds."""
        raw = raw_scores(self.model, self.pairs, self.config, self.workers)  # (N, 2, K)
        usable = {pair.id for pair in self.pairs}
        kept = [p for p in self.preferences if p.id in usable]
        traits = {
            name: PairScores(*raw[:, :, k].T.tolist())
            for k, name in enumerate(self.model.heads.names)
        }
        chosen, rejected = self.model.mean(raw).T.tolist()
        return evaluate_reward(kept, chosen, rejected, traits)


def save(model: RewardModel, heldout: HeldOut, out: Path) -> None:
    """The reward model's folder, with evaluation.json where there are held-out pairs."""
    evaluation = heldout.evaluate() if heldout.pairs else None
    model.backbone.gather(heldout.workers)
    if heldout.workers.is_main:
        model.save(out)
        if evaluation:
            evaluation.save(out / "evaluation.json")
    heldout.workers.barrier()


def heldout_metrics(found: RewardEvaluation) -> dict[str, float | None]:
    """heldout_nll       mean cross-entropy of sigmoid(Δ) against the soft labels, nats; Δ of the
                         heads' weighted mean. log 2 = knows nothing
    heldout_accuracy     share of labels ≠ ½ whose side Δ is on, mean over prompts
    heldout_ece          how far its probabilities are from the labels (reward_evaluation.py)
    """
    return {
        "heldout_nll": found.nll,
        "heldout_accuracy": found.accuracy.value if found.accuracy else None,
        "heldout_ece": found.ece,
    }


def train_step(
    model: RewardModel,
    learner: Learner,
    pairs: Sequence[Pair],
    config: RewardConfig,
    where: str,
) -> dict[str, float | None]:
    """One optimizer step over `pairs` (those of all processes); the loss is the mean over labels.

    loss       the L above                        margin    mean Δ over labels (raw scores)
    accuracy   share of labels ≠ ½ whose side Δ is on, None where there is no such label
    score      mean raw score over responses and heads
    grad_norm  before clipping                    tokens_per_s  computed ones, pads aside
    """
    started, workers = time.perf_counter(), learner.workers
    device, names = model.backbone.device, model.heads.names
    count = int(labels_of(pairs, names, config.labels).labeled.sum())
    if not count:
        raise TrainingError(f"{where}: none of its {len(pairs)} pairs has a label; drop them")
    sums = torch.zeros(len(SUMS), dtype=torch.float64, device=device)
    tokens = 0
    own = workers.shard(pairs)
    groups = model.backbone.pair_batches(own, config.micro_batch_tokens)
    for group in workers.pad_batches(groups):
        batch = model.backbone.batch_pairs([own[i] for i in group])
        labels = labels_of([own[i] for i in group], names, config.labels)
        p, labeled = labels.prob_chosen.to(device), labels.labeled.to(device)
        chosen, rejected = model.raw_pairs(batch).unbind(1)  # (B, K) each
        found = preference_loss(chosen, rejected, p, labeled, config.centering)
        # Of all labels: neither micro-batches nor processes change the gradient.
        (found.losses.sum() / count).backward()  # type: ignore[no-untyped-call]
        clear = labeled & (p != 0.5)
        right = clear & ((p > 0.5) == (found.margins > 0))
        columns = (found.losses, found.margins, chosen + rejected, right, clear)
        sums += torch.stack([column.detach().double().sum() for column in columns])
        tokens += batch.tokens
    total = workers.all_reduce(
        dict(zip(SUMS, sums.tolist(), strict=True)) | {"tokens": float(tokens)}
    )
    # After the sum, so that every process stops, and none waits for another.
    require_finite(torch.tensor(total["loss"]), "loss", where)
    norm = learner.step(where)
    return {
        "loss": total["loss"] / count,
        "accuracy": total["right"] / total["clear"] if total["clear"] else None,
        "margin": total["margin"] / count,
        "score": total["score"] / (2 * len(pairs) * len(names)),
        "grad_norm": norm,
        "tokens_per_s": total["tokens"] / (time.perf_counter() - started),
        "memory_gib": memory_gib(),
    }


SUMS = ("loss", "margin", "score", "right", "clear")
