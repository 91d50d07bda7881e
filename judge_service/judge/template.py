"""Templates of the judge's prompts: a PromptSpec in a model's chat format, as token ids. Pure.

    [system] [conversation] [reply] ... [reply] | [principle] [question] [answer prefix] -> label
    '------ prefix, shared by all principles --'   '------------- suffix -------------'

Prefix and suffix are tokenized separately, so the prefix is identical to the token for every
principle, and the engine's prefix cache computes it once. The frame is the model's own chat
template, rendered around placeholders: only our text and the template's control tokens go through
`encode_template`. Untrusted text (conversation, replies, principle) goes through `encode_data`,
which never yields a control token.

Each part of the data has a heading with a nonce that is derived from the content and does not occur
in it: no reply can forge a heading, and the prompt stays reproducible. The nonce does not depend on
the order of the replies.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from judge_service.engine import ChatTokenizer
from judge_service.types import Conversation

_ROLE_HEADINGS = {"system": "System", "user": "User", "assistant": "Assistant"}
_LAST_HEADING = "Question"
_DATA_SLOT, _PRINCIPLE_SLOT = "{{data}}", "{{principle}}"
_NONCE_DIGITS = 6
_UNSEEN = ("Cc", "Cf", "Me", "Mn")
_FILLERS = (0x115F, 0x1160, 0x2800, 0x3164, 0xFFA0)  # letters and symbols without ink
_ALIKE = (  # in lower case: Cyrillic, Greek and Latin letters that look like hex digits
    "\u0430\u03b1\u0251\u044c\u0441\u03f2\u0501\u0435\u0192o\u043e\u03bfli\u0131\u0456\u0437\u0431",
    "aaabccdef000111136",
)


class TemplateError(ValueError):
    """The model's chat template or tokenizer cannot carry the judge's prompt."""


@dataclass(frozen=True, slots=True)
class PromptSpec:
    """The text of a prompt around the data, and the labels that may answer it.

    question: the text under the last heading, with {{principle}} once; what comes before it is the
    same for all principles. answer_prefix: the start of the assistant's turn. labels: the texts of
    the tokens that may follow, in the order in which their log-probabilities are read; empty when
    the model is to write. few_shot: (role, text) example turns before the question.
    """

    system: str
    replies: tuple[str, ...]  # headings
    question: str
    answer_prefix: str = ""
    labels: tuple[str, ...] = ()
    few_shot: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Prefix:
    """The prompt up to the principle, with the token count of each part of the data."""

    ids: tuple[int, ...]
    conversation_tokens: int  # with everything before it
    reply_tokens: tuple[int, ...]

    hashed: Any = field(init=False, repr=False, compare=False)  # see PromptIds

    def __post_init__(self) -> None:
        object.__setattr__(self, "hashed", _begin_digest(self.ids))

    def prompt(self, suffix: tuple[int, ...]) -> PromptIds:
        """The prompt with this suffix; the prefix is hashed once for all of them."""
        prompt = PromptIds((*self.ids, *suffix))
        prompt.hashed = self.hashed.copy()
        _continue_digest(prompt.hashed, suffix, after=bool(self.ids))
        return prompt


class PromptIds(tuple[int, ...]):
    """The token ids of a prompt with their digest so far, which `prompt_sha256` completes."""

    hashed: Any


class Template:
    """A PromptSpec in one model's chat format.

    headings: the names under which `prefix` takes the replies. labels, label_ids: what may answer,
    as texts and tokens. Raises TemplateError when the chat template drops or repeats our text, or
    when a label is not one distinct token after the answer prefix.
    """

    def __init__(self, tokenizer: ChatTokenizer, spec: PromptSpec) -> None:
        self._tokenizer = tokenizer
        self.headings = spec.replies
        rendered = tokenizer.render_chat(
            (
                ("system", spec.system),
                *spec.few_shot,
                ("user", f"{_DATA_SLOT}{spec.question}"),
            )
        )
        self._before_data, rest = _split_once(rendered, _DATA_SLOT)
        self._before_principle, rest = _split_once(rest, _PRINCIPLE_SLOT)
        self._after_principle = tokenizer.encode_template(rest + spec.answer_prefix)
        self.labels = spec.labels
        self.label_ids = _label_ids(tokenizer, rest + spec.answer_prefix, spec.labels)

    def prefix(self, conversation: Conversation, replies: Sequence[str], nonce: str = "") -> Prefix:
        """The part shared by all principles, with the replies under the spec's headings in order.

        nonce: the `content_nonce` of the same texts, where it is known. Raises ValueError for a
        number of replies that differs from the headings'.
        """
        nonce = nonce or content_nonce(conversation, replies)
        template, data = self._tokenizer.encode_template, self._tokenizer.encode_data

        # The conversation: each message under a heading with its role.
        ids: list[int] = []
        opening = self._before_data
        for message in conversation:
            ids += template(f"{opening}{heading(_ROLE_HEADINGS[message.role], nonce)}\n")
            ids += data(message.content)
            opening = "\n\n"
        conversation_tokens = len(ids)

        # The replies, then the last heading, under which the suffix continues.
        reply_tokens = []
        for name, reply in zip(self.headings, replies, strict=True):
            reply_ids = data(reply)
            ids += template(f"\n\n{heading(name, nonce)}\n")
            ids += reply_ids
            reply_tokens.append(len(reply_ids))
        ids += template(f"\n\n{heading(_LAST_HEADING, nonce)}\n{self._before_principle}")
        return Prefix(tuple(ids), conversation_tokens, tuple(reply_tokens))

    def suffix(self, principle: str) -> tuple[int, ...]:
        """The principle, the question and the answer prefix."""
        return (*self._tokenizer.encode_data(principle.strip()), *self._after_principle)

    def answer(self, written: str, conclusion: str) -> tuple[int, ...]:
        """The judge's own rationale, encoded as data, and our text that leads it to a label."""
        encoded = self._tokenizer.encode_data(written.strip())
        return (*encoded, *self._tokenizer.encode_template(conclusion))


def heading(name: str, nonce: str) -> str:
    """The heading line of one part of the data.

    >>> heading("Reply A", "5f2c9a")
    '[Reply A 5f2c9a]'
    """
    return f"[{name} {nonce}]"


def content_nonce(conversation: Conversation, replies: Sequence[str]) -> str:
    """Hex digits that occur nowhere in the content; independent of the order of the replies.

    Nor do they occur in it as it looks: in other letter forms, or with invisible characters.
    """
    texts = [m.content for m in conversation] + sorted(replies)
    content = json.dumps(texts, ensure_ascii=True).encode()
    seen = [_as_it_looks(text) for text in texts]
    attempt = 0
    while True:
        digest = hashlib.sha256(attempt.to_bytes(4, "big") + content).hexdigest()
        nonce = digest[:_NONCE_DIGITS]
        if not any(nonce in text for text in seen):
            return nonce
        attempt += 1


def _as_it_looks(text: str) -> str:
    """The text in lower case, look-alikes as one, without marks and what is not visible."""
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text)
    return text.lower().translate(_unseen_and_alike())


@cache
def _unseen_and_alike() -> dict[int, int | str | None]:
    """For `str.translate`: what is not visible or a mark on a letter, and look-alikes of digits."""
    planes = (*range(0x20000), *range(0xE0000, 0xE1000))  # the others have none
    unseen = [c for c in planes if unicodedata.category(chr(c)) in _UNSEEN]
    table: dict[int, int | str | None] = dict.fromkeys((*unseen, *_FILLERS))
    for line in map(chr, (*range(0x0A, 0x0E), 0x85)):
        table[ord(line)] = line
    table.update(str.maketrans(*_ALIKE))
    return table


def prompt_sha256(prompt_ids: Sequence[int], label_ids: Sequence[int]) -> str:
    """Digest of a read's question, to the token: sha256 over both lists of ids as JSON.

    >>> import hashlib
    >>> prompt_sha256([1, 2], [3]) == hashlib.sha256(b"[[1,2],[3]]").hexdigest()
    True
    """
    if isinstance(prompt_ids, PromptIds):
        digest = prompt_ids.hashed.copy()
    else:
        digest = _begin_digest(prompt_ids)
    digest.update(f"],[{','.join(map(str, label_ids))}]]".encode())
    return str(digest.hexdigest())


def _begin_digest(ids: Sequence[int]) -> Any:
    digest = hashlib.sha256(b"[[")
    _continue_digest(digest, ids, after=False)
    return digest


def _continue_digest(digest: Any, ids: Sequence[int], *, after: bool) -> None:
    """Add ids to a list in JSON; after: whether it has some already."""
    digest.update(("," * (after and bool(ids)) + ",".join(map(str, ids))).encode())


def describe_overflow(
    parts: Mapping[str, int], prompt_tokens: int, output_tokens: int, max_context_tokens: int
) -> str | None:
    """None when prompt and output fit the context; else which part is too long, and the remedy.

    parts: name -> tokens of each part of the data.
    """
    if prompt_tokens + output_tokens <= max_context_tokens:
        return None
    longest = max(parts, key=lambda name: parts[name])
    sizes = ", ".join(f"{name} {tokens}" for name, tokens in parts.items())
    return (
        f"{longest} is too long: the judge's prompt has {prompt_tokens} tokens ({sizes}), its "
        f"context holds {max_context_tokens} including the answer; shorten {longest} or start the "
        "server with a larger max_context_tokens"
    )


def _split_once(text: str, slot: str) -> tuple[str, str]:
    if text.count(slot) != 1:
        raise TemplateError(
            "the model's chat template drops or repeats text of a system and a user turn "
            f"(placeholder {slot} occurs {text.count(slot)} times); use an instruction-tuned "
            "model whose chat template renders both once"
        )
    before, _, after = text.partition(slot)
    return before, after


def _label_ids(
    tokenizer: ChatTokenizer, answer_prefix: str, labels: Sequence[str]
) -> tuple[int, ...]:
    """The ids of the labels, checked to be one distinct token each after the answer prefix."""
    before = tokenizer.encode_template(answer_prefix)
    ids: list[int] = []
    for label in labels:
        after = tokenizer.encode_template(answer_prefix + label)
        if len(after) != len(before) + 1 or after[:-1] != before:
            raise TemplateError(
                f"the label {label!r} is not one token after {answer_prefix[-40:]!r} in this "
                "model's tokenizer; use another judge model"
            )
        if after[-1] in ids:
            raise TemplateError(
                f"two labels are token {after[-1]} in this model's tokenizer; use another judge "
                "model"
            )
        ids.append(after[-1])
    return tuple(ids)
