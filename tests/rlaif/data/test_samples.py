"""Responses of one's own are read as those that `sample` drew."""

from __future__ import annotations

import json

import pytest

from constitution.schema import Message
from rlaif.data.records import Prompt, RecordError, Sample, write_jsonl
from rlaif.data.samples import parse_samples, read_samples
from rlaif.feedback.pairs import pairs_from_samples

OURS = Sample(
    prompt=Prompt(id="p", messages=(Message(role="user", content="Hi"),)),
    index=1, response="Hello.", tokens=3, complete=False, seed=7,
)  # fmt: skip


def written(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_samples_of_ours_are_read_as_they_are(tmp_path):
    write_jsonl(tmp_path / "samples.jsonl", [OURS])
    assert read_samples(tmp_path / "samples.jsonl") == [OURS]
    assert list(parse_samples([("here", OURS)])) == [OURS]


def test_samples_of_one_prompt_are_numbered_in_their_order(tmp_path):
    rows = [
        {"prompt": "Name a fruit", "response": "An apple."},
        {"prompt": "Name a tree", "responses": ["An oak.", "A beech."]},
        {"prompt": [{"role": "user", "content": "Name a fruit"}], "response": "A pear."},
    ]
    samples = read_samples(written(tmp_path / "mine.jsonl", *rows))
    assert [(s.prompt.messages[-1].content, s.index, s.response) for s in samples] == [
        ("Name a fruit", 0, "An apple."),
        ("Name a tree", 0, "An oak."),
        ("Name a tree", 1, "A beech."),
        ("Name a fruit", 1, "A pear."),
    ]
    assert all(sample.complete for sample in samples)
    assert len(pairs_from_samples(samples).comparisons) == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "Hi?", "response": "Yo"}, r"mine.jsonl:1: missing field: prompt; expected"),
        ({"prompt": "Hi?"}, r'mine.jsonl:1: expected "response": "..." or "responses"'),
        ({"prompt": "Hi?", "response": "a", "responses": ["b"]}, r"mine.jsonl:1: expected"),
        ({"prompt": "Hi?", "response": 3}, r"mine.jsonl:1: response: expected text \(found 3\)"),
        ({"prompt": "Hi?", "responses": "no"}, r"mine.jsonl:1: responses: expected text"),
        ({"prompt": 3, "response": "a"}, r"mine.jsonl:1"),
        ({"prompt": " ", "response": "a"}, r"mine.jsonl:1"),
    ],
)
def test_samples_that_cannot_be_read_name_line_and_field(tmp_path, row, message):
    with pytest.raises(RecordError, match=message):
        read_samples(written(tmp_path / "mine.jsonl", row))
