"""Checks of a training run that need no torch: refused before anything is loaded."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from constitution.errors import UserError, install_hint
from rlaif.data.cut_off import pairs_for
from rlaif.data.records import Preference
from rlaif.training.config import HeldOutConfig, PolicyConfig, TrainingError

if TYPE_CHECKING:
    from rlaif.batching.corpus.mapped import CorpusPairs

TRAIN_PACKAGES = ("torch", "transformers", "accelerate", "peft")


class MissingPackageError(UserError):
    """Packages that are not installed; the message names the extra that brings them."""


def require_packages(packages: Sequence[str] = TRAIN_PACKAGES, extra: str = "train") -> None:
    """Raises MissingPackageError naming every package that is not installed; imports none."""
    missing = [name for name in packages if not _is_installed(name)]
    if missing:
        raise MissingPackageError(
            f"packages that are not installed: {', '.join(missing)}; {install_hint(extra)}"
        )


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # a module that was put into sys.modules without a spec
        return True


def launched_processes() -> int:
    """Processes of the `accelerate launch` that this one belongs to, as it tells each of them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def require_heldout(config: HeldOutConfig, heldout: Sequence[Preference]) -> None:
    """Raises TrainingError for a setting that would do nothing without held-out pairs, of which
    cut_off=skip may leave none; with text_eval, there is something to evaluate without them."""
    has_text = isinstance(config, PolicyConfig) and config.text_eval is not None
    idle = config.eval_every is not None and not has_text
    given = [f"eval_every={config.eval_every}"] if idle else []
    given += ["keep=best"] if config.keep == "best" else []
    if given and not pairs_for(heldout, config.cut_off):
        without = (
            f"all {len(heldout)} held-out pairs hold a response that was cut off, and cut_off=skip "
            "leaves them out"
            if heldout
            else "there are no held-out pairs to evaluate"
        )
        raise TrainingError(f"{' and '.join(given)}: {without}; give some, or remove the setting")


def require_kept(pairs: Sequence[Preference], config: HeldOutConfig, what: str = "pairs") -> None:
    """Raises TrainingError when cut_off=skip leaves none of the pairs. what: names them."""
    if pairs and not pairs_for(pairs, config.cut_off):
        raise TrainingError(
            f"all {len(pairs)} {what} hold a response that was cut off, and cut_off=skip leaves "
            "them out; set cut_off=keep, or sample again with a higher max_new_tokens"
        )


def require_kept_of(pairs: CorpusPairs, config: HeldOutConfig) -> None:
    """`require_kept` of a corpus. Raises TrainingError."""
    from rlaif.batching.corpus.selection import without_cut  # takes numpy

    if not without_cut(pairs, config.cut_off):
        raise TrainingError(
            f"all {len(pairs)} pairs of {pairs.corpus.folder} hold a response that was cut off, "
            "and cut_off=skip leaves them out; set cut_off=keep"
        )


def require_context_of(model: str, max_tokens: int) -> None:
    """As `require_within`, for a model folder whose config.json names its context; a hub id, or a
    folder that does not, is checked once it is loaded."""
    try:
        found = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    context = found.get("text_config", found).get("max_position_embeddings")
    if isinstance(context, int):
        require_within(model, context, max_tokens)


def require_within(model: str, context: int, max_tokens: int) -> None:
    """Raises TrainingError when max_tokens exceeds the model's context length."""
    if max_tokens > context:
        raise TrainingError(
            f"max_tokens={max_tokens} is more than {model} can read ({context}); lower max_tokens"
        )


def require_folder(out: Path) -> None:
    """Raises TrainingError where the output folder is a file, or lies in one."""
    for place in (out, *out.parents):
        if place.exists() and not place.is_dir():
            raise TrainingError(f"not a folder: {place}; choose another output folder")


def steps_in(folder: Path) -> list[int]:
    """The steps that have a checkpoint in the folder, in order; no file is read."""
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.glob("step-*.pt"))
