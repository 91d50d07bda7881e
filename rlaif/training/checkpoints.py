"""Checkpoint files: written atomically and durably, even through a power cut.

A file is written under a temporary name, synced, renamed, and the folder synced: under its own name
it is always complete. Values are tensors, numbers, texts and containers of them: reading a file
runs no code.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch

from constitution.errors import UserError


class CheckpointError(UserError):
    """A checkpoint that cannot be written: why, and the remedy."""


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically. Raises CheckpointError, where no other file is changed."""
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch wraps a failed write in RuntimeError
        partial.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path}: the checkpoint cannot be saved ({error}); the last good one stays: "
            "free some space and run again to go on from it"
        ) from error


def link(path: Path, name: Path) -> None:
    """Make `name` the same file, which stays when `path` is removed. Raises CheckpointError."""
    partial = name.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    try:
        try:
            os.link(path, partial)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, partial)
        partial.replace(name)
        _sync_folder(name.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(
            f"{name}: the best checkpoint cannot be kept ({error.strerror}); {path.name} stays: "
            "free some space and run again to go on from it"
        ) from error


def _sync_folder(folder: Path) -> None:
    """Make a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path, mapped: bool = False) -> dict[str, Any]:
    """A checkpoint's state, on the CPU. mapped: tensors are read when they are used, and the
    processes of a host share their memory. Raises whatever torch raises for a damaged file."""
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu", mmap=mapped)
    return state


def score_of(path: Path) -> float | None:
    """The score that a checkpoint was saved with; None for a damaged file."""
    try:  # mmap: the weights are not read
        score: float | None = torch.load(path, weights_only=True, mmap=True)["score"]
    except Exception:
        return None
    return score


def random_states() -> dict[str, Any]:
    """The states of all global generators that a reward callable may use."""
    state: dict[str, Any] = numpy.random.get_state(legacy=False)
    inner = state["state"]
    states = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        # plain numbers in place of numpy's array, which a checkpoint could not hold
        "numpy": {**state, "state": {**inner, "key": inner["key"].tolist()}},
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: Mapping[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    random.setstate(states["python"])
    numpy.random.set_state(states["numpy"])
    if torch.cuda.is_available() and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])


def differences(saved: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The dotted names of the values that differ, with both values where they are short."""
    changed: list[str] = []
    for name in {**saved, **now}:
        before, after = saved.get(name), now.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            changed += differences(before, after, f"{prefix}{name}.")
        elif before != after:
            short = max(len(str(before)), len(str(after))) <= 20
            changed.append(f"{prefix}{name}" + (f" ({before}, now {after})" if short else ""))
    return changed
