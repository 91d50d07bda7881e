"""Checks and reports that all trainers share."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from rlaif.batching.unusable import BatchError, describe_skipped
from rlaif.data.cut_off import CutResponses
from rlaif.distributed.processes import ProcessGroup
from rlaif.models.backbone import Backbone
from rlaif.training.config import TrainingError
from rlaif.training.preflight import require_within


def require_context(backbone: Backbone, max_tokens: int) -> None:
    """Raise TrainingError when max_tokens exceeds the model's context length."""
    require_within(backbone.name, backbone.context, max_tokens)


def require_finite(value: Tensor, what: str, where: str) -> None:
    """Raise TrainingError when a scalar is NaN or infinite: training has diverged.

    what, where: the quantity and the step, for the message.
    """
    if not torch.isfinite(value).all():
        raise TrainingError(
            f"{where}: the {what} is {value.item()}; training diverged. The last checkpoint stays: "
            "lower learning_rate (or, in bfloat16, set dtype=float32) and start in a new folder"
        )


def report_skipped(skipped: Sequence[BatchError | str]) -> None:
    """Print on stderr, in the main process, how many records are skipped, and the first reasons."""
    if skipped and ProcessGroup.current().is_main:
        print(describe_skipped(skipped), file=sys.stderr)


def report_cut_off(cut: CutResponses, what: str, left_out: bool) -> None:
    """Print on stderr, in the main process, how many records hold a cut-off response, if any."""
    if cut.records and ProcessGroup.current().is_main:
        print(cut.describe(what, left_out), file=sys.stderr)


def reset_peak_memory() -> None:
    """Let `memory_gib` begin anew, so that a run's peak is not that of an earlier one in the same
    process. Where the system cannot do so, the peak stays the process's."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark: man 5 proc


def memory_gib() -> float:
    """Peak memory since `reset_peak_memory`, or of this process so far, GiB: allocated on the GPU,
    or else resident in RAM."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
