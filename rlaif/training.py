"""What all trainers share: settings, optimiser, checkpoints, exact resume, metrics. No trainer.

A run is a folder:

    metrics.jsonl                 one object per step
    checkpoints/step-000040.pt    all that the next step depends on; whole or absent

Called again with the same inputs, training goes on after the newest readable checkpoint and gives
the same bits as if it had never stopped (on a CPU, with the same number of threads).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from constitution.errors import UserError
from rlaif.backbone import Backbone, Dtype, LoraConfig
from rlaif.batching import Unusable
from rlaif.records import atomic_open

KEEP = 2  # checkpoints; the older one is there in case the newest cannot be read


class TrainingError(UserError):
    """Training that cannot start or go on: what, at which step, and the remedy."""


class TrainConfig(BaseModel):
    """Settings that every algorithm has. Each algorithm's Config adds its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(default=0, description="of adapters, heads, order and sampling")
    dtype: Dtype = Field(
        default="auto", description="of the frozen base; adapters, heads and losses are float32"
    )
    lora: LoraConfig = LoraConfig()
    learning_rate: float = Field(default=2e-4, gt=0, description="LoRA's usual (arXiv:2305.14314)")
    warmup: float = Field(
        default=0.1, ge=0, le=1, description="share of steps rising; then linear decay to 0"
    )
    max_grad_norm: float = Field(default=1.0, gt=0, description="TRL's and transformers' default")
    micro_batch_size: int = Field(
        default=8, ge=1, description="pairs (PPO: rows) per forward; changes memory, not gradients"
    )
    max_tokens: int = Field(
        default=1024, ge=2, description="prompt and response together; nothing is cut to fit"
    )
    unusable: Unusable = Field(
        default="error", description="a record too long or empty: an error, or skipped and counted"
    )
    checkpoint_every: int = Field(default=10, ge=1, description="optimiser steps (PPO: iterations)")


class Learner:
    """AdamW (no weight decay) over named float32 parameters, with gradient clipping.

    The learning rate is a function of the step alone, so there is no scheduler state to lose.
    """

    def __init__(
        self,
        groups: Sequence[tuple[Mapping[str, Tensor], float]],
        total_steps: int,
        config: TrainConfig,
    ) -> None:
        """groups: (named parameters, peak learning rate) each."""
        self.parameters = {name: p for named, _ in groups for name, p in named.items()}
        self.peaks = [rate for _, rate in groups]
        self.total, self.warmup = total_steps, math.ceil(config.warmup * total_steps)
        self.max_grad_norm = config.max_grad_norm
        self.optimiser = torch.optim.AdamW(
            [{"params": list(named.values()), "lr": rate} for named, rate in groups],
            weight_decay=0.0,
        )

    def schedule(self, step: int) -> float:
        """Set the learning rate of this step, counted from 1; returns the first group's."""
        factor = min(step / max(self.warmup, 1), 1 - (step - 1) / self.total)
        for group, peak in zip(self.optimiser.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        return self.peaks[0] * factor

    def step(self, where: str) -> float:
        """Clip and apply the gathered gradients, and clear them. Returns their norm before."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.max_grad_norm)
        require_finite(norm, "gradient", where)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return float(norm)

    def state(self) -> dict[str, Any]:
        parameters = {name: p.detach().clone() for name, p in self.parameters.items()}
        return {"parameters": parameters, "optimiser": self.optimiser.state_dict()}

    def load(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state["parameters"][name])
        self.optimiser.load_state_dict(state["optimiser"])


class Run:
    """The folder of one training run: its checkpoints and its metrics."""

    def __init__(self, out: Path, inputs: Mapping[str, Any]) -> None:
        """inputs: all that the outcome depends on, as JSON values under readable names."""
        self.out = out
        self.folder = out / "checkpoints"
        self.inputs = {name: _digest(value) for name, value in inputs.items()}
        _made(self.folder)

    def resume(self) -> dict[str, Any] | None:
        """The state of the newest readable checkpoint, with metrics cut back to its step.

        Raises TrainingError when it was made from other inputs.
        """
        found: dict[str, Any] | None = None
        for path in sorted(self.folder.glob("step-*.pt"), reverse=True):
            try:
                found = torch.load(path, weights_only=True, map_location="cpu")
                break
            except Exception as error:
                print(f"{path}: not readable, trying the one before ({error})", file=sys.stderr)
        if found is not None:
            self._require_same_inputs(found["inputs"])
            torch.set_rng_state(found["torch_rng"])
        self._cut_metrics(found["step"] if found else 0)
        return found

    def _require_same_inputs(self, saved: Mapping[str, str]) -> None:
        changed = [n for n in {**saved, **self.inputs} if saved.get(n) != self.inputs.get(n)]
        if changed:
            raise TrainingError(
                f"{self.folder}: its checkpoints come from another run ({', '.join(changed)} "
                "differ); choose another output folder, or delete this one to start anew"
            )

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """A checkpoint after `step` steps. On failure the ones before stay as they are."""
        path = self.folder / f"step-{step:06d}.pt"
        partial = path.with_suffix(".partial")
        whole = {**state, "step": step, "inputs": self.inputs, "torch_rng": torch.get_rng_state()}
        try:
            with partial.open("wb") as file:
                torch.save(whole, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except (OSError, RuntimeError) as error:  # torch wraps a failed write in RuntimeError
            partial.unlink(missing_ok=True)
            raise TrainingError(
                f"{path}: the checkpoint cannot be saved ({error}); the last good one stays: "
                "free some space and run again to go on from it"
            ) from error
        for old in sorted(self.folder.glob("step-*.pt"))[:-KEEP]:
            old.unlink()

    def log(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Append one line to metrics.jsonl."""
        path = self.out / "metrics.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **metrics}) + "\n")
        except OSError as error:
            raise TrainingError(
                f"{path}: cannot be written ({error.strerror}); free some space and run again "
                "to go on from the last checkpoint"
            ) from error

    def _cut_metrics(self, step: int) -> None:
        """Keep the lines up to `step`, so that no step stands twice."""
        path = self.out / "metrics.jsonl"
        if not path.is_file():
            return
        kept = [line for line in path.read_text("utf-8").splitlines() if _step_of(line) <= step]
        with atomic_open(path) as file:
            file.writelines(line + "\n" for line in kept)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return math.inf  # a line cut off by a kill


def _made(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(
            f"{folder}: cannot be made ({error.strerror}); choose another output folder"
        ) from error


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def records_digest(records: Iterable[BaseModel]) -> str:
    """sha256 over records in order: what the data was."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(record.model_dump_json().encode() + b"\n")
    return digest.hexdigest()


def run_inputs(
    algorithm: Literal["reward", "dpo", "ppo"],
    config: TrainConfig,
    backbone: Backbone,
    records: Iterable[BaseModel],
) -> dict[str, Any]:
    """What a run's outcome depends on; how often it saves is no part of it."""
    return {
        "algorithm": algorithm,
        "config": config.model_dump(mode="json", exclude={"checkpoint_every"}),
        "dtype": str(backbone.dtype),
        "model": backbone.fingerprint,
        "data": records_digest(records),
    }


def require_context(backbone: Backbone, max_tokens: int) -> None:
    """Raises TrainingError when rows of max_tokens would not fit into the model."""
    if max_tokens > backbone.context:
        raise TrainingError(
            f"max_tokens={max_tokens} is more than {backbone.name} can read ({backbone.context}); "
            "lower max_tokens"
        )


def require_finite(value: Tensor, what: str, where: str) -> None:
    """Raises TrainingError when the number is NaN or infinite: training has diverged."""
    if not torch.isfinite(value).all():
        raise TrainingError(
            f"{where}: the {what} is {value.item()}; the last checkpoint stays. Training diverged: "
            "lower learning_rate (or, in bfloat16, set dtype=float32) and start in a new folder"
        )


def report_skipped(skipped: Sequence[str]) -> None:
    """Say on stderr what was left out, the first few by name."""
    if skipped:
        shown = "".join(f"\n  {reason}" for reason in skipped[:3])
        print(f"left out {len(skipped)} records, among them{shown}", file=sys.stderr)


def memory_gib() -> float:
    """Most memory held so far: of the GPU where there is one, else resident in RAM. GiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
