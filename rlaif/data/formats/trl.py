"""TRL's shapes of a row, which are also ours; other formats are brought into them.

    preferences     {"prompt", "chosen", "rejected"}      each a text or a list of {role, content}
                    {"chosen", "rejected"}                two conversations that part at the last
                                                          reply, or two texts: what they share is
                                                          the prompt
    lessons (SFT)   {"prompt", "completion"}              or "response"; text or messages
                    {"messages"}                          every reply of the assistant is a lesson
                    {"text"}                              plain text
                    a preference                          its chosen response
                    a Sample of ours

Described in https://huggingface.co/docs/trl/v0.17.0/dataset_formats. A text prompt is the user's
only turn, a text response the assistant's. `chosen` may repeat the prompt before its reply. Without
`prob_chosen` the label is a hard one: prob_chosen = 1. Without `id` the id is made from the
content. A column whose name is nearly one of ours is an error.

Columns that change what a row means are heeded: `system` (and `system_prompt`) begins the prompt;
`label: false` (an unpaired preference, KTO) and `deleted: true` leave the row out; so do equal
responses and, without prob_chosen, scores (`score_chosen` and `score_rejected`, `chosen-rating`
and the like, or a `rating` of two) of which that of `chosen` is not the higher one. A reply whose
message has `weight: 0` (or `loss` or `train: false`) is no lesson. Tools, images and other inputs
that are not text are refused, as is a prompt that ends with the assistant's turn.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import takewhile
from typing import Any

from rlaif.data.formats.base import (
    WEIGHTS,
    Converted,
    Fields,
    Format,
    LeftOut,
    Turn,
    assistant,
    by_row,
    content_id,
    number,
    optional_text,
    user,
    wrong,
)
from rlaif.data.records import (
    Demonstration,
    PlainText,
    Preference,
    RecordError,
    Sample,
    as_record,
)
from rlaif.data.rows import shown, shown_name

_LIKE_OURS = 0.85  # difflib's ratio from which a column is a misspelled one of ours

_SCORE = re.compile("score|rating|reward")

SYSTEM = ("system", "system_prompt")

_NOT_TEXT = ("tools", "images", "image", "videos", "audios", "history", "chat_template_kwargs")
"""Columns that add something to the prompt which these shapes do not carry."""

COLUMNS = frozenset(
    {*Preference.model_fields, *Sample.model_fields, *SYSTEM, *_NOT_TEXT}
    | {"completion", "messages", "text", "label", "kto_tag", "deleted"}
    | {"score_chosen", "score_rejected", "chosen_score", "rejected_score"}
    | {"chosen_rating", "rejected_rating", "chosen-rating", "rejected-rating"}
)


def preference(fields: Fields, where: str) -> Preference | LeftOut:
    """Convert one row to a Preference, or say why it is left out.

    where: file and row, for errors. Raises RecordError naming `where` and the invalid field.
    """
    _refuse_misspelled(fields, where)
    _refuse_other_inputs(fields, where)
    if reason := _why_left_out(fields, where):
        return LeftOut(reason)
    prompt, chosen, rejected = _three_parts(fields, where)
    if prompt == chosen == rejected:  # whole conversations, the same to their end
        return LeftOut("identical responses")
    content: dict[str, Any] = {
        "prompt": _ends_with_user(_with_system(prompt, fields, where), "prompt", where),
        "chosen": _reply(chosen, prompt, "chosen", where),
        "rejected": _reply(rejected, prompt, "rejected", where),
    }
    if content["chosen"] == content["rejected"]:
        return LeftOut("identical responses")
    content |= {"id": _id(fields, content), "prob_chosen": fields.get("prob_chosen", 1.0)}
    optional = {
        name: fields[name] for name in ("traits", "receipt") if fields.get(name) is not None
    }
    return as_record(content | optional, Preference, where)


def lessons(fields: Fields, where: str) -> Iterator[Converted]:
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
        yield _completion(fields, reply_field, where)
    elif fields.get("messages") is not None:
        yield from _replies(fields, where)
    elif fields.get("text") is not None:
        yield _plain_text(fields, where)
    else:
        names = shown_name(", ".join(fields), 200) or "none"
        raise RecordError(
            f"{where}: nothing to imitate among its fields ({names}); a row "
            "has prompt and completion, messages, text, or prompt, chosen and rejected"
        )


def prompt_of(fields: Fields, where: str) -> list[Turn]:
    """The prompt of a row, its system message included: given, or what its responses share."""
    _refuse_other_inputs(fields, where)
    if fields.get("prompt") is None:
        prompt, chosen, rejected = _three_parts(fields, where)
        if prompt == chosen == rejected:  # the same to their end: all but the reply is the prompt
            prompt = prompt[:-1]
    else:
        prompt = turns(fields, "prompt", "user", where)
    return _with_system(prompt, fields, where)


def turns(fields: Fields, name: str, role: str, where: str) -> list[Turn]:
    """A field as messages: text is one turn of `role`. A message's keys without a value are
    dropped."""
    value = fields.get(name)
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        return [{key: v for key, v in turn.items() if v is not None} for turn in value]
    raise wrong(where, name, "a text or a list of {role, content}", value)


# ── lessons ──────────────────────────────────────────────────────────────────────────────────


def _completion(fields: Fields, reply_field: str, where: str) -> Converted:
    _refuse_other_inputs(fields, where)
    if reason := _why_left_out(fields, where):
        return LeftOut(reason)
    prompt = turns(fields, "prompt", "user", where)
    (reply,) = _reply(turns(fields, reply_field, "assistant", where), prompt, reply_field, where)
    prompt = _ends_with_user(_with_system(prompt, fields, where), "prompt", where)
    return _demonstration(prompt, reply, fields, where)


def _replies(fields: Fields, where: str) -> Iterator[Converted]:
    _refuse_other_inputs(fields, where)
    if reason := _why_left_out(fields, where):
        yield LeftOut(reason)
        return
    conversation = _with_system(turns(fields, "messages", "user", where), fields, where)
    places = [place for place, turn in enumerate(conversation) if turn.get("role") == "assistant"]
    if not places or any(conversation[at - 1].get("role") != "user" or at == 0 for at in places):
        raise RecordError(
            f"{where}: messages: expected a user's turn and then a reply of the assistant; "
            "correct or delete this line"
        )
    plain = [_without_weight(turn) for turn in conversation]
    for place in places:
        if any(conversation[place].get(key) in (0, False) for key in WEIGHTS):
            yield LeftOut("weight: 0")
        else:
            yield _demonstration(plain[:place], plain[place], fields, where)


def _without_weight(turn: Turn) -> Turn:
    """A turn without weights of 0 or 1; others remain, and are refused as unknown fields."""
    return {key: v for key, v in turn.items() if key not in WEIGHTS or v not in (0, 1)}


def _demonstration(prompt: list[Turn], reply: Turn, fields: Fields, where: str) -> Demonstration:
    if unknown := sorted(reply.keys() - {"role", "content"}):
        raise RecordError(
            f"{where}: {shown_name(unknown[0])}: unknown field of the reply; remove it, or this "
            "line if the reply is more than its text"
        )
    content = {"prompt": prompt, "response": reply.get("content")}
    return as_record(content | {"id": _id(fields, content)}, Demonstration, where)


def _plain_text(fields: Fields, where: str) -> PlainText:
    if fields.get("role") is not None:
        raise RecordError(
            f"{where}: role: a message of {shown(fields['role'])} outside its conversation; give "
            "whole conversations (messages), or remove the field if this is plain text"
        )
    content = {"text": fields["text"]}
    return as_record(content | {"id": _id(fields, content)}, PlainText, where)


# ── the parts of a pair ──────────────────────────────────────────────────────────────────────


def _three_parts(fields: Fields, where: str) -> tuple[list[Turn], list[Turn], list[Turn]]:
    """Prompt, chosen and rejected as turns; the latter two may repeat the prompt."""
    if fields.get("prompt") is None and all(
        isinstance(fields.get(name), str) for name in ("chosen", "rejected")
    ):
        return _shared_text(fields["chosen"], fields["rejected"], where)
    chosen = turns(fields, "chosen", "assistant", where)
    rejected = turns(fields, "rejected", "assistant", where)
    if fields.get("prompt") is None:
        return _shared_turns(chosen, rejected, where), chosen, rejected
    return turns(fields, "prompt", "user", where), chosen, rejected


def _shared_text(
    chosen: str, rejected: str, where: str
) -> tuple[list[Turn], list[Turn], list[Turn]]:
    """Two texts that begin with the same prompt; it ends before the last space they share."""
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))
    shared = "".join(character for character, _ in alike)
    if chosen == rejected:
        same = [user(chosen)]
        return same, same, same
    end = max(shared.rfind(" "), shared.rfind("\n"))
    if not shared[: max(end, 0)].strip():
        raise RecordError(
            f"{where}: prompt: there is none, and chosen and rejected do not begin with the same "
            "words; give a prompt, or whole conversations as messages"
        )
    return [user(shared[:end])], [assistant(chosen[end:])], [assistant(rejected[end:])]


def _shared_turns(chosen: list[Turn], rejected: list[Turn], where: str) -> list[Turn]:
    """The prompt of two whole conversations: what they have in common."""
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))
    prompt = [turn for turn, _ in alike]
    if not prompt:
        raise RecordError(
            f"{where}: prompt: there is none, and chosen and rejected do not begin with the same "
            "turns; give a prompt, or whole conversations as messages"
        )
    return prompt


def _reply(conversation: list[Turn], prompt: list[Turn], name: str, where: str) -> list[Turn]:
    """The one reply of the assistant, without the prompt where that is repeated before it."""
    repeated = conversation[: len(prompt)] == prompt
    rest = conversation[len(prompt) :] if repeated else conversation
    if len(rest) != 1 or rest[0].get("role") != "assistant":
        roles = shown_name(", ".join(str(turn.get("role")) for turn in rest)) or "nothing"
        raise RecordError(
            f"{where}: {name}: after the prompt one reply of the assistant is needed (found "
            f"{roles}); correct or delete this line"
        )
    return rest


def _with_system(prompt: list[Turn], fields: Fields, where: str) -> list[Turn]:
    """The prompt, begun by the system message of a `system` column unless it has the same."""
    for name in SYSTEM:
        content = optional_text(fields, name, where)
        message = {"role": "system", "content": content}
        if not content or (prompt and prompt[0] == message):
            continue
        if prompt and prompt[0].get("role") == "system":
            raise RecordError(
                f"{where}: {name}: another system message than the one the conversation begins "
                "with; keep one of them"
            )
        prompt = [message, *prompt]
    return prompt


def _ends_with_user(prompt: list[Turn], name: str, where: str) -> list[Turn]:
    role = prompt[-1].get("role")
    if role == "assistant":
        raise RecordError(
            f"{where}: {name}: ends with a turn of the assistant (a prefill), which a chat "
            "template closes before the response; move its text to the beginning of the "
            "responses, or delete this line"
        )
    if role == "system":
        raise RecordError(
            f"{where}: {name}: has no turn of the user after the system message; add it, or delete "
            "this line"
        )
    return prompt


# ── columns that change the meaning ──────────────────────────────────────────────────────────


def _why_left_out(fields: Fields, where: str) -> str:
    """Why the row's own columns say that it must not be learned from; "" where they do not."""
    if not _label(fields, where):
        return "label: false"
    if fields.get("deleted") is True:
        return "deleted"
    if fields.get("prob_chosen") is not None:
        return ""
    for better, worse in _score_columns(tuple(fields)):
        chosen, rejected = number(fields.get(better)), number(fields.get(worse))
        if chosen is not None and rejected is not None and chosen <= rejected:
            return "equal scores" if chosen == rejected else "a lower score of chosen"
    rating = fields.get("rating")
    if isinstance(rating, list) and len(rating) == 2 and rating[0] == rating[1] is not None:
        return "equal scores"
    return ""


@lru_cache(maxsize=64)  # the rows of a file have the same columns
def _score_columns(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """The pairs of columns that score chosen and rejected, by their names."""
    pairs = ((name, name.replace("chosen", "rejected")) for name in names if _SCORE.search(name))
    return tuple((better, worse) for better, worse in pairs if better != worse and worse in names)


def _label(fields: Fields, where: str) -> bool:
    """The label of an unpaired preference; true where there is none."""
    for name in ("label", "kto_tag"):
        label = fields.get(name)
        if label is None:
            continue
        if not isinstance(label, bool | int) or label not in (0, 1):
            raise RecordError(
                f"{where}: {name}: true or false is needed (found {shown(label)}); rename the "
                "column if it does not say whether the response is a good one"
            )
        if not label:
            return False
    return True


def _refuse_other_inputs(fields: Fields, where: str) -> None:
    for name in _NOT_TEXT:
        if fields.get(name) not in (None, "", "[]", [], {}):
            raise RecordError(
                f"{where}: {name}: part of the prompt, but only messages of text are read; remove "
                "the rows that have it, or the column if the responses do not depend on it"
            )


def _refuse_misspelled(fields: Fields, where: str) -> None:
    if problem := _misspelled(tuple(fields)):
        raise RecordError(f"{where}: {problem}")


@lru_cache(maxsize=64)  # the rows of a file have the same columns
def _misspelled(names: tuple[str, ...]) -> str:
    ours = Preference.model_fields.keys()
    for name in sorted(set(names) - ours):
        near = difflib.get_close_matches(name[:64], ours - set(names), n=1, cutoff=_LIKE_OURS)
        if near:
            return f"{shown_name(name)}: unknown field; did you mean {near[0]}?"
    return ""


def _id(fields: Fields, content: Any) -> str:
    return content_id(content) if fields.get("id") is None else str(fields["id"])


def _convert(rows: Iterable[tuple[str, Fields]]) -> Iterator[Converted]:
    """Preferences if the first row has the columns of one, else what there is to imitate."""
    are_pairs = None
    for where, fields in rows:
        if are_pairs is None:
            are_pairs = bool({"chosen", "rejected"} & fields.keys())
        if are_pairs:
            yield preference(fields, where)
        else:
            yield from lessons(fields, where)


def _any_shape(fields: Fields) -> bool:
    shapes = (("chosen",), ("prompt", "completion"), ("prompt", "response"), ("messages",))
    return any(all(name in fields for name in shape) for shape in (*shapes, ("text",)))


TRL = Format(
    recognize=_any_shape,
    convert=_convert,
    lessons=by_row(lessons),
    columns=COLUMNS,
    url="https://huggingface.co/docs/trl/v0.17.0/dataset_formats",
)
