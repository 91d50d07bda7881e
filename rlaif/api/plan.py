"""A training that was checked and not yet started."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from constitution.errors import UserError
from rlaif.api.inputs import Pathlike, config_of
from rlaif.api.problems import Problems, refuse
from rlaif.batching.unusable import BatchError, require_response
from rlaif.data.files import as_path
from rlaif.models import catalog
from rlaif.training.config import TrainConfig
from rlaif.training.preflight import require_context_of, require_folder, require_packages
from rlaif.training.trackers import require_trackers

ConfigT = TypeVar("ConfigT", bound=TrainConfig)

_SHOWN = 3  # names in a message


@dataclass(frozen=True, slots=True)
class Examined:
    """What encoding every record with the model's tokenizer found (encoding.py).

    notes: what the run would say of its records. counts, steps: of what can be used; none where
    that changes nothing. unchecked: why records were not encoded, "" where they were.
    """

    problems: Sequence[UserError] = ()
    notes: Sequence[str] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    steps: int | None = None
    unchecked: str = ""


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What a training would do, and everything that would be refused.

    config: None where the settings are refused. counts: the records to train on, by what they are.
    steps, unit: how long it would be, None where that is not known. train: loads the model and
    trains. notes: what the run would say of its records, and of those that are left out. examine:
    encodes every record, for a dry run; unchecked: why that did not happen, None before.
    """

    config: TrainConfig | None
    out: Path
    counts: Mapping[str, int]
    steps: int | None
    unit: str
    problems: Sequence[UserError]
    train: Callable[[], Path]
    notes: Sequence[str] = ()
    examine: Callable[[], Examined] = Examined
    unchecked: str | None = None

    def examined(self) -> TrainingPlan:
        """The plan after every record was encoded with the model's own tokenizer and chat template:
        also with the records that the run would refuse. Imports transformers and torch."""
        found = self.examine()
        return replace(
            self,
            problems=[*self.problems, *found.problems],
            notes=[*self.notes, *found.notes],
            counts={**self.counts, **found.counts},
            steps=self.steps if found.steps is None else found.steps,
            unchecked=found.unchecked,
        )

    def run(self) -> Path:
        """Train, and return the folder. Raises the problem, or RefusedError for several."""
        refuse(self.problems)
        return self.train()


@dataclass(slots=True)
class Checks(Generic[ConfigT]):
    """What all trainings check first; more problems are added to `problems`."""

    config: ConfigT | None
    model: str | None  # the folder or hub id to load
    out: Path
    problems: Problems


def check(
    kind: type[ConfigT],
    config: ConfigT | Sequence[str] | None,
    settings: Mapping[str, Any],
    model: Pathlike,
    out: Pathlike,
) -> Checks[ConfigT]:
    """Settings, model, output folder and installed packages."""
    problems = Problems()
    folder = problems.attempt(as_path, out, "out") or Path()
    found = problems.attempt(lambda: config_of(kind, config, settings))
    name = problems.attempt(catalog.resolve, model)
    problems.attempt(require_folder, folder)
    problems.attempt(require_packages)
    if found is not None:
        problems.attempt(require_trackers, found.trackers)
        if name is not None:
            problems.attempt(require_context_of, name, found.max_tokens)
    return Checks(found, name, folder, problems)


def require_responses(responses: Iterable[tuple[str, str]], config: TrainConfig) -> None:
    """Raises BatchError naming the records, (name, response) each, whose response is empty.

    With unusable=skip only where no other is left. Records that are too long show later, or in a
    dry run (encoding.py): to count tokens takes the model's tokenizer.
    """
    refused: list[str] = []
    total = 0
    for name, response in responses:
        total += 1
        try:
            require_response(name, response)
        except BatchError:
            refused.append(name)
    if not refused or (config.unusable == "skip" and len(refused) < total):
        return
    shown = ", ".join(refused[:_SHOWN]) + (", ..." if len(refused) > _SHOWN else "")
    remedy = (
        "give others" if config.unusable == "skip" else "drop these records, or set unusable=skip"
    )
    raise BatchError(f"{len(refused)} of {total} responses are empty: {shown}; {remedy}")


def steps_over(records: int, batch_size: int, epochs: int) -> int:
    """Optimizer steps of `epochs` passes, each with a last batch that may be smaller."""
    return epochs * -(-records // batch_size)
