"""What `rlaif train … --dry-run` prints: settings, records, steps, and everything refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer
from pydantic import BaseModel
from rich.markup import escape

from rlaif.cli.options import output
from rlaif.settings_rows import ordered_names, shown

if TYPE_CHECKING:
    from rlaif.api.plan import TrainingPlan
    from rlaif.training.config import TrainConfig

_MOST = 20
"""Lines of problems that are printed; the others are counted."""


def show_plan(plan: TrainingPlan) -> None:
    """Print what training would do; exit with code 1 if anything would be refused."""
    console = output()
    for line in _lines(plan):
        console.print(escape(line), highlight=False, soft_wrap=True)
    if plan.problems:
        raise typer.Exit(1)


def _lines(plan: TrainingPlan) -> Iterator[str]:
    if plan.config is not None:
        yield "settings (* differs from its default):"
        yield from settings_in_force(plan.config)
    counts = ", ".join(f"{count} {name}" for name, count in plan.counts.items())
    if plan.problems:
        refused = [line for problem in plan.problems for line in str(problem).splitlines()]
        yield f"would be refused, {len(refused)} {'problem' if len(refused) == 1 else 'problems'}:"
        yield from (f"  {line}" for line in refused[:_MOST])
        if len(refused) > _MOST:
            yield f"  … and {len(refused) - _MOST} more"
        yield from filter(None, [plan.unchecked])
        return
    yield from plan.notes
    yield from filter(None, [plan.unchecked])
    checked = plan.unchecked == ""
    yield f"{counts}; {plan.steps} {plan.unit}{'' if checked else ' if every record can be used'}"
    yield _start(plan)


def _start(plan: TrainingPlan) -> str:
    """Where training would begin, from the folder alone."""
    from rlaif.training.preflight import steps_in

    saved = steps_in(plan.out / "checkpoints")
    if not saved:
        return f"{plan.out}: no checkpoint; would start"
    if plan.config is not None and plan.config.resume == "never":
        return f"{plan.out}: would start anew and remove its {len(saved)} checkpoints"
    return f"{plan.out}: would continue after step {saved[-1]}, if its inputs are the same"


def settings_in_force(config: TrainConfig) -> list[str]:
    """One line per setting as it is typed, `* ` before those that differ from their default."""
    rows = list(_rows(config, type(config)))
    return [f"{'*' if changed else ' '} {key}={value}" for key, value, changed in rows]


def _rows(
    config: BaseModel, kind: type[BaseModel], prefix: str = ""
) -> Iterator[tuple[str, str, bool]]:
    """(key, value, whether it differs) of every setting, nested ones with dots."""
    for name in ordered_names(kind):
        field, value = kind.model_fields[name], getattr(config, name)
        if isinstance(value, BaseModel):
            yield from _rows(value, type(value), f"{prefix}{name}.")
            continue
        if field.is_required():
            default = None
        else:  # which may depend on the other settings
            settings = dict(config)
            default = field.get_default(call_default_factory=True, validated_data=settings)
        yield f"{prefix}{name}", shown(value), field.is_required() or value != default
