"""Steps of the real engine on a CPU: prompts in chunks, no read waits for all the others,
no request in the log of an engine that died."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from hardware.dtypes import dtype_name
from judge_service.engine import EngineError
from judge_service.engines.vllm import VLLMEngine
from tests.integration.judge_service.test_vllm_engine import children

pytestmark = pytest.mark.integration
in_module_loop = pytest.mark.asyncio(loop_scope="module")

STEP, CONTEXT = 64, 1024
LABELS = (330, 378)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(smollm2: Path) -> AsyncIterator[VLLMEngine]:
    engine = VLLMEngine(
        smollm2, dtype="float32", kv_cache_gib=0.5, max_context_tokens=CONTEXT, step_tokens=STEP
    )
    await engine.start()
    yield engine
    await engine.close()


def prompts(number: int, length: int, seed: int = 0) -> list[list[int]]:
    """Prompts that share nothing, of ordinary tokens."""
    draw = random.Random(seed)
    return [[draw.randrange(1000, 40_000) for _ in range(length)] for _ in range(number)]


@in_module_loop
async def test_seeded_writing_in_three_chunks_beside_64_reads_is_that_of_its_seed(
    engine: VLLMEngine,
) -> None:
    """vLLM rewinds the generator of a seeded prompt that is cut, and died of it on a CPU."""
    [prompt] = prompts(1, STEP * 5 // 2)

    def write(seed: int) -> Any:
        return engine.write(prompt, max_tokens=12, temperature=1.0, seed=seed)

    reads = [engine.read(ids, LABELS) for ids in prompts(64, 40, seed=1)]
    beside, other, *_ = await asyncio.gather(write(7), write(8), *reads)
    await engine.forget_prefixes()
    alone = await write(7)
    assert engine.alive
    assert beside.token_ids == alone.token_ids
    assert other.token_ids != alone.token_ids


@in_module_loop
async def test_chunks_change_no_log_probability(engine: VLLMEngine, smollm2: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    lengths = (STEP - 1, STEP, STEP + 1, 3 * STEP, 3 * STEP + 5, CONTEXT - 1)
    for ids in (prompts(1, length, seed=length)[0] for length in lengths):
        answer, *_ = await asyncio.gather(
            engine.read(ids, LABELS), *(engine.read(p, LABELS) for p in prompts(3, 50, seed=2))
        )
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        expected = torch.log_softmax(logits, -1)[list(LABELS)].tolist()
        assert answer.logprobs == pytest.approx(expected, abs=2e-4)


@in_module_loop
async def test_bulk_reads_are_answered_one_by_one_with_an_urgent_one_in_between(
    engine: VLLMEngine,
) -> None:
    """In steps that take all that waits, all answers come at once at the end."""
    answered: list[str] = []

    async def read(name: str, ids: Sequence[int], priority: int) -> None:
        await engine.read(ids, LABELS, priority=priority)
        answered.append(name)

    bulk = [asyncio.create_task(read("bulk", ids, priority=1)) for ids in prompts(24, 100, seed=3)]
    while not answered:
        await asyncio.sleep(0.01)
    assert len(answered) < 24 // 2, "the first answer came with most of the others"
    before = len(answered)
    await read("urgent", prompts(1, 100, seed=4)[0], priority=0)
    assert len(answered) - before <= 8, answered  # two steps, and what shared them
    await asyncio.gather(*bulk)
    assert answered.count("bulk") == 24


@in_module_loop
async def test_the_dtype_of_auto_is_the_hardware_s(smollm2: Path) -> None:
    engine = VLLMEngine(smollm2, kv_cache_gib=0.25, max_context_tokens=256)
    await engine.start()
    assert engine.identity.dtype == dtype_name("auto")
    await engine.close()


@in_module_loop
async def test_the_log_of_an_engine_that_died_describes_no_request(
    smollm2: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """vLLM gives up on a step that takes too long, and logs what it was given. Here the worker
    stands still."""
    monkeypatch.setenv("VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS", "20")
    before = set(children(os.getpid()))
    engine = VLLMEngine(smollm2, dtype="float32", kv_cache_gib=0.25, max_context_tokens=256)
    await engine.start()
    family = set(children(os.getpid())) - before
    worker = max(family, key=resident)
    os.kill(worker, signal.SIGSTOP)
    secret = [23_571] * 60
    try:
        with pytest.raises(EngineError):
            await engine.read(secret, LABELS)
    finally:
        os.kill(worker, signal.SIGKILL)
    await engine.close()
    output = capfd.readouterr()
    assert "imed out" in output.err + output.out
    assert "23571" not in output.err + output.out
    assert "Dumping" not in output.err + output.out


def resident(pid: int) -> int:
    """Pages that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
