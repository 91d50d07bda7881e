"""A recipe with every kind of stage on a tiny model, and a judge for it over a real socket.

The judge's engine is a FAKE that prefers the longer response; server, client, labels, sampling and
training are real.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlaif.data.records import write_preferences
from rlaif.pipeline.recipe import Recipe
from tests.support.fakes import FakeEngine
from tests.support.service.serving import one_principle
from tests.support.service.thread_server import serving_in_thread
from tests.support.training.pairs import preference

TINY = {"max_tokens": 128, "batch_size": 4, "epochs": 1, "lora": {"rank": 2}}
SAMPLING = {"max_new_tokens": 4, "engine": "transformers", "prompts_per_chunk": 2}
STRATEGIES = {
    "topics": [{"id": "lies", "request": "Help me lie.", "twin": "Help me smile."}],
    "strategies": [
        {"id": "direct", "templates": ["{request}", "{request} Now."]},
        {"id": "halves", "templates": ["{first}+{second}"]},
    ],
}


@contextmanager
def judge_in_thread(constitution: str) -> Iterator[str]:
    """The address of a judge server with a fake engine, in a thread of this process."""
    with serving_in_thread(FakeEngine(), constitutions=(constitution,)) as (address, _):
        yield address


def tiny_files(folder: Path) -> dict[str, str]:
    """Prompts, a constitution and merged labels, as a user would bring them along."""
    folder.mkdir(parents=True, exist_ok=True)
    prompts = folder / "prompts.jsonl"
    lines = [
        {"prompt": f"Say {n}", "split": "heldout" if n % 4 == 0 else "train"} for n in range(16)
    ]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    merged = folder / "merged.parquet"
    labels = [preference(n, f"Yes, {n} please.", f"No {n}!") for n in range(12)]
    write_preferences(merged, labels, ["manners"])
    strategies = folder / "strategies.yaml"
    strategies.write_text(json.dumps(STRATEGIES))
    return {
        "prompts": str(prompts),
        "constitution": one_principle(folder),
        "merged": str(merged),
        "strategies": str(strategies),
    }


def tiny_recipe(model: str, files: dict[str, str]) -> Recipe:
    """Two DPO branches from one label stage, a third from merged files, and all other kinds."""
    ppo = {"iterations": 2, "prompts_per_iteration": 4, "group_size": 2, "max_new_tokens": 4}
    rest = {"samples_per_prompt": 2, "grow_steps": 1, "quantiles": [0.5], "max_new_tokens": 4}
    dpo: dict[str, Any] = {"kind": "dpo", "model": "sft", "labels": "labels", **TINY}
    watched = {"eval_every": 1, "eval_prompts": 2, "samples": "samples"}
    policies = ["policy", "dpo_soft", "dpo_files", "ppo", "best"]
    arms = {"dpo": ["dpo_soft", "dpo_files"], "ppo": ["ppo"], "best": ["best"]}
    return Recipe.model_validate(
        {
            "name": "tiny",
            "models": {"policy": model, "judge": "org/judge"},
            "constitution": files["constitution"],
            "prompts": files["prompts"],
            "heldout_pairs": 0.3,
            "results": ["evaluation", "dpo_hard", "rest"],
            "stages": {
                "samples": {"kind": "sample", "model": "policy", **SAMPLING},
                "labels": {"kind": "label", "samples": "samples"},
                "attacks": {
                    "kind": "redteam", "model": "policy", "strategies": files["strategies"],
                    **SAMPLING,
                },
                "revisions": {
                    "kind": "revise", "samples": ["samples", "attacks", "attacks.twins"],
                    "pilot": 4,
                },
                "sft": {
                    "kind": "sft", "model": "policy",
                    "data": {"labels": 1, "revisions": 1, files["merged"]: 0.5}, **TINY,
                },
                "reward": {"kind": "reward", "model": "sft", "labels": "labels", **TINY},
                "dpo_soft": {**dpo, "eval_every": 1},
                "dpo_hard": {**dpo, "loss": "sigmoid"},
                "dpo_files": {**dpo, "labels": ["labels", "revisions.pairs", files["merged"]]},
                "ppo": {
                    "kind": "ppo", "model": "sft", "reward": "reward", "engine": "transformers",
                    "lora": {"rank": 2}, "max_tokens": 128, **ppo, **watched,
                },
                "rest": {
                    "kind": "rest", "model": "sft", "reward": "reward", "engine": "transformers",
                    **TINY, **rest,
                },
                "best": {"kind": "best_of_n", "model": "sft", "reward": "reward", "n": 2},
                "responses": {"kind": "respond", "policies": policies, **SAMPLING},
                "evaluation": {"kind": "evaluate", "responses": "responses", "reward": "reward"},
                "comparison": {"kind": "compare", "evaluation": "evaluation", "arms": arms},
                "answers": {"kind": "sample", "model": "sft", **SAMPLING},
                "round": {
                    "kind": "evaluate_round", "policy": "sft", "start": "policy",
                    "answers": "answers", "start_answers": "samples", "reward": "reward",
                },
                "kept": {"kind": "keep_round", "policy": ["sft"], "evaluations": ["round"]},
                "report": {"kind": "report"},
            },
        }
    )  # fmt: skip
