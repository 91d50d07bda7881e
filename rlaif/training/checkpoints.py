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
    """A checkpoint that cannot be written; the message has the reason and the remedy."""


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically, and sync it to disk.

    Raises CheckpointError when that fails; existing files stay as they are.
    """
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
    """Make `name` a hard link to the checkpoint (or a copy), which outlives `path`.

    Raises CheckpointError when that fails; an existing `name` stays as it is.
    """
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
    """Load a checkpoint's state, on the CPU.

    mapped: map the file into memory, so that tensors are read when used, and shared by the
    processes of a host. A damaged file raises various errors of torch and the system.
    """
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
    """States of the global random generators (torch, Python, numpy, CUDA), fit for a checkpoint."""
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
    """Restore the generators to the result of `random_states`, so that a resumed run repeats."""
    torch.set_rng_state(states["torch"])
    random.setstate(states["python"])
    numpy.random.set_state(states["numpy"])
    if torch.cuda.is_available() and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])


def differences(saved: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the values that differ, with both values if they are short.

    >>> differences({"seed": 0, "lora": {"rank": 8}}, {"seed": 1, "lora": {"rank": 8}})
    ['seed (0, now 1)']
    """
    changed: list[str] = []
    for name in {**saved, **now}:
        before, after = saved.get(name), now.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            changed += differences(before, after, f"{prefix}{name}.")
        elif before != after:
            short = max(len(str(before)), len(str(after))) <= 20
            changed.append(f"{prefix}{name}" + (f" ({before}, now {after})" if short else ""))
    return changed
