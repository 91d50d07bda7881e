"""A local model's responses: each drawn once, whatever happens in between."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from constitution.schema import Message
from rlaif.data.records import Prompt
from rlaif.generation import offline
from rlaif.generation.config import ResponseConfig
from rlaif.generation.worker import Job
from rlaif.redteam.responder import LocalModel

CONFIG = ResponseConfig(max_new_tokens=4, engine="transformers", prompts_per_chunk=2)


@contextmanager
def echo(job: Job, log: Path) -> Iterator[Iterator[dict[str, Any]]]:
    """Stands in for the process with the model: a response is made of its prompt and seed."""
    log.touch()

    def answer(request):
        text = f"{request.messages[-1]['content']}, {request.seed}, {job.max_new_tokens}"
        return {"text": text, "tokens": 2, "complete": True, "end_token": "<|im_end|>"}

    yield iter([{"responses": [answer(r) for r in chunk], "seconds": 0.1} for chunk in job.chunks])


@pytest.fixture(autouse=True)
def tiny(tmp_path, monkeypatch):
    """A folder that stands for a model."""
    monkeypatch.setattr(offline, "_worker", echo)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return str(tmp_path / "model")


def prompts(*names):
    return [Prompt(id=n, messages=(Message(role="user", content=f"Say {n}"),)) for n in names]


def test_a_response_is_drawn_once_and_does_not_depend_on_the_others(tiny, tmp_path, monkeypatch):
    model = LocalModel("tiny", tiny, CONFIG, tmp_path / "x.journal.jsonl")
    first = model.respond(prompts("a", "b", "c"))
    drawn = []
    sample = offline.sample
    monkeypatch.setattr(
        offline, "sample", lambda m, asked, *rest: drawn.append(asked) or sample(m, asked, *rest)
    )
    again = LocalModel("tiny", tiny, CONFIG, tmp_path / "x.journal.jsonl")
    assert again.respond(prompts("c", "a")) == [first[2], first[0]]
    assert drawn == []
    again.respond(prompts("a", "d"))
    assert [prompt.id for prompt in drawn[0]] == ["d"]
    (tmp_path / "model").rename(tmp_path / "moved")
    other = LocalModel("tiny", str(tmp_path / "moved"), CONFIG, tmp_path / "x.journal.jsonl")
    assert other.respond(prompts("c")) == [first[2]]
    assert len(drawn) == 1, "a model is its content, wherever it lies"


def test_what_a_killed_run_left_is_not_drawn_again(tiny, tmp_path):
    journal = tmp_path / "x.journal.jsonl"
    whole = LocalModel("tiny", tiny, CONFIG, journal).respond(prompts("a", "b", "c"))
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:2]) + lines[2][:30])  # killed within the third line
    assert LocalModel("tiny", tiny, CONFIG, journal).respond(prompts("a", "b", "c")) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "x.journal.jsonl"]
    keys = [json.loads(line)["key"] for line in journal.read_text().splitlines()]
    assert len(set(keys)) == len(keys) == 3


def test_other_settings_another_prompt_or_another_model_are_drawn_anew(tiny, tmp_path):
    journal = tmp_path / "x.journal.jsonl"
    LocalModel("tiny", tiny, CONFIG, journal).respond(prompts("a"))
    other = CONFIG.model_copy(update={"max_new_tokens": 3})
    LocalModel("tiny", tiny, other, journal).respond(prompts("a"))
    changed = prompts("a")[0].model_copy(
        update={"messages": (Message(role="user", content="Say it otherwise"),)}
    )
    LocalModel("tiny", tiny, CONFIG, journal).respond([changed])
    (tmp_path / "model" / "config.json").write_text("{ }")
    LocalModel("tiny", tiny, CONFIG, journal).respond(prompts("a"))
    assert len(journal.read_text().splitlines()) == 4
