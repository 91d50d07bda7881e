"""What a model folder holds and lacks. Imports no torch, so a wrong folder is reported at once.

config.json                                  the architecture
tokenizer.json                               the tokenizer (some models: another file)
*.safetensors                                the weights, or
model.safetensors.index.json and its shards  the weights in several files
adapter_config.json                          a LoRA adapter, which needs its base
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from constitution.errors import UserError

WEIGHTS = "*.safetensors"
FAST_TOKENIZER = ("tokenizer.json",)
ANY_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """What was found at a path.

    is_adapter: it holds a LoRA adapter, which needs its base. lacks: files of a complete model that
    are not there, as names or patterns.
    """

    path: Path
    exists: bool
    is_folder: bool
    is_adapter: bool
    lacks: tuple[str, ...]


def inspect_model_folder(path: Path, tokenizer: Sequence[str] = ANY_TOKENIZER) -> ModelFolder:
    """Check which files of a complete model the folder at `path` has; nothing has to exist.

    tokenizer: any one of these files is enough; the first is the one named when all are missing.
    """
    lacks = [] if (path / "config.json").is_file() else ["config.json"]
    if not any((path / name).is_file() for name in tokenizer):
        lacks.append(tokenizer[0])
    return ModelFolder(
        path=path,
        exists=path.exists(),
        is_folder=path.is_dir(),
        is_adapter=(path / "adapter_config.json").is_file(),
        lacks=(*lacks, *_missing_weights(path)),
    )


def require_model_folder(
    path: Path, error: type[UserError], tokenizer: Sequence[str] = ANY_TOKENIZER
) -> None:
    """Raise `error` unless the folder at `path` is a complete model.

    The message names the folder, everything it lacks and the remedy. tokenizer: as in
    `inspect_model_folder`.
    """
    folder = inspect_model_folder(path, tokenizer)
    if not folder.exists:
        raise error(
            f"{path}: no such model folder; give a folder, a hub id (owner/name), or a name that "
            "`rlaif models list` shows"
        )
    if not folder.is_folder:
        raise error(
            f"{path}: a model is a folder (config.json, {WEIGHTS}), not a file; give the folder "
            "it lies in"
        )
    if folder.lacks and folder.is_adapter:
        raise error(
            f"{path}: holds a LoRA adapter, not a whole model; merge it into its base first "
            "(`rlaif models merge`)"
        )
    if folder.lacks:
        raise error(
            f"{path}: not a complete model folder, it lacks {', '.join(folder.lacks)}; give a "
            "folder that save_pretrained wrote (model and tokenizer), or fetch the model again"
        )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, by name."""
    return sorted(folder.glob(WEIGHTS))


def _missing_weights(folder: Path) -> list[str]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        return [name for name in files if not (folder / name).is_file()]
    return [] if weight_files(folder) else [WEIGHTS]
