"""The methods of the planted table: what each trains on, with which settings.

An arm gets a `Cell` (one seed at one label accuracy: samples, labels, reward model) and returns
the responses of its policy to the held-out prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import rlaif
from rlaif.data.datasets import read_preferences
from rlaif.data.records import Preference, Sample, read_jsonl
from rlaif.models.reward_model import RewardModel

SHORT = {"max_new_tokens": 64, "temperature": 1.0, "engine": "transformers"}
QUIET: dict[str, Any] = {"dtype": "float32", "checkpoint_every": 10_000}
WHOLE: dict[str, Any] = QUIET | {"lora": None}
HELDOUT_SAMPLES = 2  # responses per held-out prompt
CANDIDATES = 8  # of best-of-n

RATES: Mapping[str, float] = {"sft": 5e-4, "reward": 2e-3, "dpo": 6e-4, "ppo": 3e-4}
"""Peak learning rates of a model of a million weights, by benchmarks/planted/rates.py
(docs/log.md)."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One seed at one label accuracy. folder: its labels and models."""

    folder: Path
    start: Path  # the starting policy, a model folder
    prompts: Path
    constitution: Path
    seed: int
    rates: Mapping[str, float] = field(default_factory=lambda: RATES)

    @property
    def labels(self) -> list[Preference]:
        """The planted judge's labels, whose chosen response it prefers."""
        return read_preferences(self.folder / "labels" / "preferences.parquet")

    def reward(self) -> Path:
        """The reward model on the labels, trained when it is first needed."""
        return rlaif.train_reward(
            self.labels,
            model=self.start,
            out=self.folder / "reward",
            constitution=self.constitution,
            learning_rate=self.rates["reward"],
            epochs=3,
            batch_size=16,
            seed=self.seed,
            **QUIET,  # LoRA, over the policy's own base: as PPO needs it
        )

    def sample(self, model: Path, name: str, n: int) -> list[Sample]:
        """n responses of a model to each held-out prompt, kept in a file of that name."""
        out = self.folder / f"{name}.jsonl"
        rlaif.sample(
            self.prompts, model=model, split="heldout", out=out, n=n, seed=self.seed,
            prompts_per_chunk=200, **SHORT,
        )  # fmt: skip
        return read_jsonl(out, Sample)


Arm = Callable[[Cell, str], list[Sample]]
"""(cell, the arm's name) → responses to the held-out prompts."""


def _trained(train: Callable[[Cell, Path], Path], cell: Cell, name: str) -> list[Sample]:
    return cell.sample(train(cell, cell.folder / name), name, HELDOUT_SAMPLES)


def _sft(cell: Cell, out: Path) -> Path:
    return rlaif.train_sft(
        cell.labels, model=cell.start, out=out, learning_rate=cell.rates["sft"], epochs=2,
        batch_size=16, min_prob_chosen=0.5, seed=cell.seed, **WHOLE,
    )  # fmt: skip


def _dpo(loss: str, cell: Cell, out: Path) -> Path:
    return rlaif.train_dpo(
        cell.labels, model=cell.start, out=out, loss=loss, learning_rate=cell.rates["dpo"],
        epochs=3, batch_size=16, beta=0.1, seed=cell.seed, **WHOLE,
    )  # fmt: skip


def _ppo(advantages: str, cell: Cell, out: Path) -> Path:
    group = 1 if advantages == "gae" else 4
    return rlaif.train_ppo(
        cell.prompts, model=cell.start, out=out, reward=cell.reward(), advantages=advantages,
        iterations=12, prompts_per_iteration=64 // group, group_size=group, epochs=2,
        update_batch_size=32, learning_rate=cell.rates["ppo"],
        seed=cell.seed, **SHORT, **WHOLE,
    )  # fmt: skip


def _rest(cell: Cell, out: Path) -> Path:
    return rlaif.train_rest(
        cell.prompts, model=cell.start, out=out, reward=cell.reward(), samples_per_prompt=4,
        quantiles=(0.75,), threshold="prompt", learning_rate=cell.rates["sft"], epochs=2,
        batch_size=16, prompts_per_chunk=200, seed=cell.seed, **SHORT, **WHOLE,
    )  # fmt: skip


def _best_of_n(cell: Cell, name: str) -> list[Sample]:
    """The response that the reward model scores highest, of CANDIDATES of the start."""
    model = RewardModel.load(str(cell.start), cell.reward())
    candidates = cell.sample(cell.start, name, CANDIDATES)
    scores = model.overall_scores(
        [s.prompt.messages for s in candidates], [s.response for s in candidates]
    )
    best: dict[str, tuple[float, Sample]] = {}
    for sample, score in zip(candidates, scores, strict=True):
        if score is not None and score > best.get(sample.prompt.id, (float("-inf"),))[0]:
            best[sample.prompt.id] = (score, sample)
    return [sample for _, sample in best.values()]


ARMS: Mapping[str, Arm] = {
    "sft": partial(_trained, _sft),
    "dpo_soft": partial(_trained, partial(_dpo, "soft_sigmoid")),
    "dpo_hard": partial(_trained, partial(_dpo, "sigmoid")),
    "ppo_gae": partial(_trained, partial(_ppo, "gae")),
    "ppo_rloo": partial(_trained, partial(_ppo, "rloo")),
    "ppo_grpo": partial(_trained, partial(_ppo, "grpo")),
    "rest": partial(_trained, _rest),
    "best_of_n": _best_of_n,
}
"""Name → arm, in the order of the table's rows."""
