"""Data sets to imitate: instructions with a response, and whole chats.

alpaca    https://github.com/tatsu-lab/stanford_alpaca: instruction, input, output. LLaMA-Factory
          adds `system`, `history` and, for KTO, `kto_tag`; its prompt is instruction, newline,
          input: https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md.
sharegpt  https://github.com/lm-sys/FastChat/blob/main/docs/commands/data_cleaning.md and
          LLaMA-Factory's page: conversations, a list of {from, value}, with human, gpt, system.

Every reply of the assistant is a lesson. Chats that begin with a reply (ShareGPT was cut into
pieces) lose it, and what the user says after the last reply; chats with tools are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from rlaif.data.formats.base import (
    Converted,
    Fields,
    Format,
    LeftOut,
    Turn,
    assistant,
    by_row,
    has,
    objects,
    optional_text,
    renamed,
    text,
    user,
    wrong,
)
from rlaif.data.formats.trl import COLUMNS, lessons

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant"}
_ROLES |= {"assistant": "assistant", "bing": "assistant", "bard": "assistant", "system": "system"}


_SAME_MEANING = (
    *("id", "system", "system_prompt", "label", "kto_tag", "deleted"),
    *("tools", "images", "image", "videos", "audios"),
)


def instruction_turns(fields: Fields, where: str) -> list[Turn]:
    """The prompt of an instruction: the turns of its history, then instruction and input."""
    turns: list[Turn] = []
    history = fields.get("history") or []
    if not isinstance(history, list):
        raise wrong(where, "history", "a list of [instruction, response]", history)
    for exchange in history:
        if not isinstance(exchange, list | tuple) or list(map(type, exchange)) != [str, str]:
            raise wrong(where, "history", "a list of [instruction, response]", exchange)
        turns += [user(exchange[0]), assistant(exchange[1])]
    asked = [text(fields, "instruction", where), optional_text(fields, "input", where)]
    return [*turns, user("\n".join(part for part in asked if part))]


def conversation(fields: Fields, where: str, name: str = "conversations") -> list[Turn]:
    """The turns of a chat, written with from and value or with role and content."""
    turns = objects(fields.get("conversations"), name, where)
    keys = ("from", "value") if turns and "from" in turns[0] else ("role", "content")
    return renamed(turns, *keys, _ROLES, name, where)


def _alpaca(fields: Fields, where: str) -> Iterator[Converted]:
    # The responses of the history are learned too, as LLaMA-Factory does.
    turns = [*instruction_turns(fields, where), assistant(text(fields, "output", where))]
    if not turns[-1]["content"].strip():
        yield LeftOut("an empty response")
        return
    yield from lessons({**_other(fields), "messages": turns}, where)


def _sharegpt(fields: Fields, where: str) -> Iterator[Converted]:
    turns = conversation(fields, where)
    system = turns[:1] if turns and turns[0]["role"] == "system" else []
    turns = turns[len(system) :]
    while turns and turns[0]["role"] == "assistant":
        turns = turns[1:]
    while turns and turns[-1]["role"] != "assistant":
        turns = turns[:-1]
    if not turns:
        yield LeftOut("no reply to a user's turn")
    elif any(turn["role"] == after["role"] for turn, after in pairwise(turns)):
        yield LeftOut("two turns of one speaker in a row")
    else:
        yield from lessons({**_other(fields), "messages": system + turns}, where)


def _other(fields: Fields) -> Fields:
    """The columns of a row that mean the same in TRL's shapes."""
    return {name: fields.get(name) for name in _SAME_MEANING}


ALPACA = Format(
    recognize=has("instruction", "output"),
    convert=by_row(_alpaca),
    columns=COLUMNS | {"instruction", "input", "output"},
    url="https://github.com/tatsu-lab/stanford_alpaca",
)
SHAREGPT = Format(
    recognize=has("conversations"),
    convert=by_row(_sharegpt),
    columns=COLUMNS | {"conversations"},
    url="https://github.com/lm-sys/FastChat/blob/main/docs/commands/data_cleaning.md",
)
