"""Experiment trackers besides metrics.jsonl: TensorBoard and Weights & Biases, through accelerate.

    trackers=[tensorboard]     OUT/tensorboard: `tensorboard --logdir OUT`
    trackers=[wandb]           project "rlaif"; WANDB_MODE=offline keeps it on this machine

A resumed run continues the same curves: TensorBoard discards the values of the repeated steps, W&B
resumes the run of the same folder and inputs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from constitution.errors import UserError, install_hint

TrackerName = Literal["tensorboard", "wandb"]
PROJECT = "rlaif"


class TrackerError(UserError):
    """A tracker that is not installed or cannot be reached; the message has the remedy."""


class Trackers:
    """The trackers of one run, in its main process; opened when the first step is logged.

    out: the run's folder. inputs: shown as the run's settings. Raises TrackerError for a package
    that is not installed.
    """

    def __init__(self, names: Sequence[TrackerName], out: Path, inputs: Mapping[str, Any]) -> None:
        require_trackers(names)
        self._names, self._out, self._inputs = names, out, inputs
        self._open: list[Any] = []

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Log the numeric metrics of a step. Raises TrackerError when a tracker cannot start."""
        if self._names and not self._open:
            self._open = [self._start(name, step) for name in self._names]
        numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
        for tracker in self._open:
            tracker.log(numbers, step=step)

    def finish(self) -> None:
        """Flush and close the trackers; may be called again."""
        for tracker in self._open:
            tracker.finish()
        self._open = []

    def _start(self, name: TrackerName, step: int) -> Any:
        from accelerate.tracking import TensorBoardTracker, WandBTracker

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of their packages, not of this run
                if name == "tensorboard":
                    tracker = TensorBoardTracker("tensorboard", str(self._out), purge_step=step)
                else:
                    tracker = WandBTracker(PROJECT, **self._wandb_run())
                tracker.start()
                tracker.store_init_configuration(flat(self._inputs))
        except Exception as error:
            remedy = "log in (`wandb login`) or set WANDB_MODE=offline" if name == "wandb" else (
                f"check that {self._out} is writable"
            )  # fmt: skip
            raise TrackerError(f"trackers: {name} cannot be started ({error}); {remedy}") from error
        return tracker

    def _wandb_run(self) -> dict[str, Any]:
        identity = json.dumps([str(self._out.resolve()), dict(self._inputs)], sort_keys=True)
        return {
            "name": f"{self._inputs.get('algorithm', 'run')} {self._out.name}",
            "id": hashlib.sha256(identity.encode()).hexdigest()[:16],
            "resume": "allow",
            "dir": str(self._out),
        }


def require_trackers(names: Sequence[TrackerName]) -> None:
    """Raises TrackerError for the first that is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise TrackerError(
                f"trackers: {name} is not installed; {install_hint('track')}, or remove it from "
                "trackers: metrics.jsonl is always written"
            )


def flat(inputs: Mapping[str, Any], prefix: str = "") -> dict[str, str | float | None]:
    """Flatten nested settings to dotted names with plain values, as trackers require."""
    flattened: dict[str, str | float | None] = {}
    for name, value in inputs.items():
        if isinstance(value, Mapping):
            flattened |= flat(value, f"{prefix}{name}.")
        elif value is None or isinstance(value, str | int | float):
            flattened[prefix + name] = value
        else:
            flattened[prefix + name] = json.dumps(value)
    return flattened
