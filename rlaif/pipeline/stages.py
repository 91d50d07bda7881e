"""A recipe's stages and their order; each is skipped when its inputs did not change.

    models ─ sample ─ label ─┬─ sft ┄┐               (start: sft: the others begin from its model)
                             ├─ reward ─┬─ ppo ─┐
                             │          └─ rest ┤
                             └─ dpo ────────────┴─ respond ─ evaluate      (then the report)

All policies, SFT included, answer the same held-out prompts and are compared with the policy named
in the recipe, whichever model they were trained from.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from rlaif.models import catalog
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.machine_fit import fit_to_machine, kept_size
from rlaif.pipeline.recipe import Recipe
from rlaif.pipeline.runner import Stage, content_digest, input_digest, is_finished, run_stages


def run(recipe: Recipe, run_dir: Path, console: Console) -> None:
    """Run the stages that are not finished, and print the result."""
    from rlaif.evaluation.policies import EvaluationResult
    from rlaif.report.tables import print_table

    _check_models(recipe)
    _check_packages(recipe)
    recipe = _counted(recipe, run_dir)
    context = RunContext(fit_to_machine(recipe, run_dir, console), run_dir)
    stages = stages_of(context)
    _say_split(context, console)
    run_stages(stages, run_dir, console)
    context.report()
    result = EvaluationResult.load(run_dir / "evaluation" / "evaluation.json")
    print_table(result, console)
    console.print(_sizes(context), highlight=False, soft_wrap=True)
    console.print(f"report: {run_dir / 'report.html'}", highlight=False, soft_wrap=True)


def _check_models(recipe: Recipe) -> None:
    """Raises ModelError for a mistyped model before anything is loaded or fetched."""
    served = "--engine" in recipe.judge_flags  # the judge is a name that a model server knows
    for name in (recipe.policy, *(() if served else (recipe.judge,))):
        if name not in catalog.KNOWN:
            catalog.resolve(name)


def _check_packages(recipe: Recipe) -> None:
    """Raises ModuleNotFoundError for a missing extra: a later stage would stop after an hour."""
    needed = ["torch", "transformers", "accelerate", "peft", "datasets", "jinja2", "matplotlib"]
    if "--engine" not in recipe.judge_flags:
        needed.append("vllm")
    for name in needed:
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _counted(recipe: Recipe, run_dir: Path) -> Recipe:
    """The recipe with the prompts that exist: a file may hold fewer than the recipe's limits."""
    context = RunContext(recipe, run_dir)
    return recipe.model_copy(
        update={
            "train_prompts": len(context.prompts("train")),
            "heldout_prompts": len(context.prompts("heldout")),
        }
    )


def _sizes(context: RunContext) -> str:
    """How many labels and prompts the result table is based on, and which judge."""
    from rlaif.feedback.labeler import SUMMARY

    labels = json.loads((context.labels.parent / SUMMARY).read_text(encoding="utf-8"))["judged"]
    heldout = len(context.prompts("heldout"))
    return (
        f"{labels} labels of {context.recipe.judge}, which also judged the policies on {heldout} "
        "held-out prompts"
    )


def dry_run(recipe: Recipe, run_dir: Path, console: Console) -> None:
    """Print what `run` would do. Nothing is loaded, fetched or written."""
    _check_models(recipe)
    recipe = _counted(recipe, run_dir)
    context = RunContext(kept_size(recipe, run_dir), run_dir)
    if recipe.fit is not None and context.recipe is recipe:
        console.print(
            f"a run measures the machine when it starts; if it would take more than "
            f"{recipe.fit.minutes:g} min, it uses fewer prompts, but at least "
            f"{recipe.fit.train_prompts} for training and {recipe.fit.heldout_prompts} held out",
            style="dim", soft_wrap=True,
        )  # fmt: skip
    stages = stages_of(context)
    _say_split(context, console)
    waiting = False  # after an unfinished stage, later ones cannot be known to be finished
    for place, stage in enumerate(stages, start=1):
        waiting = waiting or not is_finished(stage, run_dir, input_digest(stage))
        state = f"about {stage.minutes:g} min" if waiting else "finished, would be skipped"
        console.print(
            f"{place}/{len(stages)} [bold]{stage.name}[/bold]  {stage.does}  [dim]{state}[/dim]"
        )


def _say_split(context: RunContext, console: Console) -> None:
    console.print(context.prompt_set.describe(), style="dim", markup=False, soft_wrap=True)


def stages_of(context: RunContext) -> list[Stage]:
    """All stages of a recipe, in order."""
    return [*_labeling(context), *_training(context), *_evaluating(context)]


def _labeling(context: RunContext) -> list[Stage]:
    r, constitution = context.recipe, context.constitution
    train = context.prompts("train")
    return [
        _stage(
            context,
            "models",
            "models",
            f"fetching {r.policy} and {r.judge} unless they are here",
            lambda: [r.policy, r.judge],
            context.fetch,
            computes=False,
        ),
        _stage(
            context,
            "sample",
            "samples",
            f"{r.policy} answers {len(train)} prompts, {r.sample.n} times each",
            lambda: [r.policy, r.sample, train],
            context.draw,
        ),
        _stage(
            context,
            "label",
            "labels",
            f"{r.judge} compares the answers by constitution "
            f"{constitution.name} {constitution.version}",
            lambda: [*_judge(context), r.label, content_digest(context.samples)],
            context.judge,
            keeps_its_own=True,
        ),
    ]


def _training(context: RunContext) -> list[Stage]:
    r = context.recipe
    train = context.prompts("train")
    stages = []
    if r.sft is not None:
        stages.append(
            _stage(
                context,
                "sft",
                "sft",
                "training the policy to imitate the chosen responses",
                lambda: [
                    [r.policy, r.start, r.sft, context.heldout_share(r.sft)],
                    content_digest(context.labels),
                ],
                context.train_sft,
            )
        )
    stages += [
        _stage(
            context,
            "reward",
            "reward",
            "training the reward model on the soft labels",
            lambda: [
                [_start(context), r.reward, r.reward_heldout, context.constitution.trait_weights],
                content_digest(context.labels),
            ],
            context.train_reward,
        ),
        _stage(
            context,
            "dpo",
            "dpo",
            "training the policy directly on the labels",
            lambda: [
                [_start(context), r.dpo, context.heldout_share(r.dpo)],
                content_digest(context.labels),
            ],
            context.train_dpo,
        ),
        _stage(
            context,
            "ppo",
            "ppo",
            "training the policy against the reward model",
            lambda: [_start(context), r.ppo, train, folder_digest(context.reward), _guard(context)],
            context.train_ppo,
        ),
    ]
    if r.rest is not None:
        stages.append(
            _stage(
                context,
                "rest",
                "rest",
                "training the policy on the responses that the reward model scores highest",
                lambda: [_start(context), r.rest, train, folder_digest(context.reward)],
                context.train_rest,
            )
        )
    return stages


def _evaluating(context: RunContext) -> list[Stage]:
    r = context.recipe
    heldout = context.prompts("heldout")
    names = ", ".join(context.policies)
    return [
        _stage(
            context,
            "respond",
            "responses",
            f"start, {names} answer {len(heldout)} held-out prompts",
            lambda: [
                [r.policy, r.start, r.respond, heldout],
                *map(folder_digest, context.policies.values()),
            ],
            context.respond,
        ),
        _stage(
            context,
            "evaluate",
            "evaluation",
            f"{r.judge} compares {names} with the start",
            lambda: [
                [*_judge(context), r.evaluate],
                *map(folder_digest, (context.folder / "responses", context.reward)),
            ],
            context.evaluate,
            keeps_its_own=True,
        ),
    ]


def _stage(
    context: RunContext,
    name: str,
    folder: str,
    does: str,
    inputs: Callable[[], Any],
    run: Callable[[], None],
    *,
    keeps_its_own: bool = False,
    computes: bool = True,
) -> Stage:
    minutes = context.recipe.minutes.get(name, 0.0)
    return Stage(name, does, context.folder / folder, inputs, run, minutes, keeps_its_own, computes)


# ── inputs of stages ────────────────────────────────────────────────────────────────────────


def _judge(context: RunContext) -> list[Any]:
    r = context.recipe
    return [r.judge, r.judge_dtype, r.judge_flags, context.constitution.digest]


def _start(context: RunContext) -> Any:
    """The model that training starts from."""
    return context.recipe.policy if context.recipe.start == "policy" else folder_digest(context.sft)


def _guard(context: RunContext) -> Any:
    """The inputs of judging PPO during training; None without it."""
    if not context.judges_ppo:
        return None
    return [*_judge(context), context.recipe.evaluate, content_digest(context.samples)]


def folder_digest(folder: Path) -> dict[str, str]:
    """sha256 of every file a stage wrote, except checkpoints."""
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and "checkpoints" not in f.parts]
    return {str(f.relative_to(folder)): content_digest(f)[f.name] for f in files}
