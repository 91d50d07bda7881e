"""Bytes as tokens: a `ChatTokenizer` for a judge that reads text back from ids, without a model.

    0 … 255     the bytes of UTF-8 text, ours and from outside alike
    256 …       control tokens and labels, which `encode_data` never yields

A label is one token only at the end of a template, where the judge asks for it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence

START, END = "<|im_start|>", "<|im_end|>"
LABELS = (" A", " B", "Yes", "No", *(str(rating) for rating in range(1, 10)))

_BYTES = 256
_CONTROL = (START, END)
_IDS = {text: _BYTES + place for place, text in enumerate((*_CONTROL, *LABELS))}
_TEXTS = {number: text for text, number in _IDS.items()}
_SPLIT = re.compile(f"({'|'.join(map(re.escape, _CONTROL))})")


class ByteTokenizer:
    """The tokenizer of a planted judge; its chat format is ChatML."""

    @property
    def sha256(self) -> str:
        """Digest of the vocabulary and the chat format."""
        return hashlib.sha256(json.dumps(_IDS, sort_keys=True).encode()).hexdigest()

    def encode_template(self, text: str) -> list[int]:
        """Ids of our own template: control tokens, and a label at its end, become one id."""
        label = next((label for label in LABELS if text.endswith(label)), "")
        ids: list[int] = []
        for part in _SPLIT.split(text.removesuffix(label)):
            ids += [_IDS[part]] if part in _CONTROL else self.encode_data(part)
        return [*ids, _IDS[label]] if label else ids

    def encode_data(self, text: str) -> list[int]:
        """The bytes of text from outside."""
        return list(text.encode("utf-8", "surrogatepass"))

    def spell(self, ids: Sequence[int]) -> str:
        """The text of the ids, control tokens included."""
        return "".join(self.pieces(ids))

    def pieces(self, ids: Sequence[int]) -> Iterator[str]:
        """The text of the ids in pieces: each control token or label is one of its own."""
        run = bytearray()
        for number in ids:
            if number < _BYTES:
                run.append(number)
                continue
            yield _decoded(run)
            yield _TEXTS[number]
            run.clear()
        yield _decoded(run)

    def last_turn(self, ids: Sequence[int], role: str) -> str:
        """The text of the last turn of a role; "" without one.

        Turns begin at control ids, so that text which spells them out begins none.
        """
        start, end = _IDS[START], _IDS[END]
        found = ""
        for place in (place for place, number in enumerate(ids) if number == start):
            stop = next((i for i in range(place + 1, len(ids)) if ids[i] == end), len(ids))
            turn = self.spell(ids[place + 1 : stop])
            if turn.startswith(f"{role}\n"):
                found = turn.removeprefix(f"{role}\n")
        return found

    def render_chat(self, messages: Sequence[tuple[str, str]]) -> str:
        """The turns in ChatML, with its generation prompt."""
        turns = "".join(f"{START}{role}\n{content}{END}\n" for role, content in messages)
        return f"{turns}{START}assistant\n"


def _decoded(run: bytearray) -> str:
    return run.decode("utf-8", "surrogatepass")
