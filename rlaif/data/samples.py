"""Responses to judge: those that `sample` drew, or anybody's.

    {"prompt": {"id": …, "messages": […]}, "index": 0, "response": "…", "tokens": 9, …}   ours
    {"prompt": "text", "response": "…"}                     one response to a line
    {"prompt": "text", "responses": ["…", "…"]}             all responses to a prompt
    {"prompt": [{"role": …, "content": …}, …], …}           a conversation in place of the text

Of others, lines with the same prompt belong together, in their order. A response counts as finished
by itself unless the line says `"complete": false`; its tokens are not known (0). The scores that
`rlaif score` adds to ours are not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rlaif.data.prompts import parse_prompts
from rlaif.data.records import Prompt, RecordError, Sample, as_record
from rlaif.data.rows import checked, iter_rows, shown

_OURS = {"index", "tokens", "seed"}
_ENDS = ("complete", "end_token")
_FORMS = '"response": "..." or "responses": ["...", "..."]'


def read_samples(path: Path) -> list[Sample]:
    """The responses in a JSONL or Parquet file. RecordError names file, line and field."""
    return list(iter_samples(path))


def iter_samples(path: Path) -> Iterator[Sample]:
    """As `read_samples`, one by one."""
    return parse_samples(iter_rows(path))


def parse_samples(rows: Iterable[tuple[str, Sample | Mapping[str, Any]]]) -> Iterator[Sample]:
    """The responses of (place, fields) rows. Raises RecordError for a bad row."""
    seen: Counter[str] = Counter()  # responses to each prompt so far, by its id
    for where, row in rows:
        if isinstance(row, Sample):
            yield row
            continue
        ((_, fields),) = checked([(where, row)])
        if fields.keys() >= _OURS:
            own = {name: value for name, value in fields.items() if name != "score"}
            yield as_record(own, Sample, where)
            continue
        prompt, end = _prompt(fields, where), _end(fields)
        for response in _responses(fields, where):
            drawn = {"prompt": prompt, "index": seen[prompt.id], "response": response}
            yield as_record({**drawn, "tokens": 0, "seed": 0, **end}, Sample, where)
            seen[prompt.id] += 1


def _end(fields: Mapping[str, Any]) -> dict[str, Any]:
    """How the responses of a row ended, as fields of a Sample."""
    given = {name: fields[name] for name in _ENDS if fields.get(name) is not None}
    return {"complete": True, **given}


def _prompt(fields: Mapping[str, Any], where: str) -> Prompt:
    given = fields.get("prompt")
    if given is None:
        raise RecordError(f'{where}: missing field: prompt; expected {{"prompt": "...", {_FORMS}}}')
    row = given if isinstance(given, Mapping) else {"prompt": given}
    (prompt,) = parse_prompts([(where, row)])
    return prompt


def _responses(fields: Mapping[str, Any], where: str) -> list[str]:
    one, several = fields.get("response"), fields.get("responses")
    if (one is None) == (several is None):
        raise RecordError(f"{where}: expected {_FORMS}")
    given = [one] if several is None else several
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        name = "response" if several is None else "responses"
        raise RecordError(f"{where}: {name}: expected text (found {shown(one or several)})")
    return given
