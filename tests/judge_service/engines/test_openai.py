"""The engine over an OpenAI-compatible server: its log-prob modes and every kind of failure.

Against a FAKE model server (tests/support/service/model_server.py); the real one is in the
integration tests.
"""

from __future__ import annotations

import math
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from constitution import Constitution
from constitution.errors import UserError
from judge_service.engines import http_client as upstream
from judge_service.engines import open_engine, openai
from judge_service.engines.http_client import UpstreamError
from judge_service.engines.openai import OpenAIEngine
from judge_service.engines.openai_capabilities import LOGPROB_MODES, Served
from judge_service.engines.tokenizer import HFTokenizer
from judge_service.engines.warmup import warmup_prompt
from judge_service.judge.judge import Judge
from judge_service.settings import ServerSettings
from judge_service.types import ModelIdentity, Unjudged, UnjudgedReason
from tests.judge_service.engines.test_tokenizer import (
    like_qwen,
    like_sentencepiece,
    like_smollm2,
    save,
)
from tests.support.service.model_server import (
    PLAIN_FIELDS,
    VLLM_FIELDS,
    ModelServer,
    model_server,
)
from tests.support.service.serving import comparison, one_principle

KEY = "sk-canary-5f2c9a"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(like_qwen(), tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "_WAITS", (0.01, 0.02))
    monkeypatch.setattr(openai, "_POLL_SECONDS", 0.05)


@asynccontextmanager
async def engine_over(
    folder: Path, *, context: int | None = None, key: str = "", **values: Any
) -> AsyncIterator[tuple[OpenAIEngine, ModelServer]]:
    """A started engine and the fake behind it."""
    async with model_server(HFTokenizer(folder), key=key, **values) as fake:
        engine = OpenAIEngine(
            fake.url, "judge", tokenizer=str(folder), key=key, max_context_tokens=context
        )
        await engine.start()
        fake.bodies.clear()
        try:
            yield engine, fake
        finally:
            await engine.close()


async def test_a_server_like_vllm_gets_requests_for_exactly_the_labels(folder: Path) -> None:
    async with engine_over(folder) as (engine, fake):
        prompt, labels = warmup_prompt(engine.tokenizer, "judge")
        answer = await engine.read(prompt, labels, priority=1)
        (body,) = fake.bodies
    assert answer.logprobs == (-0.25, -1.75)
    assert (answer.prompt_tokens, answer.cached_tokens) == (len(prompt), 3)
    assert (body["prompt"], body["logprob_token_ids"]) == (prompt, list(labels))
    assert (body["max_tokens"], body["priority"], body["repetition_penalty"]) == (1, 1, 1.0)


async def test_the_receipt_names_the_served_model_and_marks_its_weights_as_unknown(
    folder: Path,
) -> None:
    async with engine_over(folder) as (engine, _):
        identity = engine.identity
    assert identity.name == "judge"
    assert identity.weights_sha256 == "unknown: served as judge"
    assert identity.engine == "openai api, vllm 9.9, labels by id"
    assert identity.tokenizer_sha256 == HFTokenizer(folder).sha256


async def test_a_server_without_priorities_is_sent_none(folder: Path) -> None:
    async with engine_over(folder, knows=VLLM_FIELDS - {"priority"}) as (engine, fake):
        await engine.read(*warmup_prompt(engine.tokenizer, "judge"), priority=1)
        assert "priority" not in fake.bodies[0]
        assert "logprob_token_ids" in fake.bodies[0]


@pytest.mark.parametrize(
    ("knows", "most", "description"),
    [({"return_tokens_as_token_ids"}, 20, "top 20"), (set(), 20, "top 20"), (set(), 5, "top 5")],
)
async def test_a_plain_server_is_read_from_its_most_likely_tokens(
    folder: Path, knows: set[str], most: int, description: str
) -> None:
    plain = {"knows": frozenset(knows), "max_logprobs": most}
    async with engine_over(folder, **plain) as (engine, fake):
        answer = await engine.read(*warmup_prompt(engine.tokenizer, "judge"))
        assert answer.logprobs == (-0.25, -1.75)
        assert engine.identity.engine.endswith(description)
        assert set(fake.bodies[0]) <= PLAIN_FIELDS | knows


@pytest.mark.parametrize("knows", [frozenset({"return_tokens_as_token_ids"}), frozenset()])
async def test_a_label_outside_the_top_makes_the_read_void_and_is_not_minus_infinity(
    folder: Path, tmp_path: Path, knows: frozenset[str]
) -> None:
    async with engine_over(folder, knows=knows) as (engine, fake):
        fake.scores = {" A": -0.1, "x": -3.0}
        answer = await engine.read(*warmup_prompt(engine.tokenizer, "judge"))
        assert answer.logprobs[0] == -0.1
        assert math.isnan(answer.logprobs[1])
        answers = Judge(engine).compare(
            comparison("void"), Constitution.load(one_principle(tmp_path))
        )
        judged = await answers
    assert isinstance(judged, Unjudged)
    assert judged.reason is UnjudgedReason.LOW_LABEL_MASS


async def test_vllms_spelling_of_minus_infinity_is_void_too(folder: Path) -> None:
    async with engine_over(folder) as (engine, fake):
        fake.scores = {" A": -0.1, " B": -9999.0}
        answer = await engine.read(*warmup_prompt(engine.tokenizer, "judge"))
        assert math.isnan(answer.logprobs[1])


def test_a_text_shared_by_several_tokens_names_none_of_them(folder: Path) -> None:
    tokenizer = HFTokenizer(folder)
    texts = tokenizer.distinct_texts()
    half_a_letter = tokenizer.encode_data("é")[0]
    assert half_a_letter not in texts
    assert texts[tokenizer.encode_data(" A")[0]] == " A"


def test_a_label_whose_text_is_shared_is_void_whatever_the_server_spells_as_nothing() -> None:
    model = ModelIdentity("judge", "weights", "tokenizer", "dtype", "engine")
    served = Served(model, None, LOGPROB_MODES[-1], {1: " A"})
    answer = {"choices": [{"logprobs": {"top_logprobs": [{"": -0.1, " A": -3.0}]}}]}
    scored, shared = served.pick(answer, (1, 7))
    assert scored == -3.0
    assert math.isnan(shared)


async def test_writing_is_requested_with_its_seed_and_none_of_the_servers_defaults(
    folder: Path,
) -> None:
    async with engine_over(folder) as (engine, fake):
        written = await engine.write([1, 2, 3], max_tokens=7, temperature=0.5, seed=-1)
        (body,) = fake.bodies
    assert (written.text, written.complete, written.prompt_tokens) == (" A b", True, 3)
    assert list(written.token_ids) == engine.tokenizer.encode_template(" A b")
    assert (body["max_tokens"], body["temperature"], body["seed"]) == (7, 0.5, 2**63 - 1)
    assert (body["top_p"], body["top_k"], body["min_p"]) == (1.0, -1, 0.0)


async def test_writing_of_a_plain_server_is_counted_by_our_tokenizer(folder: Path) -> None:
    async with engine_over(folder, knows=frozenset()) as (engine, _):
        written = await engine.write([1, 2, 3], max_tokens=7)
    assert list(written.token_ids) == engine.tokenizer.encode_data(" A b")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"models": [{"id": "other"}]}, r"setting 'model': .* serves no 'judge'; it serves: other"),
        ({"models": []}, "it serves: none"),
        ({"with_logprobs": False}, r"setting 'openai_url': .* does not return the log-prob.*vllm"),
        (
            {"added_tokens": 1},
            "'openai_url': .* made .* tokens of a prompt of .* token ids",
        ),
        ({"key": "another"}, r"environment RLAIF_OPENAI_API_KEY: .* refuses the key.*401"),
        ({"models": [{"id": "judge", "max_model_len": 99}]}, "'max_context_tokens' is 512, .* 99"),
    ],
)
async def test_an_unsuitable_server_fails_the_start_with_setting_and_remedy(
    folder: Path, values: dict[str, Any], problem: str
) -> None:
    async with model_server(HFTokenizer(folder), **values) as fake:
        engine = OpenAIEngine(
            fake.url, "judge", tokenizer=str(folder), key=KEY, max_context_tokens=512
        )
        with pytest.raises(UpstreamError, match=problem) as raised:
            await engine.start()
    assert KEY not in str(raised.value)
    assert "CANARY" not in str(raised.value)
    assert not engine.alive


async def test_a_wrong_address_fails_the_start(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    engine = OpenAIEngine(f"http://127.0.0.1:{port}", "judge", tokenizer=str(folder))
    with pytest.raises(UpstreamError, match=r"'openai_url': .* does not answer .*start the model"):
        await engine.start()
    for url, key, problem in (
        ("http://a:b", "", "'openai_url': invalid URL 'http://a:b'"),
        ("http://127.0.0.1", f"{KEY}\n", "RLAIF_OPENAI_API_KEY: unexpected characters"),
    ):
        with pytest.raises(UpstreamError, match=problem) as raised:
            await OpenAIEngine(url, "judge", tokenizer=str(folder), key=key).start()
        assert KEY not in str(raised.value)
    async with model_server(HFTokenizer(folder)) as fake:
        engine = OpenAIEngine(f"{fake.url}/v2/", "judge", tokenizer=str(folder))
        with pytest.raises(UpstreamError, match=r"'openai_url': .*404.*ends in /v1"):
            await engine.start()


@pytest.mark.parametrize(
    ("knows", "other"), [(VLLM_FIELDS, like_smollm2), (frozenset(), like_sentencepiece)]
)
async def test_another_models_tokenizer_fails_the_start(
    folder: Path, tmp_path: Path, knows: frozenset[str], other: Callable[[], Any]
) -> None:
    """By token ids if the server reports them: the first makes as many tokens as the right one."""
    async with model_server(HFTokenizer(folder), knows=knows) as fake:
        engine = OpenAIEngine(fake.url, "judge", tokenizer=str(save(other(), tmp_path)))
        with pytest.raises(UpstreamError, match="'openai_tokenizer': this tokenizer makes other"):
            await engine.start()


async def test_a_folder_without_tokenizer_fails_the_start(tmp_path: Path) -> None:
    engine = OpenAIEngine("http://127.0.0.1:1", "judge", tokenizer=str(tmp_path))
    with pytest.raises(UserError, match=r"no tokenizer here \(tokenizer.json\)"):
        await engine.start()


async def test_the_command_takes_the_key_from_the_environment_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLAIF_OPENAI_API_KEY", KEY)
    async with model_server(HFTokenizer(folder), key=KEY) as fake:
        settings = ServerSettings(
            model="judge",
            engine="openai",
            openai_url=f"{fake.url}/v1",
            openai_tokenizer=str(folder),
        )
        assert KEY not in settings.model_dump_json()
        engine = open_engine(settings)
        await engine.start()
        await engine.close()
        assert fake.keys == {f"Bearer {KEY}"}
