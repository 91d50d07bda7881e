"""What all trainers share: settings, optimizer, checkpoints, exact resume, metrics. No trainer.

A run is a folder:

    metrics.jsonl                 one object per step; "alarms" names those that ring (alarms.py)
    checkpoints/step-000040.pt    all that the next step depends on; whole or absent
    checkpoints/best.pt           the one saved with the highest score so far

Called again with the same inputs, training goes on after the newest readable checkpoint and gives
the same bits as if it had never stopped (on a CPU, with the same number of threads and processes).
Under `accelerate launch` all processes call the same things; the main one writes (workers.py).
"""

from __future__ import annotations

import hashlib
import json
import math
import resource
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.utils import get_total_norm

from constitution.errors import UserError
from rlaif.batching.encode import Unusable
from rlaif.data.records import atomic_open
from rlaif.distributed import fsdp
from rlaif.distributed.processes import ProcessGroup
from rlaif.models.backbone import Backbone, Dtype, LoraConfig
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
from rlaif.training.trackers import TrackerName, Trackers

BEST = "best.pt"
_MOMENTS = "optimiser"  # the key in checkpoints, spelled as the first ones have it


class TrainingError(UserError):
    """Training that cannot start or go on: what, at which step, and the remedy."""


class TrainConfig(BaseModel):
    """Settings that every algorithm has. Each algorithm's Config adds its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(default=0, description="of adapters, heads, order and sampling")
    dtype: Dtype = Field(
        default="auto", description="of the frozen base; what is trained, and losses, are float32"
    )
    lora: LoraConfig | None = Field(
        default=LoraConfig(), description="the adapter; null trains the whole model"
    )
    learning_rate: float = Field(default=2e-4, gt=0, description="LoRA's usual (arXiv:2305.14314)")
    warmup: float = Field(
        default=0.1, ge=0, le=1, description="share of steps rising; then linear decay to 0"
    )
    max_grad_norm: float = Field(default=1.0, gt=0, description="TRL's and transformers' default")
    micro_batch_tokens: int = Field(
        default=4096, ge=1, description="padded tokens per forward; memory and speed, not gradients"
    )
    max_tokens: int = Field(
        default=1024, ge=2, description="prompt and response together; nothing is cut to fit"
    )
    unusable: Unusable = Field(
        default="error", description="a record too long or empty: an error, or skipped and counted"
    )
    checkpoint_every: int = Field(default=10, ge=1, description="optimizer steps (PPO: iterations)")
    keep_checkpoints: int = Field(
        default=2, ge=1, description="the newest; the older ones serve when it cannot be read"
    )
    resume: Literal["auto", "never"] = Field(
        default="auto", description="never: start anew, removing older checkpoints of the folder"
    )
    trackers: tuple[TrackerName, ...] = Field(
        default=(), description="tensorboard, wandb: beside metrics.jsonl (trackers.py)"
    )


# what a run's outcome does not depend on
_HOUSEKEEPING = {"checkpoint_every", "keep_checkpoints", "resume", "trackers"}


class Learner:
    """AdamW (no weight decay) over named float32 parameters, with gradient clipping.

    The learning rate is a function of the step alone, so there is no scheduler state to lose. Of a
    sharded parameter it steps this process's piece; its state is of the whole (fsdp.py).
    """

    def __init__(
        self,
        groups: Sequence[tuple[Mapping[str, Tensor], float]],
        total_steps: int,
        config: TrainConfig,
        workers: ProcessGroup,
    ) -> None:
        """groups: (named parameters, peak learning rate) each."""
        self.parameters = {name: p for named, _ in groups for name, p in named.items()}
        self.pieces = {name: fsdp.local(p) for name, p in self.parameters.items()}
        self.peaks = [rate for _, rate in groups]
        self.total, self.warmup = total_steps, math.ceil(config.warmup * total_steps)
        self.max_grad_norm = config.max_grad_norm
        self.workers = workers
        self.optimizer = torch.optim.AdamW(
            [{"params": [self.pieces[n] for n in named], "lr": rate} for named, rate in groups],
            weight_decay=0.0,
            fused=True,  # one pass over each weight instead of ten
        )

    def schedule(self, step: int) -> float:
        """Set the learning rate of this step, counted from 1; returns the first group's."""
        factor = min(step / max(self.warmup, 1), 1 - (step - 1) / self.total)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        return self.peaks[0] * factor

    def step(self, where: str) -> float:
        """Add the gathered gradients up over processes, clip, apply and clear them. Returns their
        norm before clipping."""
        parameters = self.parameters.values()
        self.workers.all_reduce_gradients(parameters)
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                self.pieces[name].grad = fsdp.local(parameter.grad)
        norm = self._norm()
        torch.nn.utils.clip_grads_with_norm_(self.pieces.values(), self.max_grad_norm, norm)
        require_finite(norm, "gradient", where)
        self.optimizer.step()
        torch.autograd.graph.increment_version(parameters)  # AdamW's fused kernel does not
        self.clear()
        return float(norm)

    def clear(self) -> None:
        """Drop the gradients gathered so far."""
        for tensor in (*self.parameters.values(), *self.pieces.values()):
            tensor.grad = None

    def _norm(self) -> Tensor:
        """Of the whole gradient, wherever its pieces lie."""
        cut = {name for name, p in self.parameters.items() if fsdp.is_sharded(p)}
        grads = {name: piece.grad for name, piece in self.pieces.items() if piece.grad is not None}
        norm = get_total_norm([grad for name, grad in grads.items() if name not in cut])
        if not cut:
            return norm
        here = float(get_total_norm([grad for name, grad in grads.items() if name in cut]))
        of_pieces = self.workers.all_reduce({"square": here**2})["square"]
        return (norm.square() + of_pieces).sqrt()

    def state(self) -> dict[str, Any]:
        """Of whole tensors. Where the model is sharded it is collective, and the main process alone
        gets them, on the CPU: 12 bytes per weight that trains."""
        optimizer, main = self.optimizer.state_dict(), self.workers.is_main
        if self.workers.sharded:
            return {
                "parameters": fsdp.full_state(self.parameters, main),
                _MOMENTS: fsdp.full_optimizer_state(optimizer, self.parameters.values(), main),
            }
        parameters = {name: p.detach().clone() for name, p in self.parameters.items()}
        return {"parameters": parameters, _MOMENTS: optimizer}

    def load(self, state: Mapping[str, Any]) -> None:
        """What `state` gave, to a process of the same launch or of any other."""
        for name, parameter in self.parameters.items():
            fsdp.set_full(parameter, state["parameters"][name])
        moments = fsdp.local_optimizer_state(state[_MOMENTS], self.parameters.values())
        self.optimizer.load_state_dict(moments)


class Run:
    """The folder of one training run: its checkpoints and its metrics.

    All processes call its methods; the main one writes and speaks, and all wait for it.
    """

    def __init__(
        self, out: Path, inputs: Mapping[str, Any], config: TrainConfig, workers: ProcessGroup
    ) -> None:
        """inputs: all that the outcome depends on, as JSON values under readable names.

        Raises TrainingError (the folder) or TrackerError.
        """
        self.out = out
        self.folder = out / "checkpoints"
        self.inputs: dict[str, Any] = json.loads(json.dumps(inputs))
        self.config, self.workers = config, workers
        self._best_score: float | None = None
        self._history: list[dict[str, Any]] = []  # of the metrics that alarms watch
        if workers.is_main:
            _made(self.folder)
            self._trackers = Trackers(config.trackers, out, self.inputs)
        workers.barrier()

    def resume(self) -> dict[str, Any] | None:
        """The state of the newest readable checkpoint, with metrics cut back to its step; the best
        one where no other can be read.

        With resume=never there is none: checkpoints and metrics of the folder are removed.
        Raises TrainingError when the checkpoint was made from other inputs.
        """
        anew = self.config.resume == "never"
        path, found = (None, None) if anew else self._newest()
        step = found["step"] if found else 0
        if self.workers.gather([step]) != [step] * self.workers.count:
            raise TrainingError(
                f"{self.folder}: the processes see different checkpoints; give a folder on a disk "
                "that all hosts share"
            )
        if found is not None:
            self._require_same_inputs(found["inputs"])
            set_random_states(found["random"][self.workers.rank % len(found["random"])])
        if self.workers.is_main:
            if anew:
                for old in self.folder.glob("*.pt"):
                    old.unlink()
            if (self.folder / BEST).exists():
                self._best_score = score_of(self.folder / BEST)
                if self._best_score is None:
                    print(
                        f"{self.folder / BEST}: not readable; the next score takes its place",
                        file=sys.stderr,
                    )
            if path is not None and found is not None:  # killed after it, before best.pt
                self._keep_if_best(path, found["score"])
            self._cut_metrics(step)
        self.workers.barrier()
        return found

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
        """The state that `save` was given with the highest score so far; None before any."""
        path = self.folder / BEST
        return read(path, self.workers.sharded) if path.exists() else None

    def save(self, step: int, state: Mapping[str, Any], score: float | None = None) -> None:
        """A checkpoint after `step` steps; the newest are kept, and the best besides.

        score: higher is better; NaN is never the best. On failure the checkpoints before stay as
        they are. Raises CheckpointError.
        """
        states = self.workers.gather([random_states()])
        if self.workers.is_main:
            path = self.folder / f"step-{step:06d}.pt"
            own = {"step": step, "inputs": self.inputs, "random": states, "score": score}
            write(path, {**state, **own})
            self._keep_if_best(path, score)
            for old in sorted(self.folder.glob("step-*.pt"))[: -self.config.keep_checkpoints]:
                old.unlink()
        self.workers.barrier()

    def _keep_if_best(self, path: Path, score: float | None) -> None:
        best = -math.inf if self._best_score is None else self._best_score
        if score is not None and score > best:
            link(path, self.folder / BEST)
            self._best_score = score

    def log(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Append one line to metrics.jsonl, tell the trackers, and look at the alarms: those that
        ring are named in the line, and told on stderr when they begin."""
        if not self.workers.is_main:
            return
        line: dict[str, Any] = {"step": step, **metrics}
        before = self._history[-1]["alarms"] if self._history else []
        self._history.append({name: line.get(name) for name in alarms.WATCHED})
        ringing = alarms.active_alarms(self._history)
        self._history[-1]["alarms"] = [alarm.name for alarm in ringing]
        if ringing:
            line["alarms"] = [alarm.name for alarm in ringing]
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
        for alarm in ringing:
            if alarm.name not in before:
                print(f"alarm at step {step}: {alarm.text}", file=sys.stderr)

    def finish(self) -> None:
        """Close the trackers."""
        if self.workers.is_main:
            self._trackers.finish()

    def _cut_metrics(self, step: int) -> None:
        """Keep the lines up to `step`, so that no step stands twice."""
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


def _made(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(
            f"{folder}: cannot be made ({error.strerror}); choose another output folder"
        ) from error


def records_digest(records: Iterable[BaseModel]) -> str:
    """sha256 over records in order: what the data was."""
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
    """What a run's outcome depends on; how it saves and is watched is no part of it."""
    return {
        "algorithm": algorithm,
        "config": config.model_dump(mode="json", exclude=_HOUSEKEEPING),
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
    if skipped and ProcessGroup.current().is_main:
        shown = "".join(f"\n  {reason}" for reason in skipped[:3])
        print(f"left out {len(skipped)} records, among them{shown}", file=sys.stderr)


def memory_gib() -> float:
    """Most memory held so far: of the GPU where there is one, else resident in RAM. GiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
