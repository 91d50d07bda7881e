"""Model folders: incomplete ones are rejected with what is missing; digests identify weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from judge_service.engines.model_folder import (
    ModelFolderError,
    check_model_folder,
    context_limit,
    find_model_folder,
    model_name,
    weights_sha256,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete model folder of one small tensor."""
    path = tmp_path / "tiny-model"
    path.mkdir()
    (path / "config.json").write_text('{"max_position_embeddings": 2048}')
    (path / "tokenizer.json").write_text("{}")
    save_file({"w": np.zeros(1000, np.float32)}, path / "model.safetensors")
    return path


def test_a_complete_folder_is_accepted_by_its_path(folder: Path) -> None:
    assert find_model_folder(str(folder)) == folder
    assert context_limit(folder) == 2048


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_missing_file_is_named_with_the_folder(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelFolderError, match=rf"{folder}.*lacks {name}"):
        check_model_folder(folder)


def test_missing_weights_are_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelFolderError, match=r"lacks \*\.safetensors"):
        check_model_folder(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelFolderError, match=r"lacks model-2\.safetensors"):
        check_model_folder(folder)


def test_a_missing_path_and_a_file_are_rejected(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"nowhere/at/all: no such model folder"):
        find_model_folder(tmp_path / "nowhere/at/all")
    with pytest.raises(ModelFolderError, match="not a file"):
        find_model_folder(folder / "config.json")


def test_the_name_is_never_a_full_path(folder: Path) -> None:
    assert model_name(folder) == "tiny-model"
    assert model_name("owner/name") == "owner/name"


def test_the_digest_distinguishes_a_fine_tune_from_its_base(folder: Path) -> None:
    base = weights_sha256(folder)
    assert base == weights_sha256(folder)
    tuned = np.zeros(1000, np.float32)
    tuned[500] = 1e-6
    save_file({"w": tuned}, folder / "model.safetensors")
    assert weights_sha256(folder) != base
