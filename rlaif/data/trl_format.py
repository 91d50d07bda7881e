"""Data sets made for other trainers, read as our records. The shapes, row by row:

    preferences     {"prompt", "chosen", "rejected"}      each a text or a list of {role, content}
                    {"chosen", "rejected"}                two conversations that part at the last
                                                          reply: what they share is the prompt
    lessons (SFT)   {"prompt", "completion"}              or "response"; text or messages
                    {"messages"}                          every reply of the assistant is a lesson
                    {"text"}                              plain text
                    a preference                          its chosen response
                    a Sample of ours

A text prompt is the user's only turn, a text response the assistant's. `chosen` may repeat the
prompt before its reply. Without `prob_chosen` the label is a hard one: prob_chosen = 1. Without
`id` the id is made from the content. Other columns (scores, sources) are ignored,
but one whose name is nearly one of ours is an error.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import takewhile
from typing import Any

from rlaif.data.records import (
    Demonstration,
    Lesson,
    PlainText,
    Preference,
    RecordError,
    Sample,
    as_record,
)

_LIKE_OURS = 0.85  # difflib's ratio from which a column is a misspelled one of ours

_Turn = dict[str, Any]


def preference(fields: Mapping[str, Any], where: str) -> Preference:
    """Convert one row to a Preference.

    where: file and row, for errors. Raises RecordError naming `where` and the invalid field.
    """
    _refuse_misspelled(fields, where)
    chosen = _turns(fields, "chosen", "assistant", where)
    rejected = _turns(fields, "rejected", "assistant", where)
    if fields.get("prompt") is None:
        prompt = _shared(chosen, rejected, where)
    else:
        prompt = _turns(fields, "prompt", "user", where)
    content: dict[str, Any] = {
        "prompt": prompt,
        "chosen": _reply(chosen, prompt, "chosen", where),
        "rejected": _reply(rejected, prompt, "rejected", where),
    }
    content |= {"id": _id(fields, content), "prob_chosen": fields.get("prob_chosen", 1.0)}
    optional = {
        name: fields[name] for name in ("traits", "receipt") if fields.get(name) is not None
    }
    return as_record(content | optional, Preference, where)


def lessons(fields: Mapping[str, Any], where: str) -> Iterator[Lesson]:
    """Yield the lessons of one row; `messages` has one for every reply of the assistant.

    Raises RecordError for an invalid field, or a row of none of the shapes above.
    """
    reply_field = next(
        (name for name in ("completion", "response") if fields.get(name) is not None), ""
    )
    if fields.get("chosen") is not None:
        yield preference(fields, where)
    elif reply_field and isinstance(fields.get("prompt"), dict):
        yield as_record(fields, Sample, where)
    elif reply_field and fields.get("prompt") is not None:
        prompt = _turns(fields, "prompt", "user", where)
        (reply,) = _reply(
            _turns(fields, reply_field, "assistant", where), prompt, reply_field, where
        )
        yield _demonstration(prompt, reply, fields, where)
    elif fields.get("messages") is not None:
        yield from _replies(_turns(fields, "messages", "user", where), fields, where)
    elif fields.get("text") is not None:
        text = {"text": fields["text"]}
        yield as_record(text | {"id": _id(fields, text)}, PlainText, where)
    else:
        raise RecordError(
            f"{where}: nothing to imitate among its fields ({', '.join(fields) or 'none'}); a row "
            "has prompt and completion, messages, text, or prompt, chosen and rejected"
        )


def _replies(turns: list[_Turn], fields: Mapping[str, Any], where: str) -> Iterator[Lesson]:
    places = [place for place, turn in enumerate(turns) if turn.get("role") == "assistant"]
    if not places or places[0] == 0:
        raise RecordError(
            f"{where}: messages: expected a user's turn and then a reply of the assistant; "
            "correct or delete this line"
        )
    for place in places:
        yield _demonstration(turns[:place], turns[place], fields, where)


def _demonstration(
    prompt: list[_Turn], reply: _Turn, fields: Mapping[str, Any], where: str
) -> Demonstration:
    content = {"prompt": prompt, "response": reply.get("content")}
    return as_record(content | {"id": _id(fields, content)}, Demonstration, where)


def _turns(fields: Mapping[str, Any], name: str, role: str, where: str) -> list[_Turn]:
    """A field as messages: text is one turn of `role`. A message's keys without a value are
    dropped."""
    value = fields.get(name)
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        return [{key: v for key, v in turn.items() if v is not None} for turn in value]
    shown = "nothing" if value is None else repr(value)[:60]
    raise RecordError(
        f"{where}: {name}: a text or a list of {{role, content}} is needed (found {shown}); "
        "correct or delete this line"
    )


def _shared(chosen: list[_Turn], rejected: list[_Turn], where: str) -> list[_Turn]:
    """The prompt of two whole conversations: what they have in common."""
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))
    prompt = [turn for turn, _ in alike]
    if not prompt:
        raise RecordError(
            f"{where}: prompt: there is none, and chosen and rejected do not begin with the same "
            "turns; give a prompt, or whole conversations as messages"
        )
    if len(prompt) == len(chosen) == len(rejected):
        raise RecordError(f"{where}: rejected: the same as chosen; delete this line")
    return prompt


def _reply(turns: list[_Turn], prompt: list[_Turn], name: str, where: str) -> list[_Turn]:
    """The one reply of the assistant, without the prompt where that is repeated before it."""
    rest = turns[len(prompt) :] if turns[: len(prompt)] == prompt else turns
    if len(rest) != 1 or rest[0].get("role") != "assistant":
        roles = ", ".join(str(turn.get("role")) for turn in rest) or "nothing"
        raise RecordError(
            f"{where}: {name}: after the prompt one reply of the assistant is needed (found "
            f"{roles}); correct or delete this line"
        )
    return rest


def _refuse_misspelled(fields: Mapping[str, Any], where: str) -> None:
    ours = Preference.model_fields.keys()
    for name in fields.keys() - ours:
        near = difflib.get_close_matches(name, ours - fields.keys(), n=1, cutoff=_LIKE_OURS)
        if near:
            raise RecordError(f"{where}: {name}: unknown field; did you mean {near[0]}?")


def _id(fields: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    return _content_id(content) if fields.get("id") is None else str(fields["id"])


def _content_id(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
