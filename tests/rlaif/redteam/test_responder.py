"""A local model's responses: each drawn once, whatever happens in between."""

from __future__ import annotations

import json

import pytest

from constitution.schema import Message
from rlaif.data.records import Prompt
from rlaif.generation import offline
from rlaif.generation.config import ResponseConfig
from rlaif.redteam.responder import LocalModel
from tests.support.training.sampling_here import sampling_here
from tests.support.training.tiny_model import save_tiny_model

__all__ = ["sampling_here"]  # a fixture

CONFIG = ResponseConfig(max_new_tokens=4, engine="transformers", prompts_per_chunk=2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


def prompts(*names):
    return [Prompt(id=n, messages=(Message(role="user", content=f"Say {n}"),)) for n in names]


@pytest.mark.usefixtures("sampling_here")
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
    other = LocalModel("tiny", tiny, CONFIG, tmp_path / "y.journal.jsonl")
    assert other.respond(prompts("c")) == [first[2]]


@pytest.mark.usefixtures("sampling_here")
def test_what_a_killed_run_left_is_not_drawn_again(tiny, tmp_path):
    journal = tmp_path / "x.journal.jsonl"
    whole = LocalModel("tiny", tiny, CONFIG, journal).respond(prompts("a", "b", "c"))
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:2]) + lines[2][:30])  # killed within the third line
    assert LocalModel("tiny", tiny, CONFIG, journal).respond(prompts("a", "b", "c")) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.journal.jsonl"]
    keys = [json.loads(line)["key"] for line in journal.read_text().splitlines()]
    assert len(set(keys)) == len(keys) == 3


@pytest.mark.usefixtures("sampling_here")
def test_other_settings_or_another_prompt_are_drawn_anew(tiny, tmp_path):
    journal = tmp_path / "x.journal.jsonl"
    LocalModel("tiny", tiny, CONFIG, journal).respond(prompts("a"))
    other = CONFIG.model_copy(update={"max_new_tokens": 3})
    LocalModel("tiny", tiny, other, journal).respond(prompts("a"))
    changed = prompts("a")[0].model_copy(
        update={"messages": (Message(role="user", content="Say it otherwise"),)}
    )
    LocalModel("tiny", tiny, CONFIG, journal).respond([changed])
    assert len(journal.read_text().splitlines()) == 3
