"""Errors of a record that came from a file: they name the file, too.

Records do not carry their file, and trainers take records of any origin; only the caller's
arguments tell.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rlaif.batching.unusable import BatchError
from rlaif.data.records import Lesson, Preference, Prompt, Sample
from rlaif.generation.base import SamplingError
from rlaif.settings import parse_weighted


@contextmanager
def naming_files(*given: tuple[Any, Sequence[Lesson | Prompt]]) -> Iterator[None]:
    """Put the file before the message of a BatchError that names one of its records.

    given: (what the caller gave, the records read from it); only a path, or "WEIGHT*FILE", names a
    file. Where several files have a record of that name, all are named.
    """
    try:
        yield
    except BatchError as error:
        files = [
            _file(argument)
            for argument, records in given
            if isinstance(argument, str | os.PathLike) and error.record in set(_names(records))
        ]
        if not files:
            raise
        raise type(error)(f"{' or '.join(files)}: {error}", error.record) from error


@contextmanager
def naming_prompts(given: Any, prompts: Sequence[Prompt]) -> Iterator[None]:
    """As `naming_files`, for the SamplingErrors of a sampler's own process, which are text."""
    try:
        yield
    except SamplingError as error:
        names = [f"prompt {prompt.id}{after}" for prompt in prompts for after in (":", " ")]
        named = any(name in str(error) for name in names)
        if not (named and isinstance(given, str | os.PathLike)):
            raise
        raise SamplingError(f"{os.fspath(given)}: {error}") from error


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
