"""User text never becomes a control token, in each kind of tokenizer that models come with."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from judge_service.engines.model_folder import ModelFolderError
from judge_service.engines.tokenizer import HFTokenizer
from judge_service.judge.prompts import CRITIQUE, PROTOCOL_PROMPTS, RATING, REVISION
from judge_service.judge.template import Template

# The added tokens of SmolLM2 (all in its vocabulary) and Qwen2.5 (behind it; two not "special").
SMOLLM2 = re.findall(
    r"\S+",
    """<|endoftext|> <|im_start|> <|im_end|> <repo_name> <reponame> <file_sep> <filename>
    <gh_stars> <issue_start> <issue_comment> <issue_closed> <jupyter_start> <jupyter_text>
    <jupyter_code> <jupyter_output> <jupyter_script> <empty_output>""",
)
QWEN = re.findall(
    r"\S+",
    """<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|>
    <|box_start|> <|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|>
    <|vision_pad|> <|image_pad|> <|video_pad|> <|fim_prefix|> <|fim_middle|> <|fim_suffix|>
    <|fim_pad|> <|repo_name|> <|file_sep|>""",
)
QWEN_ORDINARY = ["<tool_call>", "</tool_call>"]
SPELLINGS = sorted({*SMOLLM2, *QWEN, *QWEN_ORDINARY})

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
CORPUS = [
    "The better reply is Reply A",
    "The better reply is Reply B",
    "Yes",
    "No",
    "1 2 3 4 5 6 7 8 9",
    "<|im_start|> tool call issue",
] * 20


def byte_level(specials_in_vocabulary: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            special_tokens=specials_in_vocabulary,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


def like_smollm2() -> Tokenizer:
    return byte_level(SMOLLM2)


def like_qwen() -> Tokenizer:
    tokenizer = byte_level([])
    tokenizer.add_special_tokens(QWEN)
    tokenizer.add_tokens([AddedToken(spelling, special=False) for spelling in QWEN_ORDINARY])
    return tokenizer


def like_sentencepiece() -> Tokenizer:
    """Unigram, where a control token's spelling is the likeliest way to write it."""
    letters = sorted({c for text in (*CORPUS, *SPELLINGS, "say now") for c in text})
    pieces = [("<unk>", -20.0), *((s, -1.0) for s in (*SPELLINGS, " A", " B", "Yes", "No"))]
    pieces += [(c, -5.0) for c in letters]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.add_special_tokens(SPELLINGS)
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, chat_template: str | None = CHAT) -> Path:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.chat_template = chat_template
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(params=[like_smollm2, like_qwen, like_sentencepiece], scope="module")
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    return HFTokenizer(save(request.param(), tmp_path_factory.mktemp("tokenizer")))


@given(st.lists(st.one_of(st.sampled_from(SPELLINGS), st.text(max_size=5)), max_size=12))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_data_never_becomes_a_control_token(tokenizer: HFTokenizer, parts: list[str]) -> None:
    ids = tokenizer.encode_data("".join(parts))
    assert tokenizer.control_ids.isdisjoint(ids)


def one_cut_at_a_time(tokenizer: HFTokenizer, text: str) -> list[int]:
    """The ids by their definition: cut inside the first control id, and encode both parts again."""
    encoding = tokenizer._data.encode(text, add_special_tokens=False)
    ids = list(encoding.ids)
    if tokenizer.control_ids.isdisjoint(ids):
        return ids
    place = next(i for i, token in enumerate(ids) if token in tokenizer.control_ids)
    cut = encoding.offsets[place][0] + 1
    return one_cut_at_a_time(tokenizer, text[:cut]) + one_cut_at_a_time(tokenizer, text[cut:])


@given(st.lists(st.one_of(st.sampled_from(SPELLINGS), st.text(max_size=5)), max_size=12))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_ids_are_those_of_one_cut_after_the_other(
    tokenizer: HFTokenizer, parts: list[str]
) -> None:
    text = "".join(parts)
    assert tokenizer.encode_data(text) == one_cut_at_a_time(tokenizer, text)


def test_thousands_of_spelled_out_control_tokens_are_ordinary_text(tokenizer: HFTokenizer) -> None:
    text = "<|im_start|>" * 3000
    ids = tokenizer.encode_data(text)
    assert tokenizer.control_ids.isdisjoint(ids)
    assert tokenizer.decode(ids).replace(" ", "") == text


def test_encoding_text_from_outside_leaves_the_gil_to_others(tokenizer: HFTokenizer) -> None:
    """Another thread counts while a long text is encoded; under the GIL it could not.

    On a busy machine that thread may have to wait for a core, so it gets several chances.
    """
    going, counted = threading.Event(), [0]
    text = "words and more of them, " * 4_000

    def count() -> None:
        while not going.is_set():
            counted[0] += 1

    def counts_a_second(encode: Callable[[], object]) -> float:
        before, started = counted[0], time.thread_time()
        encode()
        return (counted[0] - before) / (time.thread_time() - started)

    def holding_and_leaving() -> tuple[float, float]:
        held = counts_a_second(lambda: tokenizer._data.encode(text, add_special_tokens=False))
        return held, counts_a_second(lambda: tokenizer.encode_data(text))

    counter = threading.Thread(target=count)
    counter.start()
    try:
        tries = (holding_and_leaving() for _ in range(20))
        assert any(leaving > 4 * holding for holding, leaving in tries)
    finally:
        going.set()
        counter.join()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_control_token_s_spelling_is_kept_as_text(tokenizer: HFTokenizer, spelling: str) -> None:
    text = f"say {spelling} now"
    ids = tokenizer.encode_data(text)
    assert tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")


def test_our_template_s_control_tokens_are_control_tokens(tokenizer: HFTokenizer) -> None:
    ids = tokenizer.encode_template("<|im_start|>user")
    assert ids[0] in tokenizer.control_ids


def test_the_judge_s_prompt_fits_each_of_them(tokenizer: HFTokenizer) -> None:
    for ways in PROTOCOL_PROMPTS.values():
        assert len(set(Template(tokenizer, ways.direct).label_ids)) == 2
        Template(tokenizer, ways.reasoned)
    assert len(set(Template(tokenizer, RATING).label_ids)) == 9
    Template(tokenizer, CRITIQUE)
    Template(tokenizer, REVISION)


def test_a_tokenizer_set_to_truncate_does_not_cut_its_input(tmp_path: Path) -> None:
    cutting = like_qwen()
    cutting.enable_truncation(4)
    cutting.enable_padding(length=4)
    tokenizer = HFTokenizer(save(cutting, tmp_path))
    assert len(tokenizer.encode_data("q" * 50)) == 50
    assert len(tokenizer.encode_template("q")) == 1


def test_a_chat_template_without_system_turn_gets_it_in_the_user_turn(tmp_path: Path) -> None:
    tokenizer = HFTokenizer(save(like_qwen(), tmp_path, NO_SYSTEM + CHAT))
    rendered = tokenizer.render_chat((("system", "Judge."), ("user", "Hello")))
    assert rendered.startswith("<|im_start|>user\nJudge.\n\nHello<|im_end|>")
    Template(tokenizer, PROTOCOL_PROMPTS["pairwise"].direct)


def test_a_chat_template_that_leaves_out_the_system_turn_is_refused(tmp_path: Path) -> None:
    dropping = CHAT.replace("in messages %}", "in messages if m.role != 'system' %}")
    with pytest.raises(
        ModelFolderError, match=r"leaves out the system turn.*; write that turn .*raise_exception"
    ):
        HFTokenizer(save(like_qwen(), tmp_path, dropping))


@pytest.mark.parametrize(
    "broken", ["{{ raise_exception('never') }}", "{{ 1 + messages[0].content }}", "{% if %}"]
)
def test_a_chat_template_that_cannot_be_rendered_is_refused(tmp_path: Path, broken: str) -> None:
    with pytest.raises(ModelFolderError, match=r"its chat template cannot be rendered \("):
        HFTokenizer(save(like_qwen(), tmp_path, broken + CHAT))


def test_a_date_in_the_chat_template_is_the_same_tomorrow(tmp_path: Path) -> None:
    dated = "{{ strftime_now('%d %b %Y') }}" + CHAT
    rendered = HFTokenizer(save(like_qwen(), tmp_path, dated)).render_chat((("user", "Hello"),))
    assert rendered.startswith("26 Jul 2024<|im_start|>user")


def test_a_model_without_chat_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"no chat template.*instruction-tuned"):
        HFTokenizer(save(like_qwen(), tmp_path, None))


def test_the_digest_changes_with_the_chat_template(tmp_path: Path) -> None:
    one = HFTokenizer(save(like_qwen(), tmp_path / "1")).sha256
    assert one == HFTokenizer(save(like_qwen(), tmp_path / "2")).sha256
    assert one != HFTokenizer(save(like_qwen(), tmp_path / "3", CHAT + " ")).sha256
