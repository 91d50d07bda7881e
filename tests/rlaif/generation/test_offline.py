"""Sampling: seeds, chunks kept on disk, and what is said when it goes wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from constitution.errors import UserError
from rlaif.data.records import Prompt, Sample, read_jsonl
from rlaif.generation import offline
from rlaif.generation.base import SamplingError, response_seed
from rlaif.generation.config import SamplingConfig
from rlaif.generation.offline import sample, tokens_per_second
from rlaif.generation.worker import Job
from rlaif.settings import configured

PROMPTS = [
    Prompt(id=f"p{n}", messages=({"role": "user", "content": f"Question {n}?"},)) for n in range(5)
]
CONFIG = SamplingConfig(n=2, prompts_per_chunk=2, engine="transformers")  # three chunks


class FakeWorker:
    """Stands in for the process: echoes each request, ends or fails after some chunks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.started_at: list[int] = []
        self.ends_after: int | None = None
        self.error = ""
        monkeypatch.setattr(offline, "_worker", self._run)

    @contextmanager
    def _run(self, job: Job, log: Path) -> Iterator[Iterator[dict[str, Any]]]:
        log.write_text("what the engine said")
        self.started_at.append(job.start)
        yield self._messages(job)

    def _messages(self, job: Job) -> Iterator[dict[str, Any]]:
        yield {"loading": job.engine}
        for number, chunk in enumerate(job.chunks[job.start :]):
            if number == self.ends_after:
                if self.error:
                    yield {"error": self.error}
                return
            responses = [
                {"text": f"{r.prompt} {r.index} {r.seed}", "tokens": 10, "complete": True}
                for r in chunk
            ]
            yield {"responses": responses, "seconds": 0.5}


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeWorker:
    return FakeWorker(monkeypatch, tmp_path)


def test_every_prompt_gets_n_responses_in_order_each_with_its_own_seed(
    worker: FakeWorker, tmp_path: Path
) -> None:
    out = tmp_path / "samples.jsonl"
    samples = sample("m", PROMPTS, out, CONFIG)
    assert [(s.prompt.id, s.index) for s in samples] == [(p.id, i) for p in PROMPTS for i in (0, 1)]
    assert samples[3].response == f"p1 1 {response_seed(0, 'p1', 1)}"
    assert len({s.seed for s in samples}) == 10
    assert read_jsonl(out, Sample) == samples
    assert tokens_per_second(out) == pytest.approx(100 / 1.5)
    assert {path.name for path in tmp_path.iterdir()} == {"samples.jsonl", "samples.speed.json"}


def test_a_seed_depends_on_seed_prompt_and_index_alone() -> None:
    assert response_seed(0, "p1", 0) == 7276941171046202397
    assert response_seed(1, "p1", 0) != response_seed(0, "p1", 0)
    assert 0 <= response_seed(7, "x", 3) < 2**63


def test_a_run_cut_short_goes_on_after_the_last_whole_chunk(
    worker: FakeWorker, tmp_path: Path
) -> None:
    straight = sample("m", PROMPTS, tmp_path / "straight.jsonl", CONFIG)
    out = tmp_path / "cut.jsonl"
    worker.ends_after = 2
    with pytest.raises(SamplingError, match=r"after 4 of 5 prompts\. Its log: .*log"):
        sample("m", PROMPTS, out, CONFIG)
    assert not out.exists()
    with (tmp_path / "cut.jsonl.unfinished").open("a") as file:
        file.write('{"responses": [{"te')  # killed while writing the third
    worker.ends_after = None
    assert sample("m", PROMPTS, out, CONFIG) == straight
    assert worker.started_at == [0, 0, 2]


@pytest.mark.parametrize("change", ["model", "prompts", "config"])
def test_chunks_of_another_model_or_config_are_not_continued(
    worker: FakeWorker, tmp_path: Path, change: str
) -> None:
    out = tmp_path / "samples.jsonl"
    worker.ends_after = 1
    with pytest.raises(SamplingError):
        sample("m", PROMPTS, out, CONFIG)
    worker.ends_after = None
    sample(
        "other" if change == "model" else "m",
        PROMPTS[::-1] if change == "prompts" else PROMPTS,
        out,
        CONFIG.model_copy(update={"seed": 1}) if change == "config" else CONFIG,
    )
    assert worker.started_at == [0, 0]


def test_that_finished_chunks_do_not_fit_is_said(
    worker: FakeWorker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worker.ends_after = 1
    with pytest.raises(SamplingError):
        sample("m", PROMPTS, tmp_path / "s.jsonl", CONFIG)
    worker.ends_after = None
    sample("other", PROMPTS, tmp_path / "s.jsonl", CONFIG)
    assert (
        "is of other prompts, settings or another model; sampling anew" in capsys.readouterr().err
    )


def test_a_model_is_its_content_wherever_it_lies(worker: FakeWorker, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    (first / "model.safetensors").write_bytes(b"weights")
    worker.ends_after = 2
    with pytest.raises(SamplingError):
        sample(str(first), PROMPTS, tmp_path / "s.jsonl", CONFIG)
    worker.ends_after = None
    first.rename(second)
    os.utime(second / "model.safetensors", (0, 0))
    sample(str(second), PROMPTS, tmp_path / "s.jsonl", CONFIG)
    assert worker.started_at == [0, 2]

    worker.ends_after = 2
    with pytest.raises(SamplingError):
        sample(str(second), PROMPTS, tmp_path / "t.jsonl", CONFIG)
    worker.ends_after = None
    (second / "model.safetensors").write_bytes(b"weighty")  # of the same size
    os.utime(second / "model.safetensors", (0, 0))
    sample(str(second), PROMPTS, tmp_path / "t.jsonl", CONFIG)
    assert worker.started_at == [0, 2, 0, 0]


def test_two_processes_do_not_sample_into_one_file(worker: FakeWorker, tmp_path: Path) -> None:
    with (
        offline._Unfinished(tmp_path / "s.jsonl", "of another process"),
        pytest.raises(SamplingError, match=r"s.jsonl: another process samples into this file"),
    ):
        sample("m", PROMPTS, tmp_path / "s.jsonl", CONFIG)
    sample("m", PROMPTS, tmp_path / "s.jsonl", CONFIG)  # the lock ended with it
    assert worker.started_at == [0]


def test_an_error_of_the_model_is_handed_on_and_finished_chunks_stay(
    worker: FakeWorker, tmp_path: Path
) -> None:
    worker.ends_after, worker.error = 1, "no kernel for this"
    with pytest.raises(SamplingError, match="sampling stopped: no kernel for this"):
        sample("m", PROMPTS, tmp_path / "s.jsonl", CONFIG)
    assert len((tmp_path / "s.jsonl.unfinished").read_text().splitlines()) == 2


def test_a_full_disk_says_how_far_it_came(
    worker: FakeWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, chunk: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(offline._Unfinished, "append", full)
    with pytest.raises(SamplingError, match=r"No space left on device.*after 0 of 5 prompts"):
        sample("m", PROMPTS, tmp_path / "s.jsonl", CONFIG)


def test_a_sampler_that_cannot_even_start_leaves_its_words_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline.sys, "executable", "/bin/false")
    long = [p.model_copy(update={"id": p.id * 50_000}) for p in PROMPTS]  # more than a pipe holds
    with pytest.raises(SamplingError, match="ended by itself"):
        sample("m", long, tmp_path / "s.jsonl", CONFIG)


def test_no_prompts_and_two_of_one_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SamplingError, match="no prompts"):
        sample("m", [], tmp_path / "s.jsonl", CONFIG)
    with pytest.raises(SamplingError, match="two prompts have the same id: 'p0'"):
        sample("m", [PROMPTS[0], PROMPTS[0]], tmp_path / "s.jsonl", CONFIG)


@pytest.mark.parametrize(
    "bad", [{"n": 0}, {"top_p": 0}, {"temperature": 0}, {"max_token": 5}, {"engine": "other"}]
)
def test_settings_that_make_no_sense_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SamplingConfig(**bad)


def test_the_old_name_of_max_new_tokens_is_refused_with_the_new_one() -> None:
    with pytest.raises(UserError, match="max_tokens is now called max_new_tokens: write max_new_t"):
        configured(SamplingConfig, ["max_tokens=64"], {})


def test_an_unknown_engine_is_named_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="engine 'vlm'; expected one of: auto, vllm, transformers"):
        configured(SamplingConfig, ["engine=vlm"], {})
