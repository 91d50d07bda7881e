"""The records that travel between stages, and how they are kept on disk.

    Prompt         a conversation that ends with the user's turn
    Sample         one response of a policy to a prompt
    Preference     a labeled pair: chosen, rejected, and P(chosen is better)
    Demonstration  a response to imitate, written by a person or a model
    PlainText      text without turns, as in pre-training data
    HumanVerdict   what a person says of a policy's response beside the start's

Preference files have the columns that TRL and OpenRLHF read as they are (`prompt`, `chosen`,
`rejected`, each a list of {role, content}), plus those of Preference below. Such files, and files
made for TRL, are read by datasets.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from constitution.schema import Message
from constitution.validation import field_problems
from rlaif.data.files import RecordError as RecordError  # raised here, imported from here
from rlaif.data.rows import iter_rows

if TYPE_CHECKING:
    import pyarrow

_ROWS_AT_ONCE = 1000
"""Rows of a Parquet file that are held together while it is written."""


ENDS = ("chosen_complete", "rejected_complete", "chosen_end_token", "rejected_end_token")
"""Fields of a Preference that say how its responses ended; files of others lack them."""


def _not_empty(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    if not messages[-1].content.strip():
        raise ValueError("the last message is empty")
    return messages


_Asked = Annotated[tuple[Message, ...], Field(min_length=1), AfterValidator(_not_empty)]
"""The prompt of a record, whose last message is not empty."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Prompt(_Record):
    """A conversation to respond to."""

    id: str = Field(min_length=1)
    messages: tuple[Message, ...] = Field(min_length=1)  # the last is a user's, and not empty
    topic: str = ""
    kind: str = ""  # e.g. everyday, support, borderline, harmful
    split: str = "train"  # or heldout, or another name (prompt_split.py)

    @field_validator("messages")
    @classmethod
    def _ends_with_the_user(cls, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        if messages[-1].role != "user":
            raise ValueError("the last message must be the user's")
        return _not_empty(messages)


class Sample(_Record):
    """One response of a policy to a prompt."""

    prompt: Prompt
    index: int  # among the responses to one prompt, from 0
    response: str
    tokens: int  # length of the response, end token included
    complete: bool  # ended by an end token, not by max_new_tokens
    seed: int  # this response was drawn with
    end_token: str = ""  # the one that ended it, such as "<|im_end|>"; "": none, or not known


class Preference(_Record):
    """A labeled pair in TRL's conversational columns.

    prob_chosen: P(chosen is better), at least ½ in labels of ours. traits: the same by trait, in
    [0, 1], since a trait may disagree with the whole; None where the trait was not judged.
    complete, end_token: as in Sample; a response of unknown origin counts as complete. No loss
    teaches an end after a response that was cut off.
    """

    id: str
    prompt: _Asked
    chosen: tuple[Message, ...] = Field(min_length=1, max_length=1)
    rejected: tuple[Message, ...] = Field(min_length=1, max_length=1)
    prob_chosen: float = Field(ge=0.0, le=1.0)
    traits: dict[str, float | None] = Field(default_factory=dict)
    chosen_complete: bool = True
    rejected_complete: bool = True
    chosen_end_token: str = ""
    rejected_end_token: str = ""
    receipt: str = ""  # JSON: where the label came from (feedback/receipts.py)

    @property
    def chosen_text(self) -> str:
        """Content of the better response, the only message of `chosen`."""
        return self.chosen[0].content

    @property
    def rejected_text(self) -> str:
        """Content of the worse response, the only message of `rejected`."""
        return self.rejected[0].content


class Demonstration(_Record):
    """A conversation with a response to imitate, written by a person or a model."""

    id: str
    prompt: _Asked
    response: str


class PlainText(_Record):
    """Text without turns, as in pre-training data."""

    id: str
    text: str


class HumanVerdict(_Record):
    """What a person says of a policy's response beside the start's to the same prompt.

    response: the text that was read, to be sure that it is the one that is evaluated.
    """

    policy: str
    prompt: str  # prompt id
    index: int = 0
    verdict: Literal["better", "worse", "tie"]
    response: str | None = None
    annotator: str = ""


Lesson = Sample | Preference | Demonstration | PlainText
"""Any record that supervised fine-tuning imitates; of a Preference, the chosen response."""

Record = TypeVar("Record", bound=_Record)


def read_jsonl(path: Path, kind: type[Record]) -> list[Record]:
    """All records of a JSONL file; raises as `iter_jsonl`."""
    return list(iter_jsonl(path, kind))


def iter_jsonl(path: Path, kind: type[Record]) -> Iterator[Record]:
    """Yield the records of a file of rows (rows.py), read one by one.

    Raises RecordError as `iter_rows`, and for a row that is not such a record, naming the line and
    the field.
    """
    for where, fields in iter_rows(path):
        yield as_record(fields, kind, where)


def as_record(fields: Mapping[str, Any], kind: type[Record], where: str) -> Record:
    """Validate the fields of a record of this kind.

    where: file and line, for errors. Raises RecordError naming `where` and the invalid field.
    """
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise _unreadable(error, kind, where) from error


def _unreadable(error: ValidationError, kind: type[_Record], where: str) -> RecordError:
    problem = field_problems(error, kind, noun="field")[0]
    return RecordError(
        f"{where}: {kind.__name__}.{problem.field or 'line'}: {problem.message}; "
        "correct or delete this line and run again"
    )


def write_jsonl(path: Path, records: Iterable[_Record]) -> None:
    """Write records as JSONL, atomically; raises as `atomic_open`."""
    with atomic_open(path) as out:
        for record in records:
            out.write(record.model_dump_json() + "\n")


@contextmanager
def atomic_open(path: Path) -> Iterator[IO[str]]:
    """Open a text file that replaces `path` once it is complete and synced to disk.

    Until then, and after any error, `path` is as it was. Raises RecordError when the disk is full
    or the folder cannot be written.
    """
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as out:
        yield out
        out.flush()
        os.fsync(out.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` for the block to write, which then takes its place.

    After any error `path` is as it was. Raises RecordError as `atomic_open`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise RecordError(
            f"{path}: cannot be written ({error.strerror}); nothing was changed"
        ) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write one indented JSON value, atomically; raises as `atomic_open`."""
    with atomic_open(path) as out:
        json.dump(value, out, indent=2, ensure_ascii=False)
        out.write("\n")


def write_preferences(
    path: Path, preferences: Iterable[Preference], traits: Collection[str] | None = None
) -> None:
    """Write labels atomically, as Parquet or (.jsonl) JSONL, readable by `datasets` and TRL.

    traits: fields of the Parquet column `traits`; with them the preferences are streamed, without
    (None) all are held in memory to find their traits. Raises RecordError when the file cannot be
    written.
    """
    if path.suffix == ".jsonl":
        write_jsonl(path, preferences)
        return
    if traits is None:
        preferences = list(preferences)
        traits = {trait for preference in preferences for trait in preference.traits}
    rows = (preference.model_dump() for preference in preferences)
    with replacing(path) as partial:
        write_parquet(partial, rows, preference_schema(sorted(traits)))


def preference_schema(traits: Sequence[str]) -> pyarrow.Schema:
    """The columns of a Parquet file of preferences; traits: the fields of the column `traits`."""
    import pyarrow

    text, number = pyarrow.string(), pyarrow.float64()
    messages = pyarrow.list_(pyarrow.struct({"role": text, "content": text}))
    columns = dict.fromkeys(("prompt", "chosen", "rejected"), messages)
    columns = {"id": text, **columns, "prob_chosen": number}
    if traits:  # Parquet has no struct without fields
        columns["traits"] = pyarrow.struct(dict.fromkeys(traits, number))
    columns |= {"chosen_complete": pyarrow.bool_(), "rejected_complete": pyarrow.bool_()}
    columns |= {"chosen_end_token": text, "rejected_end_token": text}
    return pyarrow.schema(columns | {"receipt": text})


def write_parquet(path: Path, rows: Iterator[dict[str, Any]], schema: pyarrow.Schema) -> None:
    """Write rows, a thousand at a time, and sync the file to disk."""
    import pyarrow
    from pyarrow import parquet

    with path.open("wb") as file:
        with parquet.ParquetWriter(file, schema) as out:
            while chunk := list(islice(rows, _ROWS_AT_ONCE)):
                out.write_table(pyarrow.Table.from_pylist(chunk, schema))
        file.flush()
        os.fsync(file.fileno())
