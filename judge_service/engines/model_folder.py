"""Checks of a model folder, and the digest of its weights.

A hub id is first fetched into the hub's cache, so that an engine only ever sees a folder. Imports
neither torch nor vllm, so that an incomplete folder is reported in milliseconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from constitution.errors import UserError
from hardware.model_folder import FAST_TOKENIZER, WEIGHTS, require_model_folder, weight_files

_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_HUB_FILES = ["*.json", WEIGHTS, "*.jinja", "tokenizer.model", "*.txt"]


class ModelFolderError(UserError):
    """An unusable model: which one, what is missing, and the remedy."""


def find_model_folder(model: str | Path) -> Path:
    """The checked folder of a model given as a folder or a hub id (downloads, blocks).

    Raises ModelFolderError.
    """
    folder = Path(model).expanduser()
    if not folder.exists() and _HUB_ID.fullmatch(str(model)):
        folder = _fetch_from_hub(str(model), _HUB_FILES)
    check_model_folder(folder)
    return folder


def find_tokenizer_folder(source: str) -> Path:
    """The folder of a tokenizer given as a folder or a hub id (downloads, blocks).

    A model's folder is one; weights are neither needed nor fetched. Raises ModelFolderError.
    """
    folder = Path(source).expanduser()
    if not folder.exists() and _HUB_ID.fullmatch(source):
        folder = _fetch_from_hub(source, [name for name in _HUB_FILES if name != WEIGHTS])
    if not (folder / "tokenizer.json").is_file():
        raise ModelFolderError(
            f"{source}: no tokenizer here (tokenizer.json); give the folder or the hub id "
            "(owner/name) of the model that is served"
        )
    return folder


def check_model_folder(folder: Path) -> None:
    """Raise ModelFolderError, naming everything it lacks, unless the folder is a complete model."""
    require_model_folder(folder, ModelFolderError, FAST_TOKENIZER)


def model_name(model: str | Path) -> str:
    """The name in receipts: a hub id, or the folder's own name, never a full path."""
    text = str(model)
    is_hub_id = _HUB_ID.fullmatch(text) and not Path(text).expanduser().exists()
    return text if is_hub_id else Path(model).expanduser().resolve().name


def weights_sha256(folder: Path) -> str:
    """Digest of config.json and every byte of each safetensors file, in the order of their names.

    Reads are stored under this digest, so it must distinguish fine-tunes that differ in a few
    numbers. About half a second per GB, from the page cache that loading fills anyway.
    """
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in weight_files(folder):
        with path.open("rb") as file:
            digest.update(f"\n{path.name} ".encode())
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def context_limit(folder: Path) -> int | None:
    """The model's longest sequence, tokens; None if its config has none."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    config = config.get("text_config", config)
    limit = config.get("max_position_embeddings")
    return limit if isinstance(limit, int) else None


def _fetch_from_hub(hub_id: str, files: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=files))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ModelFolderError(
            f"{hub_id}: neither a local folder nor available from the hub{offline}: {reason}; "
            "give a folder, or a name that `rlaif models list` shows"
        ) from error
