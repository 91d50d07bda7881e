"""A folder of shards: Parquet files of consecutive rows, and `shards.json`, which names them all.

The list is written first, by whoever makes the folder, and never changed: so that a reader knows
which shards are still missing, however many processes make them. A shard appears under its name
when it is complete, and is never replaced.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from constitution.validation import field_problems
from rlaif.data.files import RecordError

LIST = "shards.json"

Holds = Literal["prompts", "samples", "preferences", "lessons"]


class ShardList(BaseModel):
    """The content of `shards.json`.

    holds: the kind of all rows. shards: file names, in the order of their rows. made_with: whatever
    the rows depend on besides the rows they were made from, by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    holds: Holds
    shards: tuple[str, ...]
    made_with: dict[str, Any]


def is_shard_folder(path: Path) -> bool:
    """Whether a path is a folder of shards, complete or not."""
    return os.path.isfile(path / LIST)  # unlike Path.is_file, never an error


def read_list(folder: Path) -> ShardList:
    """The list of a folder's shards. Raises RecordError for a folder without one."""
    file = folder / LIST
    try:
        return ShardList.model_validate_json(file.read_bytes())
    except OSError as error:
        raise RecordError(
            f"{folder}: not a folder of shards ({LIST}: {error.strerror}); "
            "`rlaif shards split` makes one of a file"
        ) from error
    except ValidationError as error:
        raise RecordError(f"{file}: {field_problems(error, ShardList, noun='field')[0]}") from error


def claim_list(folder: Path, wanted: ShardList) -> None:
    """Write the list of a new folder; several processes may do so at once.

    Raises RecordError where the folder has the list of other shards, or was made otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not is_shard_folder(folder):
        own = folder / f".{LIST}.{os.getpid()}"
        own.write_text(wanted.model_dump_json(indent=2) + "\n", encoding="utf-8")
        place_once(own, folder / LIST)
    found = read_list(folder)
    for what, then, now in (
        ("its kind of rows", found.holds, wanted.holds),
        ("its shards", _names(found.shards), _names(wanted.shards)),
        *_settings(found.made_with, wanted.made_with),
    ):
        if then != now:
            raise RecordError(
                f"{folder}: was made otherwise: {what}: {then} then, {now} now; give another "
                "folder, or delete this one to make it again"
            )


def _settings(then: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    names = sorted(then.keys() | now.keys())
    return [(name, then.get(name, "nothing"), now.get(name, "nothing")) for name in names]


def _names(shards: tuple[str, ...]) -> str:
    return f"{len(shards)}, {shards[0]} to {shards[-1]}" if shards else "none"


def data_files(path: Path) -> list[Path]:
    """The files of a data set, in the order of their rows: `path` itself, or its shards.

    Raises RecordError for a folder of which shards are missing.
    """
    if not is_shard_folder(path):
        return [path]
    files = [path / name for name in read_list(path).shards]
    if missing := [file.name for file in files if not file.is_file()]:
        more = ", …" if len(missing) > 3 else ""
        raise RecordError(
            f"{path}: {len(missing)} of {len(files)} shards are not there yet "
            f"({', '.join(missing[:3])}{more}); run the command that makes them again: it makes "
            "only those"
        )
    return files


def place_once(made: Path, target: Path) -> bool:
    """Give a complete file its name, unless another process did so first, whose file stands.

    The file is on disk before its name is. Returns whether it was the first; `made` is gone.
    """
    _sync(made)
    try:
        os.link(made, target)
        first = True
    except FileExistsError:
        first = False
    made.unlink()
    _sync(target.parent)
    return first


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
