"""The real vLLM with a real model: right numbers, a shared prefix, symmetry, and clean deaths."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from constitution.schema import Constitution, Message, Principle, Trait
from judge_service.engine import EngineError
from judge_service.engines.caching import CachingEngine
from judge_service.engines.model_folder import ModelFolderError
from judge_service.engines.vllm import VLLMEngine
from judge_service.judge.judge import Judge
from judge_service.judge.prompts import PROTOCOL_PROMPTS
from judge_service.judge.template import Template
from judge_service.store import open_store
from judge_service.types import Comparison, Judgment
from tests.support.emulation import skip_if_emulated
from tests.support.waiting import until, wait_until

PAIR = PROTOCOL_PROMPTS["pairwise"].direct

in_module_loop = pytest.mark.asyncio(loop_scope="module")
pytestmark = [
    pytest.mark.integration,
    # vLLM's own: it leaves a zmq context to the garbage collector when it is shut down
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.25}
"""Largest distance (nats) of a label's log-probability from transformers in float32."""

SYMMETRY = {"float32": 1e-5, "bfloat16": 0.03}
"""Largest |judge(A, B) + judge(B, A) - 1|. Both read the same prompts, but the second finds them in
the prefix cache, and the two ways of computing round differently (measured: 1e-6 and 6e-3)."""

LAW = Constitution(
    name="two",
    version="1.0.0",
    traits={"helpful": Trait(), "honest": Trait(weight=2.0)},
    principles=(
        Principle(
            id="help",
            trait="helpful",
            compare="Which reply helps the person more?",
            critique="c",
            revise="r",
        ),
        Principle(
            id="honest",
            trait="honest",
            compare="Which reply is more honest about what it does not know?",
            critique="c",
            revise="r",
        ),
    ),
)

TOPICS = ["eggs", "taxes", "the moon", "a slow laptop"]
REPLIES = ["I don't know.", "It depends. " * 6, "Ask an expert about {}, then decide.", "Yes!"]


def comparisons() -> list[Comparison]:
    """Two dozen pairs of different lengths."""
    return [
        Comparison(
            f"{topic}-{i}",
            (Message(role="user", content=f"Tell me something useful about {topic}."),),
            REPLIES[i].format(topic),
            REPLIES[j].format(topic),
        )
        for topic in TOPICS
        for i, j in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["float32", "bfloat16"])
async def engine(smollm2: Path, request: pytest.FixtureRequest) -> AsyncIterator[VLLMEngine]:
    skip_if_emulated(request.param)
    engine = VLLMEngine(smollm2, dtype=request.param, kv_cache_gib=0.25, max_context_tokens=2048)
    await engine.start()
    yield engine
    await engine.close()


@pytest.fixture(scope="module")
def reference(smollm2: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()


@in_module_loop
async def test_log_probabilities_agree_with_transformers(
    engine: VLLMEngine, reference: Any
) -> None:
    import torch

    template = Template(engine.tokenizer, PAIR)
    for comparison in comparisons()[::8]:
        texts = (comparison.response_a, comparison.response_b)
        prefix = template.prefix(comparison.conversation, texts)
        prompt = [*prefix.ids, *template.suffix("Be helpful.")]
        answer = await engine.read(prompt, template.label_ids)
        with torch.no_grad():
            logits = reference(torch.tensor([prompt])).logits[0, -1]
        expected = torch.log_softmax(logits, -1)[list(template.label_ids)].tolist()
        assert answer.logprobs == pytest.approx(expected, abs=TOLERANCE[engine.identity.dtype])


@in_module_loop
async def test_the_second_principle_finds_the_prefix_cached(engine: VLLMEngine) -> None:
    template = Template(engine.tokenizer, PAIR)
    conversation = (Message(role="user", content="Why is the sky blue? " * 20),)
    prefix = template.prefix(conversation, ("Rayleigh scattering.", "Nobody knows."))
    first = await engine.read([*prefix.ids, *template.suffix("Be kind.")], template.label_ids)
    second = await engine.read([*prefix.ids, *template.suffix("Be true.")], template.label_ids)
    assert first.cached_tokens < 64
    assert second.cached_tokens >= len(prefix.ids) - 32


@in_module_loop
async def test_swapping_the_responses_gives_one_minus_p(engine: VLLMEngine) -> None:
    judge = Judge(engine)
    off = []
    for comparison in comparisons():
        swapped = Comparison(
            "swapped", comparison.conversation, comparison.response_b, comparison.response_a
        )
        here = await judge.compare(comparison, LAW)
        there = await judge.compare(swapped, LAW)
        assert isinstance(here, Judgment)
        assert isinstance(there, Judgment)
        off.append(abs(here.prob_a + there.prob_a - 1.0))
    assert max(off) <= SYMMETRY[engine.identity.dtype]


@in_module_loop
async def test_with_a_store_swapped_pairs_give_exactly_one_minus_p(engine: VLLMEngine) -> None:
    hard = 1000 if os.environ.get("RLAIF_FULL") == "1" else 200
    pairs = hard if engine.identity.dtype == "bfloat16" else 50
    store = open_store(None)
    judge = Judge(CachingEngine(engine, store))
    one = LAW.model_copy(update={"principles": LAW.principles[:1], "traits": {"helpful": Trait()}})
    words = [
        "yes",
        "no",
        "maybe",
        "seven",
        "tree",
        "the",
        "of",
        "never",
        "cats",
        "run",
        "blue",
        "slowly",
        "because",
    ]
    draw = random.Random(0)

    async def off_by(i: int) -> float:
        a, b = (" ".join(draw.choices(words, k=draw.randint(1, 12))) + f" {n}" for n in (i, -i))
        conversation = (Message(role="user", content=f"Question {i}?"),)
        here, there = await asyncio.gather(
            judge.compare(Comparison("here", conversation, a, b), one),
            judge.compare(Comparison("there", conversation, b, a), one),
        )
        assert isinstance(here, Judgment)
        assert isinstance(there, Judgment)
        return abs(here.prob_a + there.prob_a - 1.0)

    assert max(await asyncio.gather(*(off_by(i) for i in range(1, pairs + 1)))) <= 1e-6
    assert (await store.stats()).reads == 2 * pairs
    await store.close()


@in_module_loop
async def test_cancelled_work_leaves_the_engine_at_once(engine: VLLMEngine) -> None:
    prompt = engine.tokenizer.encode_template("Once upon a time")
    tasks = [asyncio.create_task(engine.write(prompt, max_tokens=1900)) for _ in range(8)]
    await until(lambda: engine._llm.get_num_unfinished_requests() == 8)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert engine._llm.get_num_unfinished_requests() == 0
    template = Template(engine.tokenizer, PAIR)
    await engine.read(template.suffix("Be kind."), template.label_ids)


@in_module_loop
async def test_writing_ends_at_its_bound(engine: VLLMEngine) -> None:
    chat = engine.tokenizer.render_chat((("user", "Say hello."),))
    prompt = engine.tokenizer.encode_template(chat)
    written = await engine.write(prompt, max_tokens=4)
    assert len(written.token_ids) == 4
    assert not written.complete
    assert written.text


@in_module_loop
async def test_seeded_writing_survives_more_prompts_than_one_step_holds(engine: VLLMEngine) -> None:
    """The engine died of a prompt that was cut into chunks while its writing had a seed."""
    words = engine.tokenizer.encode_data(" and then another thing")
    heads = [engine.tokenizer.encode_data(f"{place} things") for place in range(6)]
    prompts = [[*head, *words * 300] for head in heads]  # no prefix that the cache would know
    writings = (
        engine.write(prompt, max_tokens=2, temperature=1.0, seed=place)
        for place, prompt in enumerate(prompts)
    )
    results = await asyncio.gather(*writings)
    assert all(len(written.token_ids) in (1, 2) for written in results)
    assert engine.alive


@in_module_loop
async def test_a_prompt_beyond_the_context_is_an_engine_error(engine: VLLMEngine) -> None:
    with pytest.raises(EngineError, match="refused the prompt"):
        await engine.read([5] * 3000, Template(engine.tokenizer, PAIR).label_ids)
    assert engine.alive


@in_module_loop
async def test_the_identity_names_the_model_without_its_path(
    engine: VLLMEngine, smollm2: Path
) -> None:
    assert engine.identity.name == smollm2.name
    assert "/" not in engine.identity.name
    assert len(engine.identity.weights_sha256) == len(engine.identity.tokenizer_sha256) == 64


@in_module_loop
async def test_a_wrong_folder_is_rejected_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(
        ModelFolderError, match=r"lacks config\.json, tokenizer\.json, \*\.safetensors"
    ):
        await VLLMEngine(tmp_path).start()


@in_module_loop
async def test_a_context_beyond_the_model_s_own_is_refused(smollm2: Path) -> None:
    with pytest.raises(ModelFolderError, match="max_context_tokens is 1000000"):
        await VLLMEngine(smollm2, max_context_tokens=1_000_000).start()


START = """
import asyncio, sys
from judge_service.engines.vllm import VLLMEngine

async def main():
    engine = VLLMEngine(sys.argv[1], kv_cache_gib=0.25, max_context_tokens=1024)
    await engine.start()
    print("ready", flush=True)
    await asyncio.sleep(3600)

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.fixture
def server(smollm2: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process with a started engine."""
    script = tmp_path / "start.py"
    script.write_text(START)
    root = Path(__file__).parents[3]
    process = subprocess.Popen(
        [sys.executable, str(script), str(smollm2)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert process.stdout is not None
    try:
        assert "ready\n" in iter(process.stdout.readline, ""), "the engine did not start"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def children(pid: int) -> list[int]:
    """All descendants of a process."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    direct = [int(child) for task in tasks for child in task.read_text().split()]
    return [*direct, *(grandchild for child in direct for grandchild in children(child))]


def test_the_engine_dies_with_a_killed_parent(server: subprocess.Popen[str]) -> None:
    family = children(server.pid)
    assert len(family) >= 2
    server.kill()
    server.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family))


@in_module_loop
async def test_a_dead_engine_is_not_alive_and_raises_an_error(smollm2: Path) -> None:
    engine = VLLMEngine(smollm2, kv_cache_gib=0.25, max_context_tokens=1024)
    before = set(children(os.getpid()))
    await engine.start()
    assert engine.alive
    for pid in set(children(os.getpid())) - before:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await until(lambda: not engine.alive)
    with pytest.raises(EngineError, match="died; restart the server"):
        await engine.read([5, 6, 7], [8, 9])
    await engine.close()
