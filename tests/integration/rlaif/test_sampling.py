"""Sampling with the real SmolLM2, with vLLM and with transformers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from constitution.schema import Message
from rlaif.data.prompts import load_prompts
from rlaif.data.records import Sample
from rlaif.generation.base import SamplingError
from rlaif.generation.config import SamplingConfig
from rlaif.generation.offline import sample, tokens_per_second

pytestmark = pytest.mark.integration

PROMPTS = load_prompts("quickstart")[:6]
CONFIG = SamplingConfig(n=2, max_new_tokens=16, prompts_per_chunk=2, kv_cache_gib=0.25)


@pytest.fixture(scope="module")
def straight(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Sample]]:
    """A run that nothing disturbed: its file and its samples."""
    out = tmp_path_factory.mktemp("straight") / "samples.jsonl"
    return out, sample(str(smollm2), PROMPTS, out, CONFIG)


def test_responses_end_by_themselves_or_at_the_bound(straight: tuple[Path, list[Sample]]) -> None:
    out, samples = straight
    assert [s.prompt.id for s in samples[::2]] == [prompt.id for prompt in PROMPTS]
    assert len({s.response for s in samples}) == len(samples)
    assert all(s.complete or s.tokens == 16 for s in samples)
    assert all(1 <= s.tokens <= 16 and "<|im_end|>" not in s.response for s in samples)
    assert tokens_per_second(out) > 0


def test_a_killed_run_resumes_to_the_same_file_and_leaves_no_process(
    smollm2: Path, straight: tuple[Path, list[Sample]], tmp_path: Path
) -> None:
    out = tmp_path / "samples.jsonl"
    code = (
        "from pathlib import Path; from rlaif.data.prompts import load_prompts\n"
        "from rlaif.generation.config import SamplingConfig\n"
        "from rlaif.generation.offline import sample\n"
        f"sample({str(smollm2)!r}, load_prompts('quickstart')[:6], Path({str(out)!r}),\n"
        f"    SamplingConfig.model_validate_json({CONFIG.model_dump_json()!r}))\n"
    )
    run = subprocess.Popen([sys.executable, "-c", code])
    unfinished = out.with_name("samples.jsonl.unfinished")
    while not (unfinished.exists() and unfinished.read_bytes().count(b"\n") >= 2):
        assert run.poll() is None
        time.sleep(0.02)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert children
    assert not out.exists()

    assert sample(str(smollm2), PROMPTS, out, CONFIG) == straight[1]
    assert out.read_bytes() == straight[0].read_bytes()
    assert not any(_alive(int(child)) for child in children)


def test_a_response_does_not_depend_on_what_is_sampled_beside_it(
    smollm2: Path, tmp_path: Path
) -> None:
    # float32: in bfloat16 some processors (AMX) round by the shape of the batch.
    config = CONFIG.model_copy(update={"dtype": "float32"})
    whole = config.model_copy(update={"prompts_per_chunk": 6})
    straight = sample(str(smollm2), PROMPTS, tmp_path / "straight.jsonl", config)
    other = sample(str(smollm2), PROMPTS[::-1], tmp_path / "other.jsonl", whole)
    assert sorted(s.model_dump_json() for s in other) == sorted(
        s.model_dump_json() for s in straight
    )


def test_transformers_draws_each_row_from_its_own_seed_where_vllm_is_absent(
    smollm2: Path, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"engine": "transformers", "dtype": "float32"})
    both = sample(str(smollm2), PROMPTS[:2], tmp_path / "both.jsonl", config)
    alone = sample(str(smollm2), PROMPTS[1:2], tmp_path / "alone.jsonl", config)
    assert alone == both[2:]
    assert len({s.response for s in both}) == 4
    assert all(s.complete or s.tokens == 16 for s in both)


def test_a_prompt_longer_than_the_context_is_named_before_the_model_is_loaded(
    smollm2: Path, tmp_path: Path
) -> None:
    words = (Message(role="user", content="word " * 9000),)
    long = PROMPTS[1].model_copy(update={"id": "long-one", "messages": words})
    with pytest.raises(SamplingError, match=r"prompt long-one is too long: 90\d\d tokens.* 8192"):
        sample(str(smollm2), [PROMPTS[0], long], tmp_path / "s.jsonl", CONFIG)


def _alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
