"""One shard: records as a Parquet file that says what made it.

The columns are the fields of the record, so that `datasets.load_dataset` and TRL read a folder of
shards as it is. What made a shard stands in the metadata of its file, under `rlaif`, and can be
read without its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rlaif.data.files import RecordError, file_sha256
from rlaif.data.records import Preference, Prompt, Sample, write_parquet

if TYPE_CHECKING:
    import pyarrow

_NOTE = b"rlaif"


class ShardNote(BaseModel):
    """What made a shard, and what is in it.

    key: a digest of the rows it was made from and of the settings. counts: what was counted while
    it was made; the counts of several shards are added.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    rows: int = 0
    counts: dict[str, float | dict[str, float]] = Field(default_factory=dict)


def write_shard(
    path: Path,
    records: Iterable[Prompt | Sample | Preference],
    schema: pyarrow.Schema,
    note: ShardNote,
) -> None:
    """Write records in a few megabytes of memory; `path` is complete once this returns."""
    noted = schema.with_metadata({_NOTE: note.model_dump_json()})
    write_parquet(path, (record.model_dump() for record in records), noted)


def noted_copy(made: Path, path: Path, note: ShardNote) -> None:
    """Write a Parquet file again with a note, row group by row group."""
    from pyarrow import parquet

    source = parquet.ParquetFile(made)
    schema = source.schema_arrow.with_metadata({_NOTE: note.model_dump_json()})
    with source, parquet.ParquetWriter(path, schema) as out:
        for group in range(source.num_row_groups):
            out.write_table(source.read_row_group(group).replace_schema_metadata(schema.metadata))


def read_note(file: Path) -> ShardNote | None:
    """The note of a shard; None for a file without one. Raises RecordError."""
    import pyarrow
    from pyarrow import parquet

    try:
        metadata = parquet.read_schema(file).metadata or {}
        return ShardNote.model_validate_json(metadata[_NOTE]) if _NOTE in metadata else None
    except (pyarrow.ArrowException, OSError, ValidationError) as error:
        raise RecordError(f"{file}: not a complete shard ({error}); delete it") from error


def content_key(file: Path) -> str:
    """What a shard's rows are known by: the key of its note, else the digest of the file."""
    note = read_note(file) if file.suffix == ".parquet" else None
    return note.key if note else file_sha256(file)


def prompt_schema() -> pyarrow.Schema:
    """The columns of a shard of prompts."""
    return _pyarrow().schema(list(_prompt_fields()))


def sample_schema() -> pyarrow.Schema:
    """The columns of a shard of samples."""
    arrow = _pyarrow()
    text, whole = arrow.string(), arrow.int64()
    columns: Sequence[tuple[str, Any]] = (
        ("prompt", arrow.struct(list(_prompt_fields()))),
        ("index", whole),
        ("response", text),
        ("tokens", whole),
        ("complete", arrow.bool_()),
        ("seed", whole),
        ("end_token", text),
    )
    return arrow.schema(columns)


def lesson_schema() -> pyarrow.Schema:
    """The columns of a shard of demonstrations."""
    arrow = _pyarrow()
    text = arrow.string()
    prompt = arrow.list_(arrow.struct({"role": text, "content": text}))
    return arrow.schema([("id", text), ("prompt", prompt), ("response", text)])


def _prompt_fields() -> Iterator[tuple[str, Any]]:
    arrow = _pyarrow()
    text = arrow.string()
    yield "id", text
    yield "messages", arrow.list_(arrow.struct({"role": text, "content": text}))
    yield from ((name, text) for name in ("topic", "kind", "split"))


def _pyarrow() -> Any:
    import pyarrow

    return pyarrow
