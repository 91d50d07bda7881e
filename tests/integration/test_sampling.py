"""Sampling with the real SmolLM2, with vLLM and with transformers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlaif.prompts import load_prompts
from rlaif.sampling import SamplingConfig, SamplingError, sample, tokens_per_second

pytestmark = pytest.mark.integration

PROMPTS = load_prompts("quickstart")[:6]
CONFIG = SamplingConfig(n=2, max_tokens=24, prompts_per_chunk=2, kv_cache_gib=0.25)


def test_a_killed_run_goes_on_to_the_same_file_and_leaves_no_process(
    smollm2: Path, tmp_path: Path
) -> None:
    straight, killed = tmp_path / "straight.jsonl", tmp_path / "killed.jsonl"
    samples = sample(str(smollm2), PROMPTS, straight, CONFIG)
    code = (
        "from pathlib import Path; from rlaif.prompts import load_prompts\n"
        "from rlaif.sampling import SamplingConfig, sample\n"
        f"sample({str(smollm2)!r}, load_prompts('quickstart')[:6], Path({str(killed)!r}),\n"
        f"    SamplingConfig.model_validate_json({CONFIG.model_dump_json()!r}))\n"
    )
    run = subprocess.Popen([sys.executable, "-c", code])
    unfinished = killed.with_name("killed.jsonl.unfinished")
    while not (unfinished.exists() and unfinished.read_bytes().count(b"\n") >= 2):
        assert run.poll() is None
        time.sleep(0.02)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert not killed.exists()
    kept = unfinished.stat().st_ino

    assert sample(str(smollm2), PROMPTS, killed, CONFIG) == samples
    assert killed.read_bytes() == straight.read_bytes()
    assert kept
    assert children
    assert not any(_alive(int(child)) for child in children)
    assert all(1 <= s.tokens <= 24 for s in samples)
    assert {s.complete for s in samples if s.tokens < 24} <= {True}
    assert tokens_per_second(straight) > 0


def test_a_response_does_not_depend_on_what_is_sampled_beside_it(
    smollm2: Path, tmp_path: Path
) -> None:
    one = sample(str(smollm2), PROMPTS, tmp_path / "one.jsonl", CONFIG)
    whole = CONFIG.model_copy(update={"prompts_per_chunk": 6})
    other = sample(str(smollm2), PROMPTS[::-1], tmp_path / "other.jsonl", whole)
    assert {(s.prompt.id, s.index): s.response for s in one} == {
        (s.prompt.id, s.index): s.response for s in other
    }
    assert len({s.response for s in one}) == len(one)


def test_transformers_samples_from_the_same_seeds_where_vllm_is_absent(
    smollm2: Path, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"engine": "transformers", "dtype": "float32"})
    one = sample(str(smollm2), PROMPTS[:2], tmp_path / "one.jsonl", config)
    (alone, _) = sample(str(smollm2), PROMPTS[1:2], tmp_path / "alone.jsonl", config)
    assert alone == one[2]
    assert all(1 <= s.tokens <= 24 and s.complete == (s.tokens < 24) for s in one if s.tokens < 24)


def test_a_prompt_longer_than_the_context_is_named_before_the_model_is_loaded(
    smollm2: Path, tmp_path: Path
) -> None:
    long = PROMPTS[1].model_copy(update={"id": "long-one", "messages": (_turn("word " * 9000),)})
    with pytest.raises(SamplingError, match=r"prompt long-one is too long: 90\d\d tokens.* 8192"):
        sample(str(smollm2), [PROMPTS[0], long], tmp_path / "s.jsonl", CONFIG)


def _turn(text: str) -> object:
    return PROMPTS[0].messages[0].model_copy(update={"content": text})


def _alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
