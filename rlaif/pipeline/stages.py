"""A recipe's stages, in one folder; each is skipped when its inputs did not change.

    models ─ sample ─ label ─┬─ sft ┄┐               (start: sft: the others begin from its model)
                             ├─ reward ─┬─ ppo ─┐
                             │          └─ rest ┤
                             └─ dpo ────────────┴─ respond ─ evaluate      (then the report)

All policies, SFT included, answer the same held-out prompts and are compared with the policy that
the recipe names, whatever they began from.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from rlaif.evaluation.policies import EvaluationResult
from rlaif.feedback.labeler import SUMMARY
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.machine_fit import fit_to_machine, kept_size
from rlaif.pipeline.recipe import Recipe
from rlaif.pipeline.runner import Stage, content_digest, input_digest, is_finished, run_stages
from rlaif.report.tables import print_table


def run(recipe: Recipe, run_dir: Path, console: Console) -> None:
    """Run the stages that are not finished, and print the result."""
    recipe = _counted(recipe, run_dir)
    work = RunContext(fit_to_machine(recipe, run_dir, console), run_dir)
    stages = stages_of(work)
    _say_split(work, console)
    run_stages(stages, run_dir, console)
    work.report()
    found = EvaluationResult.load(run_dir / "evaluation" / "evaluation.json")
    print_table(found, console)
    console.print(_sizes(work), highlight=False, soft_wrap=True)
    console.print(f"report: {run_dir / 'report.html'}", highlight=False, soft_wrap=True)


def _counted(recipe: Recipe, run_dir: Path) -> Recipe:
    """The recipe with as many prompts as there are: a file may hold fewer than it takes at most."""
    work = RunContext(recipe, run_dir)
    return recipe.model_copy(
        update={
            "train_prompts": len(work.prompts("train")),
            "heldout_prompts": len(work.prompts("heldout")),
        }
    )


def _sizes(work: RunContext) -> str:
    """How much the table rests on, and who judged."""
    labels = json.loads((work.labels.parent / SUMMARY).read_text(encoding="utf-8"))["judged"]
    heldout = len(work.prompts("heldout"))
    return (
        f"{labels} labels of {work.recipe.judge}, which also judged the policies on {heldout} "
        "held-out prompts"
    )


def dry_run(recipe: Recipe, run_dir: Path, console: Console) -> None:
    """Say what `run` would do. Nothing is loaded, fetched or written."""
    recipe = _counted(recipe, run_dir)
    work = RunContext(kept_size(recipe, run_dir), run_dir)
    if recipe.fit is not None and work.recipe is recipe:
        console.print(
            f"at its start a run measures the machine; where it would take more than "
            f"{recipe.fit.minutes:g} min, it takes fewer prompts: never under "
            f"{recipe.fit.train_prompts} to train on and {recipe.fit.heldout_prompts} held out",
            style="dim", soft_wrap=True,
        )  # fmt: skip
    stages = stages_of(work)
    _say_split(work, console)
    waiting = False  # an unfinished stage before: what follows cannot be known to be finished
    for place, stage in enumerate(stages, start=1):
        waiting = waiting or not is_finished(stage, run_dir, input_digest(stage))
        state = f"about {stage.minutes:g} min" if waiting else "finished, would be skipped"
        console.print(
            f"{place}/{len(stages)} [bold]{stage.name}[/bold]  {stage.does}  [dim]{state}[/dim]"
        )


def _say_split(work: RunContext, console: Console) -> None:
    console.print(work.prompt_set.describe(), style="dim", markup=False, soft_wrap=True)


def stages_of(work: RunContext) -> list[Stage]:
    """All stages of a recipe, in order."""
    return [*_labeling(work), *_training(work), *_evaluating(work)]


def _labeling(work: RunContext) -> list[Stage]:
    r, law = work.recipe, work.constitution
    train = work.prompts("train")
    return [
        _stage(
            work,
            "models",
            "models",
            f"fetching {r.policy} and {r.judge} where they lack",
            lambda: [r.policy, r.judge],
            work.fetch,
            computes=False,
        ),
        _stage(
            work,
            "sample",
            "samples",
            f"{r.policy} answers {len(train)} prompts, {r.sample.n} times each",
            lambda: [r.policy, r.sample, train],
            work.draw,
        ),
        _stage(
            work,
            "label",
            "labels",
            f"{r.judge} compares the answers by constitution {law.name} {law.version}",
            lambda: [*_judge(work), r.label, content_digest(work.samples)],
            work.judge,
            keeps_its_own=True,
        ),
    ]


def _training(work: RunContext) -> list[Stage]:
    r = work.recipe
    train = work.prompts("train")
    found = []
    if r.sft is not None:
        found.append(
            _stage(
                work,
                "sft",
                "sft",
                "training the policy to imitate the chosen responses",
                lambda: [
                    [r.policy, r.start, r.sft, work.heldout_share(r.sft)],
                    content_digest(work.labels),
                ],
                work.train_sft,
            )
        )
    found += [
        _stage(
            work,
            "reward",
            "reward",
            "training the reward model on the soft labels",
            lambda: [
                [_start(work), r.reward, r.reward_heldout, work.constitution.trait_weights],
                content_digest(work.labels),
            ],
            work.train_reward,
        ),
        _stage(
            work,
            "dpo",
            "dpo",
            "training the policy directly on the labels",
            lambda: [
                [_start(work), r.dpo, work.heldout_share(r.dpo)],
                content_digest(work.labels),
            ],
            work.train_dpo,
        ),
        _stage(
            work,
            "ppo",
            "ppo",
            "training the policy against the reward model",
            lambda: [_start(work), r.ppo, train, folder_digest(work.reward), _guard(work)],
            work.train_ppo,
        ),
    ]
    if r.rest is not None:
        found.append(
            _stage(
                work,
                "rest",
                "rest",
                "training the policy on the responses that the reward model likes best",
                lambda: [_start(work), r.rest, train, folder_digest(work.reward)],
                work.train_rest,
            )
        )
    return found


def _evaluating(work: RunContext) -> list[Stage]:
    r = work.recipe
    heldout = work.prompts("heldout")
    names = ", ".join(work.policies)
    return [
        _stage(
            work,
            "respond",
            "responses",
            f"start, {names} answer {len(heldout)} held-out prompts",
            lambda: [
                [r.policy, r.start, r.respond, heldout],
                *map(folder_digest, work.policies.values()),
            ],
            work.respond,
        ),
        _stage(
            work,
            "evaluate",
            "evaluation",
            f"{r.judge} compares {names} with the start",
            lambda: [
                [*_judge(work), r.evaluate],
                *map(folder_digest, (work.folder / "responses", work.reward)),
            ],
            work.evaluate,
            keeps_its_own=True,
        ),
    ]


def _stage(
    work: RunContext,
    name: str,
    folder: str,
    does: str,
    inputs: Callable[[], Any],
    run: Callable[[], None],
    *,
    keeps_its_own: bool = False,
    computes: bool = True,
) -> Stage:
    minutes = work.recipe.minutes.get(name, 0.0)
    return Stage(name, does, work.folder / folder, inputs, run, minutes, keeps_its_own, computes)


# ── what outcomes depend on ──────────────────────────────────────────────────────────────────


def _judge(work: RunContext) -> list[Any]:
    r = work.recipe
    return [r.judge, r.judge_dtype, r.judge_flags, work.constitution.digest]


def _start(work: RunContext) -> Any:
    """The model that training begins from."""
    return work.recipe.policy if work.recipe.start == "policy" else folder_digest(work.sft)


def _guard(work: RunContext) -> Any:
    """What the judging of PPO underway depends on; None without it."""
    if not work.judges_ppo:
        return None
    return [*_judge(work), work.recipe.evaluate, content_digest(work.samples)]


def folder_digest(folder: Path) -> dict[str, str]:
    """sha256 of every file a stage left, checkpoints aside."""
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and "checkpoints" not in f.parts]
    return {str(f.relative_to(folder)): content_digest(f)[f.name] for f in files}
