"""RLAIF training: a judge's labels in, a trained policy out.

    import rlaif

    rlaif.sample("quickstart", model="smollm2-135m", split="train", out="samples.jsonl")
    rlaif.label("samples.jsonl", judge="qwen2.5-coder-1.5b", out="labels")
    rlaif.train_dpo("labels", model="smollm2-135m", out="dpo", beta=0.2)

The names in `__all__` are the public API (docs/api.md); they are imported when they are first used.

data/                 records, prompt files, JSONL and Parquet
feedback/             everything that talks to a judge: labels, revisions, rewards
labels/               what is done with labels: statistics, verification, export, calibration
sharding/             folders of shards made from others, by many processes
redteam/              attacks on a model, and what becomes of those that succeed
models/               model folders, the backbone with its LoRA roles, the reward model
batching/             token ids in dense batches, and their log-probabilities
generation/           sampling from a policy
rewards/              where a response's score comes from
distributed/          the processes of one `accelerate launch`, FSDP2
training/             what all trainers share: settings, optimizer, checkpoints, metrics
algorithms/           SFT, reward model, DPO, PPO, ReST
evaluation/           policies and reward models, with 95 % intervals
gold_sets/            public benchmarks of judges: questions, figures, floors
bench/                a judge or a reward model on gold sets
report/               the HTML page of a run
comparing/            training methods over several seeds: intervals, the last line, table, page
constitution_tools/   test, diff, ablate and try a constitution
pipeline/             recipes and their stages
api/                  the functions that this package exports
cli/                  the `rlaif` command
settings.py           settings given as key=value
plain_yaml.py         YAML as plain data, with every mistake as a YAMLError
settings_rows.py      a config class as rows of words, for help and docs
progress.py           progress bars and lines
terminal_tables.py    tables that never cut an identifier, at any width
time_left.py          the estimate of the time left
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from constitution.errors import UserError
    from rlaif.algorithms.dpo.config import DPOConfig
    from rlaif.algorithms.ppo.config import PPOConfig
    from rlaif.algorithms.rest.config import ReSTConfig
    from rlaif.algorithms.reward.config import RewardConfig
    from rlaif.algorithms.sft.config import SFTConfig
    from rlaif.algorithms.sft.sources import SFTSource
    from rlaif.api.corpus.prepare import prepare_corpus
    from rlaif.api.judging import evaluate
    from rlaif.api.labeling import label, update_labels
    from rlaif.api.pairs import train_dpo, train_reward, train_sft
    from rlaif.api.problems import RefusedError
    from rlaif.api.redteam.attacking import red_team
    from rlaif.api.redteam.regressions import adopt_failures, check_regressions
    from rlaif.api.revising import revise
    from rlaif.api.rollouts import train_ppo, train_rest
    from rlaif.api.sampling import merge_adapter, sample, score
    from rlaif.api.sharded import (
        label_shards,
        revise_shards,
        sample_shards,
        score_shards,
        split_shards,
    )
    from rlaif.data.records import Preference, Prompt, Sample
    from rlaif.evaluation.policies import EvaluationResult
    from rlaif.feedback.counts import LabelingSummary
    from rlaif.feedback.revisions.summary import RevisionSummary
    from rlaif.generation.config import SamplingConfig
    from rlaif.labels.update import Update
    from rlaif.models.lora_config import LoraConfig
    from rlaif.pipeline.recipe import Recipe
    from rlaif.pipeline.run import run


__all__ = [
    "DPOConfig",
    "EvaluationResult",
    "LabelingSummary",
    "LoraConfig",
    "PPOConfig",
    "Preference",
    "Prompt",
    "ReSTConfig",
    "Recipe",
    "RefusedError",
    "RevisionSummary",
    "RewardConfig",
    "SFTConfig",
    "SFTSource",
    "Sample",
    "SamplingConfig",
    "Update",
    "UserError",
    "__version__",
    "adopt_failures",
    "check_regressions",
    "evaluate",
    "label",
    "label_shards",
    "merge_adapter",
    "prepare_corpus",
    "red_team",
    "revise",
    "revise_shards",
    "run",
    "sample",
    "sample_shards",
    "score",
    "score_shards",
    "split_shards",
    "train_dpo",
    "train_ppo",
    "train_rest",
    "train_reward",
    "train_sft",
    "update_labels",
]

_HOMES = {
    "constitution.errors": {"UserError"},
    "rlaif.algorithms.dpo.config": {"DPOConfig"},
    "rlaif.algorithms.ppo.config": {"PPOConfig"},
    "rlaif.algorithms.rest.config": {"ReSTConfig"},
    "rlaif.algorithms.reward.config": {"RewardConfig"},
    "rlaif.algorithms.sft.config": {"SFTConfig"},
    "rlaif.algorithms.sft.sources": {"SFTSource"},
    "rlaif.api.corpus.prepare": {"prepare_corpus"},
    "rlaif.api.judging": {"evaluate"},
    "rlaif.api.labeling": {"label", "update_labels"},
    "rlaif.api.pairs": {"train_dpo", "train_reward", "train_sft"},
    "rlaif.api.problems": {"RefusedError"},
    "rlaif.api.redteam.attacking": {"red_team"},
    "rlaif.api.redteam.regressions": {"adopt_failures", "check_regressions"},
    "rlaif.api.revising": {"revise"},
    "rlaif.api.rollouts": {"train_ppo", "train_rest"},
    "rlaif.api.sampling": {"merge_adapter", "sample", "score"},
    "rlaif.api.sharded": {
        "label_shards",
        "revise_shards",
        "sample_shards",
        "score_shards",
        "split_shards",
    },
    "rlaif.data.records": {"Preference", "Prompt", "Sample"},
    "rlaif.evaluation.policies": {"EvaluationResult"},
    "rlaif.feedback.counts": {"LabelingSummary"},
    "rlaif.feedback.revisions.summary": {"RevisionSummary"},
    "rlaif.generation.config": {"SamplingConfig"},
    "rlaif.labels.update": {"Update"},
    "rlaif.models.lora_config": {"LoraConfig"},
    "rlaif.pipeline.recipe": {"Recipe"},
    "rlaif.pipeline.run": {"run"},
}
"""The module of each public name."""

__version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    """Of the installed package; "0+checkout" where it was never installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("rlaif")
    except PackageNotFoundError:
        return "0+checkout"
