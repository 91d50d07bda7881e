"""Runs a comparison, or says what it would do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from constitution.errors import UserError
from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.ppo.config import PPOConfig
from rlaif.algorithms.rest.config import ReSTConfig
from rlaif.feedback.pairs import reads_of
from rlaif.pipeline import run as pipeline
from rlaif.pipeline.comparing.arms import ARMS, describe
from rlaif.pipeline.comparing.plan import (
    EVALUATION,
    RESPONSES,
    ComparisonPlan,
    ComparisonRequest,
    comparison_plan,
)
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.graph import Graph, build_graph
from rlaif.pipeline.kinds.label import LabelStage
from rlaif.pipeline.recipe import Recipe
from rlaif.pipeline.runner import RunError


class ComparisonError(UserError):
    """A comparison that cannot be made: why, and what to do."""


def compare(recipe: Recipe, request: ComparisonRequest, folder: Path, console: Console) -> None:
    """Run the comparison in a folder and print what came out. Killed, it goes on when called again.

    A training that fails is left out, with its reason beside the results. Raises RecipeError and
    ComparisonError before anything runs, and RunError where what all arms share failed, or all
    trainings.
    """
    plan = comparison_plan(recipe, request)
    require_budget(plan, request, folder)
    for line in notes(plan, request):
        console.print(line, style="dim", markup=False, soft_wrap=True)
    try:
        pipeline.run(plan.recipe, folder, console)
    except RunError as error:
        trainings = {policy for own in plan.policies.values() for policy in own}
        failed = {name: reason for name, reason in error.failed.items() if name in trainings}
        if not failed or set(failed) != set(error.failed) or set(failed) == trainings:
            raise
        console.print(
            f"going on without {', '.join(failed)}; run again to try them once more",
            markup=False, soft_wrap=True,
        )  # fmt: skip
        rest = comparison_plan(recipe, replace(request, left_out=failed))
        pipeline.run(rest.recipe, folder, console)


def dry_run(recipe: Recipe, request: ComparisonRequest, folder: Path, console: Console) -> None:
    """Print what `compare` would do, with reads, trainings and minutes. Nothing is loaded or
    written. Raises as `compare` does before anything runs."""
    plan = comparison_plan(recipe, request)
    require_budget(plan, request, folder)
    pipeline.dry_run(plan.recipe, folder, console)
    for line in [*notes(plan, request), *_reads(plan, request, folder), _time(plan, request)]:
        console.print(escape(line), highlight=False, soft_wrap=True)


def notes(plan: ComparisonPlan, request: ComparisonRequest) -> list[str]:
    """What is compared, from which start, with whose settings."""
    lines = [f"{describe(request.arms, request.seeds)}, from {plan.start}, {_seeds(request.seeds)}"]
    for name, stage in plan.settings.items():
        given = f"settings of the recipe's {stage}" if stage else "default settings"
        more = ", ".join(f"{key}={value}" for key, value in ARMS[name].settings.items())
        lines.append(f"  {name}: {given}{f', {more}' if more else ''}")
    if request.budget.of_training:
        limits = ", ".join(f"{key}={value:g}" for key, value in request.budget.of_training.items())
        lines.append(f"  each training: {limits}; labels and reward model are outside of it")
    return lines


def _seeds(seeds: int) -> str:
    if seeds == 1:
        return "one seed: intervals will say nothing about another one"
    return f"seeds 0 to {seeds - 1}"


# ── budgets that are too small ───────────────────────────────────────────────────────────────


def require_budget(plan: ComparisonPlan, request: ComparisonRequest, folder: Path) -> None:
    """Raises ComparisonError for a budget that certainly does not pay for one label, or for one
    step of an arm: the tokens of a step are at least two for each of its rows."""
    graph, context = build_graph(plan.recipe, folder), RunContext(plan.recipe, folder)
    problems = []
    budget = request.budget
    if budget.reads is not None:
        least = min(_label_reads(graph, context, plan.labels), default=0)
        if budget.reads < 2 * least:
            problems.append(
                f"--budget reads={budget.reads}: a pair takes {least} reads, and training needs "
                f"two pairs; give at least {2 * least}"
            )
    if budget.tokens is not None:
        for name, policies in plan.policies.items():
            least = _least_tokens(graph[policies[0]].settings, context) if ARMS[name].trains else 0
            if budget.tokens < least:
                problems.append(
                    f"--budget tokens={budget.tokens:g}: the first step of {name} takes at least "
                    f"{least}; raise it, or leave {name} out"
                )
    if problems:
        raise ComparisonError("\n".join(problems))


def _label_reads(graph: Graph, context: RunContext, labels: str) -> list[int]:
    """The reads of one pair for each training prompt."""
    if not labels:
        return []
    stage = graph[labels]
    assert isinstance(stage, LabelStage)
    principles = context.constitution(stage.options.constitution).principles
    sampled = stage.settings.sample_principles
    return [reads_of(p.messages, principles, sampled) for p in context.prompts("train")]


def _least_tokens(config: Any, context: RunContext) -> int:
    """Tokens that are certainly spent at the end of the first step."""
    if isinstance(config, PPOConfig):
        return config.responses * (1 + 2 * config.epochs)
    if isinstance(config, ReSTConfig):
        return (context.count("train") or 0) * config.samples_per_prompt
    responses = 2 if isinstance(config, DPOConfig) else 1
    return 2 * int(getattr(config, "batch_size", 1)) * responses


# ── what it would cost ───────────────────────────────────────────────────────────────────────


def _reads(plan: ComparisonPlan, request: ComparisonRequest, folder: Path) -> list[str]:
    """About how many reads the judges will make, at most."""
    graph, context = build_graph(plan.recipe, folder), RunContext(plan.recipe, folder)
    lines = []
    if plan.labels:
        pairs = graph[plan.labels].settings.pairs_per_prompt
        reads = pairs * sum(_label_reads(graph, context, plan.labels))
        limited = min(reads, request.budget.reads or reads)
        cut = f" of {reads:,} without the budget" if limited < reads else ""
        lines.append(f"labels: at most {limited:,} reads{cut}")
    evaluate, answers = graph[EVALUATION], graph[RESPONSES].settings.n
    principles = context.constitution(evaluate.options.constitution).principles
    sampled = evaluate.settings.sample_principles
    each = answers * sum(
        reads_of(p.messages, principles, sampled) for p in context.prompts("heldout")
    )
    policies, judges = sum(map(len, plan.policies.values())), len(evaluate.sources["judges"])
    pairs = len(plan.policies) * (len(plan.policies) - 1) // 2
    lines.append(
        f"evaluation: at most {each * policies * judges:,} reads against the start, and "
        f"{each * pairs * request.seeds:,} head to head"
    )
    return lines


def _time(plan: ComparisonPlan, request: ComparisonRequest) -> str:
    """The minutes in all: measured ones where the recipe has them, and of budgets at most."""
    minutes: Mapping[str, float] = plan.recipe.minutes
    limit = request.budget.seconds
    trainings = [p for name, own in plan.policies.items() if ARMS[name].trains for p in own]
    if limit is not None:
        most = len(trainings) * limit / 60
        return f"trainings: at most {most:.1f} min in all, a step more each; loading not counted"
    if not minutes:
        return "time: not known, since the recipe has no minutes; try --seeds 1 first"
    unknown = [name for name in plan.recipe.stages if name not in minutes]
    without = f", without {', '.join(unknown)}" if unknown else ""
    return f"about {sum(minutes.values()):.0f} min in all as measured for the recipe{without}"
