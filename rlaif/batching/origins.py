"""Errors about records name the file that the record came from.

Records do not carry their file, and trainers take records of any origin; only the caller's
arguments tell.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from rlaif.batching.unusable import BatchError
from rlaif.data.records import Lesson, Preference, Prompt, Sample
from rlaif.settings import parse_weighted


class Origins:
    """The files that records came from.

    given: (what the caller gave, the records read from it); only a path, or "WEIGHT*FILE", names a
    file.
    """

    def __init__(self, *given: tuple[Any, Sequence[Lesson | Prompt]]) -> None:
        self._given = given

    @cached_property
    def _files(self) -> dict[str, list[str]]:
        """The files of each record's name, without repeats."""
        files: dict[str, list[str]] = {}
        for argument, records in self._given:
            if isinstance(argument, str | os.PathLike):
                file = _file(argument)
                for name in set(_names(records)):
                    files.setdefault(name, []).append(file)
        return files

    def named(self, error: BatchError) -> BatchError:
        """The error with the file before its message if it names one of the records, else as it is.
        Where several files have a record of that name, all are named."""
        files = self._files.get(error.record)
        if not files:
            return error
        return type(error)(f"{' or '.join(dict.fromkeys(files))}: {error}", error.record)


@contextmanager
def naming_files(*given: tuple[Any, Sequence[Lesson | Prompt]]) -> Iterator[None]:
    """Put the file before the message of a BatchError that names one of its records; given: as in
    `Origins`."""
    try:
        yield
    except BatchError as error:
        named = Origins(*given).named(error)
        if named is error:
            raise
        raise named from error


def _file(argument: str | os.PathLike[str]) -> str:
    return parse_weighted(os.fspath(argument), "source", "FILE", error=BatchError)[1]


def _names(records: Sequence[Lesson | Prompt]) -> Iterable[str]:
    """What errors call these records."""
    for record in records:
        if isinstance(record, Preference):
            yield from (f"{record.id} (chosen)", f"{record.id} (rejected)")
        elif isinstance(record, Sample):
            yield f"{record.prompt.id}#{record.index}"
        else:
            yield record.id
