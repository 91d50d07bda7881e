"""The contents of a model folder, and its missing files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from constitution.errors import UserError
from hardware.model_folder import (
    ANY_TOKENIZER,
    FAST_TOKENIZER,
    inspect_model_folder,
    require_model_folder,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete model folder."""
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    return tmp_path


def error_for(path: Path, tokenizer: tuple[str, ...] = ANY_TOKENIZER) -> str:
    with pytest.raises(UserError) as error:
        require_model_folder(path, UserError, tokenizer)
    return str(error.value)


def test_a_complete_folder_lacks_nothing(folder: Path) -> None:
    contents = inspect_model_folder(folder)
    assert (contents.lacks, contents.is_adapter) == ((), False)
    require_model_folder(folder, UserError, FAST_TOKENIZER)


def test_everything_that_lacks_is_named_at_once(tmp_path: Path) -> None:
    message = error_for(tmp_path)
    assert message.startswith(f"{tmp_path}: not a complete model folder, it lacks ")
    assert "lacks config.json, tokenizer.json, *.safetensors; give a folder" in message


def test_a_slow_tokenizer_is_enough_where_any_is_accepted(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "vocab.json")
    require_model_folder(folder, UserError)
    assert "lacks tokenizer.json" in error_for(folder, FAST_TOKENIZER)


def test_missing_shards_are_named_by_the_index(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "two.safetensors", "c": "3.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert inspect_model_folder(folder).lacks == ("3.safetensors", "two.safetensors")


def test_an_adapter_is_distinguished_from_a_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_text("")
    assert inspect_model_folder(tmp_path).is_adapter
    assert "holds a LoRA adapter, not a whole model; merge it" in error_for(tmp_path)


def test_a_file_and_a_missing_path_are_rejected_as_folders(folder: Path) -> None:
    assert "not a file; give the folder it lies in" in error_for(folder / "config.json")
    assert "no such model folder" in error_for(folder / "nowhere")
