"""Prompts by name or from a JSONL or Parquet file, in any of the usual shapes.

    {"id": …, "messages": [{"role": …, "content": …}, …], "topic": …, "kind": …, "split": …}
    {"prompt": "text"}                                  one user turn
    {"prompt": [{"role": …, "content": …}, …]}          a conversation, as TRL's data sets have it

    {"chosen": [...], "rejected": [...]}                preferences: what the two share

All but the first get an id made from their content; other fields of such a line (a chosen response,
a source) are ignored. `quickstart` names the prompts that ship. If no line names a split,
`prompt_split` decides which prompts are held out.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from constitution.errors import nearest
from constitution.validation import field_problems
from rlaif.data.prompt_split import DEFAULT_RULE, PromptSet, SplitRule, split_prompts
from rlaif.data.records import Prompt, RecordError, iter_rows
from rlaif.data.trl_format import preference

SHIPPED = {"quickstart": "quickstart_prompts.jsonl"}
PROMPT_OF_OTHERS = {
    "id",
    "topic",
    "kind",
    "split",
}  # fields a {"prompt": …} line may have as ours do


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


def _read(path: Path) -> Iterator[Prompt]:
    if not path.is_file():
        why = "it is a folder" if path.is_dir() else "no such file"
        near = nearest(str(path), SHIPPED)
        names = ", ".join(SHIPPED) + (f"; {near}" if near else "")
        raise RecordError(
            f"{path}: cannot be read ({why}); give a JSONL or Parquet file of prompts, or a "
            f"shipped set: {names}"
        )
    yield from parse_prompts(iter_rows(path))


def parse_prompts(rows: Iterable[tuple[str, Prompt | Mapping[str, Any]]]) -> Iterator[Prompt]:
    """The prompts of (place, fields) rows; RecordError for a bad row, or one for the second time.

    A place is as `iter_rows` names it, or what a person finds the row by.
    """
    first_with: dict[str, str] = {}
    for where, fields in rows:
        prompt = fields if isinstance(fields, Prompt) else _parse(dict(fields), where)
        first = first_with.setdefault(prompt.id, where)
        if first != where:
            raise RecordError(
                f"{where}: the same prompt, or the same id ({prompt.id}), as "
                f"{_place(first)}; delete one of them or give it its own id"
            )
        yield prompt


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
    prompt = fields.get("prompt")
    if prompt is None:
        turns = preference(fields, where).prompt
        prompt = [{"role": turn.role, "content": turn.content} for turn in turns]
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    content = json.dumps(messages, sort_keys=True, ensure_ascii=False)
    own = {n: str(fields[n]) for n in PROMPT_OF_OTHERS & fields.keys() if fields[n] is not None}
    return {"id": hashlib.sha256(content.encode()).hexdigest()[:16], **own, "messages": messages}
