"""A reward source of a new kind is one file and one entry of SOURCES."""

from __future__ import annotations

import importlib
import json
import sys
import textwrap
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlaif.cli.main import app
from rlaif.data.records import Prompt, write_jsonl
from rlaif.rewards.base import RewardError
from rlaif.rewards.sources import SOURCES, open_rewards, parse_source

LENGTH = """
    from contextlib import contextmanager

    from rlaif.rewards.base import SourceKind

    def recognize(text):
        return text.removeprefix("length:") if text.startswith("length:") else None

    @contextmanager
    def open_length(where, judge):
        wanted = int(where)
        yield lambda conversations, responses: [-abs(len(r) - wanted) for r in responses]

    LENGTH = SourceKind("length:CHARACTERS", recognize, open_length, lambda where: int(where))
"""


@pytest.fixture
def length_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind `length:CHARACTERS`, in a package of its own, registered."""
    package = tmp_path / "extra_sources"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "length.py").write_text(textwrap.dedent(LENGTH))
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("extra_sources", "extra_sources.length"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("extra_sources.length")
    monkeypatch.setitem(SOURCES, "length", module.LENGTH)


def test_a_new_kind_is_recognized_opened_and_named_in_errors(length_kind: None) -> None:
    assert parse_source("2*length:5").kind == "length"
    with open_rewards(["2*length:5"]) as reward:
        assert reward([()] * 2, ["abc", "abcdefg"]) == [-4.0, -4.0]
        assert reward.identity == [["2*length:5", 5]]
    with pytest.raises(RewardError, match="give length:CHARACTERS, judge:HOST:PORT, a reward mod"):
        parse_source("nowhere")


def test_a_new_kind_trains_through_the_ordinary_command(
    length_kind: None,
    tiny_model: str,
    questions: list[Prompt],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "prompts.jsonl", questions)
    outcome = CliRunner().invoke(
        app,
        [
            "train", "ppo", "prompts.jsonl", "--model", tiny_model, "--reward", "0.5*length:8",
            "--out", "ppo", "dtype=float32", "max_tokens=60", "max_new_tokens=4", "iterations=1",
            "prompts_per_iteration=2", "engine=transformers",
        ],
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.output
    (line,) = (tmp_path / "ppo" / "metrics.jsonl").read_text().splitlines()
    assert -4.0 <= json.loads(line)["score"] < 0
