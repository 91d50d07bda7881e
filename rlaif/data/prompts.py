"""Prompts by name or from a file of rows (rows.py), in any of the usual shapes.

    {"id": …, "messages": [{"role": …, "content": …}, …], "topic": …, "kind": …, "split": …}
    {"prompt": "text"}                                  one user turn
    {"prompt": [{"role": …, "content": …}, …]}          a conversation, as TRL's data sets have it

    {"chosen": [...], "rejected": [...]}                preferences: what the two share
    a row of one of the data sets in formats/           the prompt of its pairs, each once

All but the first get an id made from their content. A `system` column begins the prompt; other
fields of such a line (a chosen response, a source) are not used, and named in one line on stderr.
`quickstart` names the prompts that ship, `facts` the questions of common knowledge
(rlaif/evaluation/rules/facts.py). If no line names a split, `prompt_split` decides which
prompts are held out.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from constitution.errors import nearest
from constitution.validation import field_problems
from rlaif.data.datasets import convert_rows
from rlaif.data.formats import FORMATS, recognized
from rlaif.data.formats.base import Fields, Turn, content_id
from rlaif.data.formats.trl import COLUMNS, prompt_of
from rlaif.data.notes import ReadingNotes
from rlaif.data.prompt_split import DEFAULT_RULE, PromptSet, SplitRule, split_prompts
from rlaif.data.records import Demonstration, Preference, Prompt, RecordError
from rlaif.data.rows import Row, checked, iter_rows
from rlaif.data.shards.folder import is_shard_folder

SHIPPED = {"quickstart": "quickstart_prompts.jsonl", "facts": "facts_prompts.jsonl"}
PROMPT_OF_OTHERS = {
    "id",
    "topic",
    "kind",
    "split",
}  # fields a {"prompt": …} line may have as ours do
FAMILY = "family"  # of an attack, which `rlaif redteam adopt` writes and reads


def load_prompts(
    source: str | Path, split: str | None = None, rule: SplitRule = DEFAULT_RULE
) -> list[Prompt]:
    """The prompts of a file or a shipped set, in order; with `split`, those of that split.

    Raises as `read_prompts`, and RecordError for an empty split.
    """
    return read_prompts(source, rule).of(split)


def read_prompts(source: str | Path, rule: SplitRule = DEFAULT_RULE) -> PromptSet:
    """All prompts of a file or a shipped set, with their splits.

    rule: decides the splits if the file names none. Raises RecordError naming file and line, for an
    invalid line, a line without a prompt, or a repeated id; and for a file without prompts.
    """
    shipped = SHIPPED.get(str(source))
    if shipped:
        with importlib.resources.as_file(importlib.resources.files("rlaif.data") / shipped) as path:
            prompts = list(_read(path))
    else:
        prompts = list(_read(Path(source).expanduser()))
    if not prompts:
        raise RecordError(f"{source}: no prompts in it; give at least one")
    return split_prompts(str(source), prompts, rule)


def stream_prompts(path: Path) -> Iterator[Prompt]:
    """The prompts of a file, as `read_prompts`, in constant memory: repeated ids are not seen.

    Of data sets whose rows share prompts each is given once, and its id is kept for that.
    """
    return _read(path, unique=False)


def _read(path: Path, *, unique: bool = True) -> Iterator[Prompt]:
    if not path.is_file() and not is_shard_folder(path):
        why = "it is a folder" if path.is_dir() else "no such file"
        near = nearest(str(path), SHIPPED)
        names = ", ".join(SHIPPED) + (f"; {near}" if near else "")
        raise RecordError(
            f"{path}: cannot be read ({why}); give a JSONL or Parquet file of prompts, or a "
            f"shipped set: {names}"
        )
    rows = iter_rows(path)
    first = next(rows, None)
    if first is None:
        return
    name = recognized(first[1])
    rows = chain([first], rows)
    if turns := FORMATS[name].prompt if name else None:
        rows = _with_turns(rows, turns)
    if _has_prompts(first[1]) or name in ("", "trl"):
        yield from _of_rows(rows, path, repeats=name not in ("", "trl"), unique=unique)
    else:
        yield from _of_pairs(rows, path, name)


def _with_turns(rows: Iterator[Row], turns: Callable[[str], list[Turn]]) -> Iterator[Row]:
    for where, fields in rows:
        prompt = fields.get("prompt")
        yield where, {**fields, "prompt": turns(prompt) if isinstance(prompt, str) else prompt}


def _has_prompts(fields: Fields) -> bool:
    """Whether a row's prompt can be taken as it is, not as a transcript or a tree."""
    prompt = fields.get("prompt")
    transcript = isinstance(prompt, str) and prompt.lstrip().startswith("Human:")
    return isinstance(prompt, str | list) and not transcript


def parse_prompts(rows: Iterable[tuple[str, Prompt | Mapping[str, Any]]]) -> Iterator[Prompt]:
    """The prompts of (place, fields) rows; RecordError for a bad row, or one for the second time.

    A place is as `iter_rows` names it, or what a person finds the row by.
    """
    first_with: dict[str, str] = {}
    for where, row in rows:
        if isinstance(row, Prompt):
            prompt = row
        else:
            ((_, fields),) = checked([(where, row)])
            prompt = _parse(fields, where)
        first = first_with.setdefault(prompt.id, where)
        if first != where:
            raise RecordError(
                f"{where}: the same prompt, or the same id ({prompt.id}), as "
                f"{_place(first)}; delete one of them or give it its own id"
            )
        yield prompt


def _of_rows(rows: Iterator[Row], path: Path, *, repeats: bool, unique: bool) -> Iterator[Prompt]:
    """The prompts of rows as they are. repeats: a prompt may be in several of them. unique: an id
    that comes twice is an error."""
    notes = ReadingNotes(str(path), "trl", COLUMNS | Prompt.model_fields.keys() | {FAMILY})
    watched = notes.watch(rows)
    if repeats:
        prompts = _each_once(watched)
    elif unique:
        prompts = parse_prompts(watched)
    else:
        prompts = (_parse(fields, where) for where, fields in watched)
    for prompt in prompts:
        notes.records += 1
        yield prompt
    notes.print()


def _each_once(rows: Iterable[Row]) -> Iterator[Prompt]:
    seen = set()
    for where, fields in rows:
        prompt = _parse({n: value for n, value in fields.items() if n != "id"}, where)
        if prompt.id not in seen:
            seen.add(prompt.id)
            yield prompt


def _of_pairs(rows: Iterator[Row], path: Path, name: str) -> Iterator[Prompt]:
    """The prompts of a data set's pairs or demonstrations, each once."""
    notes, seen = ReadingNotes(str(path), name, FORMATS[name].columns), set()
    for record in convert_rows(FORMATS[name], rows, notes, lessons=True):
        if isinstance(record, Preference | Demonstration):
            messages = [message.model_dump() for message in record.prompt]
            prompt = _parse({"prompt": messages}, str(path))
            if prompt.id not in seen:
                seen.add(prompt.id)
                yield prompt
    notes.print()


def _place(where: str) -> str:
    """A prompt's position in its file: "line 3" of "prompts.jsonl:3", "row 3" of "x: row 3, …"."""
    match = re.search(r":(\d+)$|: (row \d+),", where)
    if match is None:  # not of a file
        return where
    return f"line {match[1]}" if match[1] else match[2]


def _parse(fields: dict[str, Any], where: str) -> Prompt:
    if "prompt" in fields or "chosen" in fields:
        fields = _with_messages(fields, where)
    if fields.get("split", "") in (None, ""):  # a Parquet column may be empty for a row
        fields = {name: value for name, value in fields.items() if name != "split"}
    try:
        return Prompt.model_validate(fields)
    except ValidationError as error:
        problem = field_problems(error, Prompt, noun="field")[0]
        raise RecordError(
            f"{where}: {problem.field or 'prompt'}: {problem.message}; a line is "
            '{"prompt": "text"} or has id and messages; correct or delete it'
        ) from error


def _with_messages(fields: dict[str, Any], where: str) -> dict[str, Any]:
    """A {"prompt": …} or {"chosen": …, "rejected": …} line as our own fields."""
    messages = prompt_of(fields, where)
    own = {n: str(fields[n]) for n in PROMPT_OF_OTHERS & fields.keys() if fields[n] is not None}
    return {"id": content_id(messages), **own, "messages": messages}
