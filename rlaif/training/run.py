"""The folder of a training run: checkpoints, exact resume, metrics.

    metrics.jsonl                 one object per step; "alarms" names the active ones (alarms.py),
                                  run_seconds and run_tokens are what the run has spent so far
    checkpoints/step-000040.pt    all that the next step depends on; whole or absent
    checkpoints/best.pt           the one saved with the highest score so far
    checkpoints/spent.json        seconds that work outside of checkpoints took, for the budget

Called again with the same inputs, training resumes after the newest readable checkpoint, bit for
bit as if never interrupted (on a CPU, with the same number of threads and processes).
Under `accelerate launch` all processes call the same methods; the main one writes (processes.py).
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel

from rlaif.data.records import atomic_open, write_json
from rlaif.distributed.processes import ProcessGroup
from rlaif.models.backbone import Backbone
from rlaif.training import alarms
from rlaif.training.checkpoints import (
    differences,
    link,
    random_states,
    read,
    score_of,
    set_random_states,
    write,
)
from rlaif.training.checks import reset_peak_memory
from rlaif.training.config import HOUSEKEEPING, TrainConfig, TrainingError
from rlaif.training.trackers import Trackers

BEST = "best.pt"
SPENT = "spent.json"
LONG_HISTORY = 256  # steps; alarms.shortened leaves fewer

Step = TypeVar("Step")


class Run:
    """The folder of one training run: its checkpoints, its metrics and its budget.

    The budget (budget_seconds, budget_tokens) counts from here, over all resumes. It ends
    training with the step in which it is spent.

    inputs: all that the outcome depends on, as JSON values under readable names; a run resumes only
    with equal inputs. All processes must call every method; the main one writes and prints, and the
    others wait for it. Raises TrainingError when the folder cannot be created, and TrackerError for
    a tracker that is not installed.
    """

    def __init__(
        self, out: Path, inputs: Mapping[str, Any], config: TrainConfig, workers: ProcessGroup
    ) -> None:
        self.out = out
        self.folder = out / "checkpoints"
        self.inputs: dict[str, Any] = json.loads(json.dumps(inputs))
        self.config, self.workers = config, workers
        self._best_score: float | None = None
        self._history: list[dict[str, Any]] = []  # the metrics that alarms watch, by step
        self._began = time.monotonic()
        self._seconds_before = 0.0  # those of the run before this process
        self._tokens, self._steps = 0.0, 0
        reset_peak_memory()
        with workers.raise_together():
            if workers.is_main:
                _make_folder(self.folder)
                self._trackers = Trackers(config.trackers, out, self.inputs)

    def resume(self) -> dict[str, Any] | None:
        """State of the newest readable checkpoint, or else of the best; None to start from scratch.

        Cuts the metrics back to its step, and restores random generators (of a fresh run with
        lora.dropout they are seeded, apart for each process). With resume=never it
        deletes the folder's checkpoints and metrics first. Raises TrainingError when the checkpoint
        was made from other inputs, or processes see different checkpoints.
        """
        start_anew = self.config.resume == "never"
        path, state = (None, None) if start_anew else self._newest()
        step = state["step"] if state else 0
        if state is not None:
            spent = state.get("spent", {"seconds": 0.0, "tokens": 0.0})  # earlier versions had none
            self._seconds_before, self._tokens = spent["seconds"], spent["tokens"]
            self._steps = step
        if not start_anew:
            self._seconds_before = max(self._seconds_before, self._kept_seconds())
        if self.workers.gather([step]) != [step] * self.workers.count:
            raise TrainingError(
                f"{self.folder}: the processes see different checkpoints; give a folder on a disk "
                "that all hosts share"
            )
        with self.workers.raise_together():
            if state is not None:
                self._require_same_inputs(state["inputs"])
                set_random_states(state["random"][self.workers.rank % len(state["random"])])
            elif self.config.lora is not None and self.config.lora.dropout:
                torch.manual_seed(self.config.seed * 1_000_003 + self.workers.rank)  # masks
            if self.workers.is_main:
                if start_anew:
                    for old in [*self.folder.glob("*.pt"), self.folder / SPENT]:
                        old.unlink(missing_ok=True)
                self._best_score = self._saved_best_score()
                if path is not None and state is not None:  # killed between its save and best.pt's
                    self._keep_if_best(path, state["score"])
                self._cut_metrics(step)
        return state

    def within_budget(self, steps: Sequence[Step], done: int = 0) -> Iterator[Step]:
        """The steps after the first `done`, as long as the budget lasts; each reports its tokens by
        `spend`. Collective. Raises TrainingError where it is spent before the run's first step."""
        for place in range(done, len(steps)):
            if spent := self.spent_budget():
                if not self._steps:
                    self.keep_spent()  # what was prepared is kept, too
                    limit = getattr(self.config, spent)
                    raise TrainingError(
                        f"{spent}={limit:g} is spent before the first step (after "
                        f"{self._seconds():.1f} s and {self._tokens:.0f} tokens); raise it"
                    )
                return
            yield steps[place]

    def spend(self, tokens: float) -> bool:
        """Count a step and its tokens, of all processes; whether training ends with it because a
        budget is spent. Collective."""
        self.count(tokens)
        self._steps += 1
        spent = self.spent_budget()
        if spent and self.workers.is_main:
            limit = getattr(self.config, spent)
            print(f"{spent}={limit:g} is spent: training ends with this step", file=sys.stderr)
        return bool(spent)

    def count(self, tokens: float) -> None:
        """Count tokens that belong to no single step."""
        self._tokens += tokens

    def keep_spent(self) -> None:
        """Save the seconds so far, after work that is kept outside of checkpoints, such as sampled
        responses: a resumed run has to pay for it, too. Collective."""
        seconds = self._seconds()
        with self.workers.raise_together():
            if self.workers.is_main:
                write_json(self.folder / SPENT, {"seconds": seconds})

    def _kept_seconds(self) -> float:
        try:
            return float(json.loads((self.folder / SPENT).read_text())["seconds"])
        except (OSError, ValueError, KeyError, TypeError):  # none, or cut off by a power failure
            return 0.0

    def spent_budget(self) -> str:
        """The name of the setting whose budget is spent; "" where none is. Collective."""
        spent = {"budget_seconds": self._seconds(), "budget_tokens": self._tokens}
        limits = {name: getattr(self.config, name) for name in spent}
        return next((n for n, most in limits.items() if most and spent[n] >= most), "")

    def _seconds(self) -> float:
        """The run's time so far, over all resumes, of the process with most: all have to agree."""
        return self._seconds_before + self.workers.max(time.monotonic() - self._began)

    def _saved_best_score(self) -> float | None:
        path = self.folder / BEST
        if not path.exists():
            return None
        score = score_of(path)
        if score is None:
            print(f"{path}: not readable; the next score takes its place", file=sys.stderr)
        return score

    def _newest(self) -> tuple[Path, dict[str, Any]] | tuple[None, None]:
        for path in [*sorted(self.folder.glob("step-*.pt"), reverse=True), self.folder / BEST]:
            try:
                if path.exists():
                    return path, read(path, self.workers.sharded)
            except Exception as error:
                if self.workers.is_main:
                    print(f"{path}: not readable, trying the one before ({error})", file=sys.stderr)
        return None, None

    def _require_same_inputs(self, saved: Mapping[str, Any]) -> None:
        changed = differences(saved, self.inputs)
        if changed:
            raise TrainingError(
                f"{self.folder}: its checkpoints come from another run ({', '.join(changed)} "
                "differ); choose another output folder, or set resume=never to start this one anew"
            )

    def best(self) -> dict[str, Any] | None:
        """The saved state with the highest score so far; None before any score.

        A damaged file raises as `checkpoints.read`.
        """
        path = self.folder / BEST
        return read(path, self.workers.sharded) if path.exists() else None

    def save(self, step: int, state: Mapping[str, Any], score: float | None = None) -> None:
        """Write a checkpoint after `step` steps, and delete all but the newest and the best.

        score: higher is better; NaN is never the best. Raises CheckpointError when the write fails;
        earlier checkpoints are kept then.
        """
        states, seconds = self.workers.gather([random_states()]), self._seconds()
        with self.workers.raise_together():
            if self.workers.is_main:
                path = self.folder / f"step-{step:06d}.pt"
                own = {"step": step, "inputs": self.inputs, "random": states, "score": score}
                own["spent"] = {"seconds": seconds, "tokens": self._tokens}
                write(path, {**state, **own})
                self._keep_if_best(path, score)
                for old in sorted(self.folder.glob("step-*.pt"))[: -self.config.keep_checkpoints]:
                    old.unlink()

    def _keep_if_best(self, path: Path, score: float | None) -> None:
        best = -math.inf if self._best_score is None else self._best_score
        if score is not None and score > best:
            link(path, self.folder / BEST)
            self._best_score = score

    def log(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Append a step's metrics to metrics.jsonl, and pass them to the trackers.

        The line names the active alarms; new ones are printed on stderr. Raises TrainingError when
        the file cannot be written.
        """
        spent = {"run_seconds": self._seconds(), "run_tokens": self._tokens}
        with self.workers.raise_together():
            if self.workers.is_main:
                self._write(step, metrics, spent)

    def _write(
        self, step: int, metrics: Mapping[str, float | None], spent: Mapping[str, float]
    ) -> None:
        line: dict[str, Any] = {"step": step, **metrics, **spent}
        before = self._history[-1]["alarms"] if self._history else []
        self._history.append({name: line.get(name) for name in alarms.WATCHED})
        if len(self._history) > LONG_HISTORY:  # so a step costs the same however many came before
            self._history = alarms.shortened(self._history)
        active = alarms.active_alarms(self._history)
        self._history[-1]["alarms"] = [alarm.name for alarm in active]
        if active:
            line["alarms"] = [alarm.name for alarm in active]
        path = self.out / "metrics.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise TrainingError(
                f"{path}: cannot be written ({error.strerror}); free some space and run again "
                "to go on from the last checkpoint"
            ) from error
        self._trackers.log(step, metrics)
        for alarm in active:
            if alarm.name not in before:
                print(f"alarm at step {step}: {alarm.text}", file=sys.stderr)

    def save_policy(self, backbone: Backbone) -> None:
        """Write the role "policy" into the run's folder (`Backbone.save_role`); close the trackers.

        Collective. Raises BackboneError when it cannot be written.
        """
        backbone.gather(self.workers)
        with self.workers.raise_together():
            if self.workers.is_main:
                backbone.save_role("policy", self.out)
        self.finish()

    def finish(self) -> None:
        """Flush and close the trackers; metrics and checkpoints are on disk already."""
        if self.workers.is_main:
            self._trackers.finish()

    def _cut_metrics(self, step: int) -> None:
        """Keep the lines up to `step`, so that no step is in it twice."""
        path = self.out / "metrics.jsonl"
        if not path.is_file():
            return
        kept = [line for line in path.read_text("utf-8").splitlines() if _step_of(line) <= step]
        with atomic_open(path) as file:
            file.writelines(line + "\n" for line in kept)
        for line in map(json.loads, kept):
            watched = {name: line.get(name) for name in alarms.WATCHED}
            self._history.append({**watched, "alarms": line.get("alarms", [])})


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return math.inf  # a line cut off by a kill


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(
            f"{folder}: cannot be created ({error.strerror}); choose another output folder"
        ) from error


def records_digest(records: Iterable[BaseModel]) -> str:
    """sha256 (hex) of records and their order, which identifies a run's data."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(record.model_dump_json().encode() + b"\n")
    return digest.hexdigest()


def run_inputs(
    algorithm: Literal["sft", "reward", "dpo", "ppo", "rest"],
    config: TrainConfig,
    backbone: Backbone,
    records: Iterable[BaseModel],
) -> dict[str, Any]:
    """All that a run's outcome depends on, as JSON values; not the settings in HOUSEKEEPING."""
    return {
        "algorithm": algorithm,
        "config": config.model_dump(mode="json", exclude=HOUSEKEEPING),
        "dtype": str(backbone.dtype),
        "model": backbone.fingerprint,
        "data": records_digest(records),
    }
