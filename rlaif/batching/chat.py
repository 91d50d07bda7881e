"""A model's chat template: how it writes a conversation, and how it ends the assistant's turn.

    [user: Hello] ─ template ─▶ <|im_start|>user⏎Hello<|im_end|>⏎<|im_start|>assistant⏎
                                response                                  <|im_end|>
                                                                          turn_end_id

Trainers, samplers and scores all come here, so that they read the same tokens. The end of a turn
is what the template writes after an assistant's text, which is not `tokenizer.eos_token` in every
model: Gemma's is <end_of_turn>, Phi-3's <|end|>, that of a base model whatever its template says.

A template is a program. It may refuse a conversation (system messages, two user turns in a row),
which is an error that names the reason, and so is a system message that it leaves out without a
word. Where it asks for today's date it gets PINNED_DATE: the same conversation gives the same
tokens tomorrow. Imports neither torch nor transformers.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any
from weakref import WeakKeyDictionary

from pydantic import AfterValidator

from constitution.errors import nearest
from rlaif.batching.unusable import BatchError

PINNED_DATE = datetime(2024, 7, 26)
"""What templates that ask for the date get: Llama 3's own where no clock is given."""

# What a template is given by us, or by transformers: no setting may replace it.
_OURS = frozenset({
    "messages", "conversation", "tools", "documents", "add_generation_prompt", "tokenize",
    "continue_final_message", "chat_template", "strftime_now", "raise_exception",
})  # fmt: skip
_KWARGS = "rlaif_template_kwargs"  # attribute of a tokenizer that has some
_END_IDS = "rlaif_end_ids"  # attribute of a tokenizer whose model's ends are known
_GENERATION_TAG = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")  # a tag of transformers' own

# Texts that no template writes by itself.
_QUESTION, _ANSWER, _NEXT, _MORE = "question-3519", "answer-8264", "question-7302", "more-4187"
_ends: WeakKeyDictionary[Any, int] = WeakKeyDictionary()  # of turns, by tokenizer


class ChatTemplateError(BatchError):
    """A conversation or setting that a chat template cannot carry; the message has the remedy."""


def _plain(kwargs: dict[str, Any]) -> dict[str, Any]:
    for name, value in kwargs.items():
        if name in _OURS:
            raise ValueError(f"{name} is given to the template already; remove it")
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{name}: expected text, a number, true or false, or lists of them "
                f"(found {value!r}); write it in quotes"
            ) from error
    return kwargs


ChatTemplateKwargs = Annotated[dict[str, Any], AfterValidator(_plain)]
"""A setting: variables for a chat template, such as {"enable_thinking": False}."""


def with_template_kwargs(tokenizer: Any, kwargs: Mapping[str, Any] | None) -> Any:
    """A shallow copy of a tokenizer whose template is given these variables in all of this module.

    They are not saved with it. Without any, the tokenizer itself. Raises ChatTemplateError for a
    variable that the template does not read.
    """
    if not kwargs and not template_kwargs_of(tokenizer):
        return tokenizer
    known = _variables(tokenizer) if kwargs else set()
    for name in kwargs or ():
        if name not in known:
            hint = nearest(name, known) or f"it reads: {', '.join(sorted(known)) or 'none'}"
            raise ChatTemplateError(
                f"chat_template_kwargs.{name}: the chat template of {tokenizer.name_or_path} does "
                f"not read {name}, so it would have no effect; {hint}"
            )
    bound = copy.copy(tokenizer)
    setattr(bound, _KWARGS, dict(kwargs or {}))
    return bound


def template_kwargs_of(tokenizer: Any) -> dict[str, Any]:
    """The variables that `with_template_kwargs` gave a tokenizer's template."""
    return dict(getattr(tokenizer, _KWARGS, {}))


def prompt_ids(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of a conversation that the user ends, up to where the assistant's turn begins.

    messages: {"role": …, "content": …} each. Raises ChatTemplateError for one that the assistant
    ends, or that the template refuses or cuts; callers say which record it is.
    """
    if messages and messages[-1]["role"] == "assistant":
        raise ChatTemplateError(
            f"the conversation ({_shown(messages)}) ends with a turn of the assistant (a prefill), "
            "which a chat template would close before it opens a second one; move that text to the "
            "beginning of each response"
        )
    text = _rendered(tokenizer, messages, generate=True)
    # What a template leaves out, it leaves out of a longer message, too.
    for place, message in enumerate(messages):
        if message["role"] == "system" and message["content"].strip():
            longer = {**message, "content": f"{message['content']} {_MORE}"}
            others = [*messages[:place], longer, *messages[place + 1 :]]
            if _rendered(tokenizer, others, generate=True) == text:
                raise ChatTemplateError(
                    f"the chat template of {tokenizer.name_or_path} leaves out the system message "
                    f"({_shown(messages)}); put its text at the beginning of the first user turn"
                )
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def turn_end_id(tokenizer: Any) -> int:
    """Id of the token that ends the assistant's turn in the chat template.

    `eos_token_id` for a template that writes no control token there, or without a template.
    Derived from the rendered template, once for each tokenizer. Raises ChatTemplateError for a
    tokenizer that has neither.
    """
    if tokenizer not in _ends:
        has_template = bool(getattr(tokenizer, "chat_template", None))
        found = _written_end(tokenizer) if has_template else None
        end = tokenizer.eos_token_id if found is None else found
        if end is None:
            raise ChatTemplateError(
                f"the tokenizer of {tokenizer.name_or_path} has no end token; set "
                "tokenizer.eos_token and save it"
            )
        _ends[tokenizer] = end
    return _ends[tokenizer]


def bind_end_ids(tokenizer: Any, ids: frozenset[int]) -> None:
    """Note on a tokenizer which tokens end a response of its model, for `end_ids`. Not saved."""
    setattr(tokenizer, _END_IDS, ids)


def end_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of the tokens that end a response: those of the tokenizer's model (`bind_end_ids`), or,
    where that is not known, the chat template's and the tokenizer's own."""
    bound: frozenset[int] | None = getattr(tokenizer, _END_IDS, None)
    if bound is not None:
        return bound
    ends = set() if tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
    with suppress(ChatTemplateError):  # neither a template's end nor an eos_token
        ends.add(turn_end_id(tokenizer))
    return frozenset(ends)


def _written_end(tokenizer: Any) -> int | None:
    """The first control token after an assistant's text; None if the template writes none.

    Some templates end the last turn only where another follows: a second user turn asks for it.
    """
    turns = [("user", _QUESTION), ("assistant", _ANSWER), ("user", _NEXT)]
    for count in (2, 3):
        messages = [{"role": role, "content": content} for role, content in turns[:count]]
        with suppress(ChatTemplateError):
            before, _, after = _rendered(tokenizer, messages, generate=False).partition(_ANSWER)
            opening = _control_ids(tokenizer, before.partition(_QUESTION)[0])
            between = _control_ids(tokenizer, after.partition(_NEXT)[0])
            # Without an end, all that stands there is what begins a user's turn.
            if between and opening not in (between, [tokenizer.bos_token_id, *between]):
                return between[0]
    return None


def _control_ids(tokenizer: Any, text: str) -> list[int]:
    """The control tokens in a text. Some vocabularies have added tokens for white space, too."""
    added = tokenizer.added_tokens_decoder
    control = {i for i, token in added.items() if token.content.strip()} - {tokenizer.unk_token_id}
    return [i for i in tokenizer.encode(text, add_special_tokens=False) if i in control]


def _rendered(tokenizer: Any, messages: Sequence[Mapping[str, str]], *, generate: bool) -> str:
    """The conversation as text. generate: up to where the assistant's next turn begins."""
    try:
        text: str = tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=generate,
            strftime_now=PINNED_DATE.strftime,
            **template_kwargs_of(tokenizer),
        )
    except Exception as error:  # a template is a program, and may raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ChatTemplateError(
            f"the chat template of {tokenizer.name_or_path} refuses the conversation "
            f"({_shown(messages)}): {reason}; change its turns (a system message can begin the "
            "first user turn instead)"
        ) from error
    return text


def _shown(messages: Sequence[Mapping[str, str]]) -> str:
    """A conversation in an error: its roles, and the beginning of its last text."""
    if not messages:
        return "no messages"
    roles, text = ", ".join(m["role"] for m in messages), " ".join(messages[-1]["content"].split())
    return f"{roles}: {text[:40]!r}" if len(text) <= 40 else f"{roles}: {text[:40]!r}…"


def _variables(tokenizer: Any) -> set[str]:
    """The variables that a template reads and a setting may give."""
    import jinja2
    from jinja2 import meta

    try:
        template = _GENERATION_TAG.sub("", tokenizer.get_chat_template())
        environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=False)
        read = meta.find_undeclared_variables(environment.parse(template))
    except (jinja2.TemplateError, ValueError) as error:
        raise ChatTemplateError(
            f"the chat template of {tokenizer.name_or_path} cannot be read ({error}); "
            "chat_template_kwargs needs an instruction-tuned model"
        ) from error
    return read - _OURS
