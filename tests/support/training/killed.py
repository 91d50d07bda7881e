"""Runs that are killed, and what runs leave behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlaif.training.run import Run

OF_THE_CLOCK = ("_seconds", "_per_s", "memory_gib")  # endings of metrics that no rerun repeats


class KilledError(Exception):
    """Stands for kill -9: nothing after it runs."""


def kill_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    """Stop the process, as it were, after the metrics of the step after `steps`."""
    whole = Run.log

    def log(self: Run, step: int, metrics: dict[str, Any]) -> None:
        whole(self, step, metrics)
        if step == steps + 1:
            raise KilledError

    patch.setattr(Run, "log", log)


def metrics(out: Path) -> list[dict[str, Any]]:
    """Every step's, without the times."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith(OF_THE_CLOCK)} for line in lines]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.name}/{name}": tensor
        for file in sorted(out.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def assert_same_outcome(one: Path, other: Path) -> None:
    """The same metrics and weights, to the bit."""
    assert metrics(one) == metrics(other)
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
