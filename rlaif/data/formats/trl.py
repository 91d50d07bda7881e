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

Columns that change a row's meaning are respected: `system` (and `system_prompt`) begins the prompt;
`label: false` (an unpaired preference, KTO) and `deleted: true` leave the row out; so do equal
responses and, without prob_chosen, a tie (`tie: true`, or "tie" as `status` or `winner`) and scores
(`score_chosen` and `score_rejected`, `chosen-rating` and the like, or a `rating` of two) of which
that of `chosen` is not the higher one. A reply whose message has `weight: 0` (or `loss` or `train:
false`) is no lesson. Tools, images and other inputs that are not text are refused, as is a prompt
that ends with the assistant's turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    user,
    wrong,
)
from rlaif.data.formats.meaning import (
    NOT_TEXT,
    SYSTEM,
    ends_with_user,
    refuse_misspelled,
    refuse_other_inputs,
    refuse_other_prompts,
    why_left_out,
    with_system,
    without_weight,
)
from rlaif.data.records import (
    ENDS,
    Demonstration,
    PlainText,
    Preference,
    RecordError,
    Sample,
    as_record,
)
from rlaif.data.rows import shown, shown_name

COLUMNS = frozenset(
    {*Preference.model_fields, *Sample.model_fields, *SYSTEM, *NOT_TEXT}
    | {"completion", "messages", "text", "label", "kto_tag", "deleted", "tie"}
    | {"score_chosen", "score_rejected", "chosen_score", "rejected_score"}
    | {"chosen_rating", "rejected_rating", "chosen-rating", "rejected-rating"}
)

_OURS = ("traits", "receipt", *ENDS)
"""Columns of our labels besides TRL's; a response without the flag counts as complete."""


def preference(fields: Fields, where: str) -> Preference | LeftOut:
    """Convert one row to a Preference, or say why it is left out.

    where: file and row, for errors. Raises RecordError naming `where` and the invalid field.
    """
    refuse_misspelled(fields, where)
    refuse_other_inputs(fields, where)
    if reason := why_left_out(fields, where):
        return LeftOut(reason)
    prompt, chosen, rejected = _three_parts(fields, where)
    if prompt == chosen == rejected:  # whole conversations, the same to their end
        return LeftOut("identical responses")
    content: dict[str, Any] = {
        "prompt": ends_with_user(with_system(prompt, fields, where), "prompt", where),
        "chosen": _reply(chosen, prompt, "chosen", where),
        "rejected": _reply(rejected, prompt, "rejected", where),
    }
    if content["chosen"] == content["rejected"]:
        return LeftOut("identical responses")
    content |= {"id": _id(fields, content), "prob_chosen": fields.get("prob_chosen", 1.0)}
    optional = {name: fields[name] for name in _OURS if fields.get(name) is not None}
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
    refuse_other_inputs(fields, where)
    if fields.get("prompt") is None or _whole_conversations(fields):
        prompt, chosen, rejected = _three_parts(fields, where)
        if prompt == chosen == rejected:  # the same to their end: all but the reply is the prompt
            prompt = prompt[:-1]
    else:
        prompt = turns(fields, "prompt", "user", where)
    return with_system(prompt, fields, where)


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
    refuse_other_inputs(fields, where)
    if reason := why_left_out(fields, where):
        return LeftOut(reason)
    prompt = turns(fields, "prompt", "user", where)
    (reply,) = _reply(turns(fields, reply_field, "assistant", where), prompt, reply_field, where)
    prompt = ends_with_user(with_system(prompt, fields, where), "prompt", where)
    return _demonstration(prompt, reply, fields, where)


def _replies(fields: Fields, where: str) -> Iterator[Converted]:
    refuse_other_inputs(fields, where)
    if reason := why_left_out(fields, where):
        yield LeftOut(reason)
        return
    conversation = with_system(turns(fields, "messages", "user", where), fields, where)
    places = [place for place, turn in enumerate(conversation) if turn.get("role") == "assistant"]
    if not places or any(conversation[at - 1].get("role") != "user" or at == 0 for at in places):
        raise RecordError(
            f"{where}: messages: expected a user's turn and then a reply of the assistant; "
            "correct or delete this line"
        )
    plain = [without_weight(turn) for turn in conversation]
    for place in places:
        if any(conversation[place].get(key) in (0, False) for key in WEIGHTS):
            yield LeftOut("weight: 0")
        else:
            yield _demonstration(plain[:place], plain[place], fields, where)


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
        refuse_other_prompts(fields, where)
        return _shared_text(fields["chosen"], fields["rejected"], where)
    chosen = turns(fields, "chosen", "assistant", where)
    rejected = turns(fields, "rejected", "assistant", where)
    if fields.get("prompt") is None:
        return _shared_turns(chosen, rejected, where), chosen, rejected
    prompt = turns(fields, "prompt", "user", where)
    if _whole_conversations(fields):  # they know more turns than a prompt that is one of them
        shared = _alike(chosen, rejected)
        prompt = shared if prompt[0] in shared else prompt
    return prompt, chosen, rejected


def _whole_conversations(fields: Fields) -> bool:
    """Whether chosen and rejected are conversations beside a prompt that is a text."""
    responses = (fields.get("chosen"), fields.get("rejected"))
    return isinstance(fields.get("prompt"), str) and all(
        isinstance(response, list)
        and len(response) > 1
        and all(isinstance(turn, dict) for turn in response)
        for response in responses
    )


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
    prompt = _alike(chosen, rejected)
    if not prompt:
        raise RecordError(
            f"{where}: prompt: there is none, and chosen and rejected do not begin with the same "
            "turns; give a prompt, or whole conversations as messages"
        )
    return prompt


def _alike(chosen: list[Turn], rejected: list[Turn]) -> list[Turn]:
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))
    return [turn for turn, _ in pairs]


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
