"""OpenAssistant's conversation trees (oasst1, oasst2).

oasst_trees     one tree a row: message_tree_id, prompt, whose `replies` have replies
oasst_messages  one message a row: message_id, parent_id, text, role (prompter or assistant), rank

Described in https://huggingface.co/datasets/OpenAssistant/oasst1. Siblings are ranked, 0 is the
best: every pair of the assistant's replies to one message with unlike ranks is a preference. To
imitate, the best reply of the assistant to each message is a lesson; where none of them has a rank,
every one is. A message that is deleted or that reviewers
rejected (review_result false) is neither, with all that follows it. Messages of a tree follow each
other in the files; where rows name no tree, all of the file are held in memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any, NamedTuple

from rlaif.data.formats.base import (
    Converted,
    Fields,
    Format,
    LeftOut,
    Turn,
    has,
    number,
    objects,
    ranked_pairs,
    text,
    wrong,
)
from rlaif.data.formats.comparisons import pair
from rlaif.data.formats.trl import lessons

_ROLES = {"prompter": "user", "assistant": "assistant"}
_COLUMNS = {"message_id", "parent_id", "text", "role", "rank", "deleted", "review_result"}
_URL = "https://huggingface.co/datasets/OpenAssistant/oasst1"


class _Thread(NamedTuple):
    """A message's usable replies, with the conversation that they answer."""

    where: str
    turns: list[Turn]
    replies: list[Fields]


class _Lost(NamedTuple):
    """Replies that cannot be used."""

    messages: int
    reason: str


_Visit = Iterator[_Thread | _Lost]
_Answers = list[tuple[float | None, str]]
"""(score, text) of the replies to a message, a higher score is better."""


def _tree_threads(rows: Iterable[tuple[str, Fields]]) -> _Visit:
    for where, fields in rows:
        (root,) = objects([fields.get("prompt")], "prompt", where)

        def replies(message: Fields, where: str = where) -> list[tuple[str, Fields]]:
            found = objects(message.get("replies") or [], "replies", where)
            return [(where, reply) for reply in found]

        yield from _walk([(where, root)], replies)


def _message_threads(rows: Iterable[tuple[str, Fields]]) -> _Visit:
    for _, group in groupby(rows, key=lambda row: str(row[1].get("message_tree_id"))):
        children: dict[str, list[tuple[str, Fields]]] = defaultdict(list)
        roots = []
        for where, message in group:
            if message.get("parent_id") is None:
                roots.append((where, message))
            else:
                children[text(message, "parent_id", where)].append((where, message))

        def replies(
            message: Fields, children: dict[str, list[tuple[str, Fields]]] = children
        ) -> list[tuple[str, Fields]]:
            return children.pop(str(message.get("message_id")), [])

        yield from _walk(roots, replies)
        if missing := sum(map(len, children.values())):
            yield _Lost(missing, "messages whose parent is missing")


def _walk(roots: list[tuple[str, Fields]], replies: Any) -> _Visit:
    """Visit the usable messages below `roots`; depth first, without recursion."""
    left: list[tuple[str, Fields, list[Turn]]] = [(where, root, []) for where, root in roots]
    while left:
        where, message, before = left.pop()
        if _is_refused(message):
            lost = _count_below(message, replies)
            yield _Lost(lost, "deleted or rejected messages, or below one")
            continue
        turns = [*before, {"role": _role(message, where), "content": text(message, "text", where)}]
        below = replies(message)
        answers = [m for w, m in below if _role(m, w) == "assistant" and not _is_refused(m)]
        if answers and turns[-1]["role"] == "user":
            yield _Thread(where, turns, answers)
        left += [(w, reply, turns) for w, reply in reversed(below)]


def _count_below(message: Fields, replies: Any) -> int:
    count, left = 0, [message]
    while left:
        count += 1
        left += [reply for _, reply in replies(left.pop())]
    return count


def _is_refused(message: Fields) -> bool:
    return message.get("deleted") is True or message.get("review_result") is False


def _role(message: Fields, where: str) -> str:
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise wrong(where, "role", "prompter or assistant", role)
    return _ROLES[role]


def _converted(
    threads: _Visit, convert: Callable[[str, list[Turn], _Answers], Iterator[Converted]]
) -> Iterator[Converted]:
    for thread in threads:
        if isinstance(thread, _Lost):
            yield from [LeftOut(thread.reason)] * thread.messages
            continue
        where, turns, replies = thread
        answers = [(_score(reply), text(reply, "text", where)) for reply in replies]
        yield from convert(where, turns, answers)


def _score(reply: Fields) -> float | None:
    rank = number(reply.get("rank"))
    return None if rank is None else -rank


def _preferences(where: str, turns: list[Turn], answers: _Answers) -> Iterator[Converted]:
    for found in ranked_pairs(answers):
        yield found if isinstance(found, LeftOut) else pair(turns, *found, where)


def _lessons(where: str, turns: list[Turn], answers: _Answers) -> Iterator[Converted]:
    ranks = [score for score, reply in answers if score is not None and reply.strip()]
    best = max(ranks, default=None)
    for score, reply in answers:
        if not reply.strip():
            yield LeftOut("an empty response")
        elif score == best:
            yield from lessons({"prompt": turns, "completion": reply}, where)
        else:
            yield LeftOut("not the best-ranked reply to its message")


OASST_TREES = Format(
    recognize=lambda fields: "message_tree_id" in fields and isinstance(fields.get("prompt"), dict),
    convert=lambda rows: _converted(_tree_threads(rows), _preferences),
    lessons=lambda rows: _converted(_tree_threads(rows), _lessons),
    columns=frozenset({"message_tree_id", "prompt"}),
    url=_URL,
)
OASST_MESSAGES = Format(
    recognize=has("message_id", "parent_id", "text", "role"),
    convert=lambda rows: _converted(_message_threads(rows), _preferences),
    lessons=lambda rows: _converted(_message_threads(rows), _lessons),
    columns=frozenset(_COLUMNS | {"message_tree_id"}),
    url=_URL,
)
