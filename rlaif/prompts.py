"""Prompts by name or from a JSONL file, in any of the three shapes people have them in.

    {"id": …, "messages": [{"role": …, "content": …}, …], "topic": …, "kind": …, "split": …}
    {"prompt": "text"}                                  one user turn
    {"prompt": [{"role": …, "content": …}, …]}          a conversation, as TRL's data sets have it

The last two get an id made from their content; what else such a line holds (a chosen response, a
source) is not a prompt's and is left aside. `quickstart` names the prompts that ship.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlaif.records import Prompt, RecordError

SHIPPED = {"quickstart": "quickstart_prompts.jsonl"}
PROMPT_OF_OTHERS = {
    "id",
    "topic",
    "kind",
    "split",
}  # fields a {"prompt": …} line may have as ours do


def load_prompts(source: str | Path, split: str | None = None) -> list[Prompt]:
    """The prompts of a file or of a shipped set, in order; of one split only if it is named.

    Raises RecordError naming file and line: not JSON, no prompt in it, an id for the second time;
    and when nothing is left.
    """
    shipped = SHIPPED.get(str(source))
    if shipped:
        with importlib.resources.as_file(
            importlib.resources.files("rlaif") / "data" / shipped
        ) as path:
            found = list(_read(path))
    else:
        found = list(_read(Path(source).expanduser()))
    chosen = [prompt for prompt in found if split in (None, prompt.split)]
    if not found:
        raise RecordError(f"{source}: no prompts in it")
    if not chosen:
        splits = ", ".join(sorted({prompt.split for prompt in found}))
        raise RecordError(f"{source}: no prompts of split {split!r}; it has: {splits}")
    return chosen


def _read(path: Path) -> Iterator[Prompt]:
    lines_by_id: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                prompt = _parse(line, f"{path}:{number}")
                first = lines_by_id.setdefault(prompt.id, number)
                if first != number:
                    raise RecordError(
                        f"{path}:{number}: the same prompt, or the same id ({prompt.id}), as line "
                        f"{first}; delete one of them or give it its own id"
                    )
                yield prompt
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: not UTF-8 text ({error.reason})") from error
    except OSError as error:
        names = ", ".join(SHIPPED)
        raise RecordError(
            f"{path}: cannot be read ({error.strerror}); give a JSONL file of prompts, or a "
            f"shipped set: {names}"
        ) from error


def _parse(line: str, where: str) -> Prompt:
    try:
        fields = json.loads(line)
        if not isinstance(fields, dict):
            raise RecordError(f"{where}: not a JSON object; mend or delete this line")
        return Prompt.model_validate(_with_messages(fields) if "prompt" in fields else fields)
    except json.JSONDecodeError as error:
        raise RecordError(
            f"{where}: not JSON ({error.msg} at column {error.colno}); mend or delete this line"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise RecordError(
            f'{where}: {field or "prompt"}: {first["msg"]}; a line is {{"prompt": "text"}} or has '
            "id and messages; mend or delete it"
        ) from error


def _with_messages(fields: dict[str, Any]) -> dict[str, Any]:
    """A {"prompt": …} line as our own fields."""
    prompt = fields["prompt"]
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    content = json.dumps(messages, sort_keys=True, ensure_ascii=False)
    own = {name: fields[name] for name in PROMPT_OF_OTHERS & fields.keys()}
    return {"id": hashlib.sha256(content.encode()).hexdigest()[:16], **own, "messages": messages}
