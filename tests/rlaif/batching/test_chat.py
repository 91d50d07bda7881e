"""Chat templates of many shapes: the end of a turn, refusals, variables and dates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from tokenizers import AddedToken
from transformers import AutoTokenizer

from constitution.schema import Message
from rlaif.batching.chat import (
    ChatTemplateError,
    ChatTemplateKwargs,
    prompt_ids,
    template_kwargs_of,
    turn_end_id,
    with_template_kwargs,
)
from rlaif.batching.encode import encode_pairs, encode_prompts, encode_row, sample_row
from rlaif.batching.unusable import BatchError
from rlaif.data.records import Preference, Prompt, Sample
from rlaif.models.backbone import Backbone
from tests.support.chat_templates import (
    BRACKETS,
    CHATML,
    DROPS_SYSTEM,
    GEMMA,
    LLAMA,
    SHAPES,
    THINKING,
    Shape,
)
from tests.support.training.pairs import preference

HELLO = [{"role": "user", "content": "Hello"}]
SYSTEM = [{"role": "system", "content": "Be brief."}, *HELLO]


@pytest.fixture
def tokenizer_of(make_tiny_model: Callable[..., str]) -> Callable[[Shape], Any]:
    """tokenizer_of(GEMMA) → the tokenizer of a tiny model with that template."""

    def make(shape: Shape) -> Any:
        return AutoTokenizer.from_pretrained(folder_of(make_tiny_model, shape))

    return make


def folder_of(make_tiny_model: Callable[..., str], shape: Shape) -> str:
    return make_tiny_model(
        template=shape.template, special=shape.special, eos=shape.eos, bos=shape.bos
    )


def conversation(messages: Sequence[dict[str, str]]) -> tuple[Message, ...]:
    return tuple(Message.model_validate(message) for message in messages)


def prompted(messages: Sequence[dict[str, str]], number: int = 1) -> Preference:
    pair = preference(number, "Yes.", "No.")
    return pair.model_copy(update={"prompt": conversation(messages)})


# ── the end of a turn ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_a_row_ends_with_the_token_that_the_template_writes_after_a_response(
    tokenizer_of: Callable[[Shape], Any], shape: Shape
) -> None:
    tokenizer = tokenizer_of(shape)
    assert tokenizer.convert_ids_to_tokens(turn_end_id(tokenizer)) == shape.end
    row = encode_row(tokenizer, "a", conversation(HELLO), "Hi", 100)
    assert tokenizer.decode(row.ids[row.start :]) == f"Hi{shape.end}"


@pytest.mark.parametrize("shape", [CHATML, GEMMA, LLAMA], ids=["chatml", "gemma", "llama"])
def test_a_row_is_what_the_template_writes_of_the_whole_conversation(
    tokenizer_of: Callable[[Shape], Any], shape: Shape
) -> None:
    tokenizer = tokenizer_of(shape)
    row = encode_row(tokenizer, "a", conversation(HELLO), "Hi", 200)
    whole = tokenizer.apply_chat_template(
        [*HELLO, {"role": "assistant", "content": "Hi"}],
        tokenize=False,
        strftime_now=datetime(2024, 7, 26).strftime,
    )
    assert whole.rstrip("\n") == tokenizer.decode(row.ids)


def test_a_sample_has_the_template_s_end_only_if_it_is_complete(
    tokenizer_of: Callable[[Shape], Any],
) -> None:
    tokenizer = tokenizer_of(GEMMA)
    prompt = Prompt(id="p", messages=conversation(HELLO))
    sample = Sample(prompt=prompt, index=0, response="Hi", tokens=3, complete=True, seed=0)
    whole, cut = (
        sample_row(tokenizer, sample.model_copy(update={"complete": complete}))
        for complete in (True, False)
    )
    assert tokenizer.decode(whole.ids[whole.start :]) == "Hi<end_of_turn>"
    assert cut.ids == whole.ids[:-1]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_a_model_stops_at_the_end_of_a_turn_and_at_the_end_of_a_text(
    make_tiny_model: Callable[..., str], shape: Shape
) -> None:
    backbone = Backbone.load(folder_of(make_tiny_model, shape), "float32")
    ids = backbone.tokenizer.convert_tokens_to_ids([shape.end, shape.eos])
    assert backbone.eos_ids == set(ids)


def test_without_a_template_a_turn_ends_with_the_end_of_texts(
    make_tiny_model: Callable[..., str],
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(make_tiny_model(template=None))
    assert turn_end_id(tokenizer) == tokenizer.eos_token_id


def test_a_tokenizer_without_any_end_is_refused(make_tiny_model: Callable[..., str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(make_tiny_model(template=None))
    tokenizer.eos_token = None
    with pytest.raises(ChatTemplateError, match=r"has no end token; set tokenizer\.eos_token"):
        turn_end_id(tokenizer)


def test_white_space_that_is_an_added_token_is_not_the_end(
    tokenizer_of: Callable[[Shape], Any],
) -> None:
    spaced = replace(GEMMA, template=GEMMA.template.replace("<end_of_turn>", " \n<end_of_turn>"))
    tokenizer = tokenizer_of(spaced)
    tokenizer.add_tokens([AddedToken(" \n", special=False)])
    assert tokenizer.convert_ids_to_tokens(turn_end_id(tokenizer)) == "<end_of_turn>"


# ── conversations that a template cannot carry ───────────────────────────────────────────────

REFUSALS = {
    "system": (GEMMA, SYSTEM, r"refuses .*\(system, user: 'Hello'\): System role not supported"),
    "two user turns": (GEMMA, HELLO * 2, r"refuses .*\(user, user: .*Roles must alternate"),
    "dropped": (DROPS_SYSTEM, SYSTEM, r"leaves out the system message .* the first user turn"),
    "undefined": (
        replace(CHATML, template="{{ messages[0].tools.name }}" + CHATML.template),
        HELLO,
        "refuses .*has no attribute 'tools'",
    ),
    "type error": (
        replace(CHATML, template="{{ 1 + messages[0].content }}" + CHATML.template),
        HELLO,
        "refuses .*unsupported operand",
    ),
    "prefill": (
        CHATML,
        [*HELLO, {"role": "assistant", "content": "Sure: an"}],
        r"ends with a turn of the assistant \(a prefill\).*; move that text to the beginning of",
    ),
    "empty": (CHATML, [], r"refuses the conversation \(no messages\)"),
}


@pytest.mark.parametrize(("shape", "messages", "reason"), REFUSALS.values(), ids=list(REFUSALS))
def test_a_pair_that_the_template_refuses_is_named_or_skipped(
    tokenizer_of: Callable[[Shape], Any],
    shape: Shape,
    messages: list[dict[str, str]],
    reason: str,
) -> None:
    tokenizer = tokenizer_of(shape)
    pairs = [prompted(HELLO, 1), prompted(messages, 2)]
    if messages == HELLO:  # its template refuses everything
        with pytest.raises(BatchError, match=f"no usable pair among 2 .*{reason}"):
            encode_pairs(tokenizer, pairs, 200, "skip")
        return
    with pytest.raises(
        BatchError, match=rf"pair-2 \(chosen\): .*{reason}.*drop the record, or set unusable=skip"
    ):
        encode_pairs(tokenizer, pairs, 200, "error")
    encoded = encode_pairs(tokenizer, pairs, 200, "skip")
    assert [pair.id for pair in encoded.pairs] == ["pair-1"]
    assert len(encoded.skipped) == 1


def test_a_prompt_that_the_template_refuses_is_named_or_skipped(
    tokenizer_of: Callable[[Shape], Any],
) -> None:
    tokenizer = tokenizer_of(GEMMA)
    prompts = [
        Prompt(id="good", messages=conversation(HELLO)),
        Prompt(id="bad", messages=conversation(SYSTEM)),
    ]
    with pytest.raises(BatchError, match=r"bad: the chat template of .*System role not supported"):
        encode_prompts(tokenizer, prompts, 100, "error")
    encoded, skipped = encode_prompts(tokenizer, prompts, 100, "skip")
    assert [each.prompt.id for each in encoded] == ["good"]
    assert len(skipped) == 1


def test_a_system_message_that_is_written_differently_is_not_left_out(
    tokenizer_of: Callable[[Shape], Any],
) -> None:
    loud = replace(CHATML, template=CHATML.template.replace("m['content']", "m.content | upper"))
    tokenizer = tokenizer_of(loud)
    assert "BE BRIEF." in tokenizer.decode(prompt_ids(tokenizer, SYSTEM))


def test_the_prompt_of_a_response_is_what_sampling_begins_from(
    tokenizer_of: Callable[[Shape], Any],
) -> None:
    tokenizer = tokenizer_of(BRACKETS)
    row = encode_row(tokenizer, "a", conversation(HELLO), "Hi", 100)
    assert list(row.ids[: row.start]) == prompt_ids(tokenizer, HELLO)


# ── variables of the template ────────────────────────────────────────────────────────────────


def test_a_thinking_model_can_be_told_not_to_think(tokenizer_of: Callable[[Shape], Any]) -> None:
    tokenizer = tokenizer_of(THINKING)
    silent = with_template_kwargs(tokenizer, {"enable_thinking": False})
    prompt = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(prompt_ids(tokenizer, HELLO)) == prompt
    assert silent.decode(prompt_ids(silent, HELLO)) == prompt + "<think>\n\n</think>\n\n"
    assert template_kwargs_of(silent) == {"enable_thinking": False}
    assert template_kwargs_of(tokenizer) == {}
    assert with_template_kwargs(tokenizer, {}) is tokenizer
    assert template_kwargs_of(with_template_kwargs(silent, None)) == {}


@pytest.mark.parametrize(
    ("name", "hint"),
    [("enable_thinkin", "enable_thinking"), ("date_string", "it reads: enable_thinking")],
)
def test_a_variable_that_the_template_does_not_read_is_refused(
    tokenizer_of: Callable[[Shape], Any], name: str, hint: str
) -> None:
    with pytest.raises(
        ChatTemplateError, match=rf"chat_template_kwargs\.{name}: .* does not read {name}.*{hint}"
    ):
        with_template_kwargs(tokenizer_of(THINKING), {name: False})


def test_variables_of_a_template_with_tags_of_transformers_are_found(
    tokenizer_of: Callable[[Shape], Any],
) -> None:
    tagged = "{% generation %}{{ style }}{% endgeneration %}{% for m in messages %}{% break %}"
    tokenizer = tokenizer_of(replace(CHATML, template=tagged + "{% endfor %}"))
    assert template_kwargs_of(with_template_kwargs(tokenizer, {"style": "x"})) == {"style": "x"}


def test_variables_need_a_template(make_tiny_model: Callable[..., str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(make_tiny_model(template=None))
    with pytest.raises(ChatTemplateError, match="chat_template_kwargs needs an instruction-tuned"):
        with_template_kwargs(tokenizer, {"enable_thinking": False})


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"messages": []}, "messages is given to the template already"),
        ({"add_generation_prompt": False}, "add_generation_prompt is given"),
        ({"date_string": datetime(2026, 1, 1)}, "date_string: expected text, .*write it in quotes"),
    ],
)
def test_variables_that_cannot_be_given_are_refused_with_the_settings(
    kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(ChatTemplateKwargs).validate_python(kwargs)


# ── dates ────────────────────────────────────────────────────────────────────────────────────


def test_a_date_in_a_template_is_the_same_tomorrow_and_can_be_set(
    tokenizer_of: Callable[[Shape], Any],
) -> None:
    tokenizer = tokenizer_of(LLAMA)
    assert "Today: 26 Jul 2024<|eot|>" in tokenizer.decode(prompt_ids(tokenizer, HELLO))
    dated = with_template_kwargs(tokenizer, {"date_string": "1 May 2030"})
    assert "Today: 1 May 2030<|eot|>" in dated.decode(prompt_ids(dated, HELLO))


def test_a_date_inside_a_macro_is_pinned_too(tokenizer_of: Callable[[Shape], Any]) -> None:
    macro = "{% macro today() %}{{ strftime_now('%Y-%m-%d') }}{% endmacro %}{{ today() }}"
    tokenizer = tokenizer_of(replace(CHATML, template=macro + CHATML.template))
    assert tokenizer.decode(prompt_ids(tokenizer, HELLO)).startswith("2024-07-26<|im_start|>")
