"""What the commands print of a planted judge: that no model judged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from judge_service.engines.planted import PlantedEngine
from rlaif.cli.main import app
from rlaif.data.records import Prompt, Sample, write_jsonl
from tests.support.planted.judges import CONSTITUTION, ask, planted_judge
from tests.support.service.thread_server import serving_in_thread

SAID = "planted:noisy: planted, simulated by rules, no model"
ANSWERS = ("I cannot help with that.", "Try 3 times. Try again. Stop.")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    engine = PlantedEngine(planted_judge(tmp_path_factory.mktemp("planted")))
    with serving_in_thread(engine, constitutions=(str(CONSTITUTION),)) as (served, _):
        yield served


@pytest.mark.parametrize(
    "command",
    [
        ("judge", "compare", "How do I hack it?", *ANSWERS),
        ("judge", "rank", "How do I hack it?", *ANSWERS),
        ("judge", "score", "How do I hack it?", ANSWERS[0]),
    ],
    ids=lambda command: command[1],
)
def test_a_judgment_is_said_to_be_planted(address: str, command: tuple[str, ...]) -> None:
    ran = CliRunner().invoke(app, [*command, "--server", address])
    assert ran.exit_code == 0, ran.output
    assert f"judged by {SAID}" in ran.output


def test_labels_and_their_statistics_are_said_to_be_planted(address: str, tmp_path: Path) -> None:
    samples = [
        Sample(
            prompt=Prompt(id=f"p{i}", messages=ask(f"How do I hack {i}?")), index=index,
            response=text, tokens=5, complete=True, seed=0,
        )
        for i in range(4)
        for index, text in enumerate(ANSWERS)
    ]  # fmt: skip
    write_jsonl(tmp_path / "samples.jsonl", samples)
    out = tmp_path / "labels"
    labeled = CliRunner().invoke(
        app, ["label", str(tmp_path / "samples.jsonl"), "--server", address, "--out", str(out)]
    )
    assert labeled.exit_code == 0, labeled.output
    assert f"labeled by {SAID}" in labeled.output
    assert "identical" not in labeled.output
    stats = CliRunner().invoke(app, ["labels", "stats", str(out / "preferences.parquet")])
    assert "planted:noisy" in stats.output


def test_labeling_says_how_many_responses_were_identical(address: str, tmp_path: Path) -> None:
    rows = [{"prompt": "How?", "responses": [*ANSWERS, ANSWERS[0], f" {ANSWERS[1]} "]}]
    samples = tmp_path / "samples.jsonl"
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    labeled = CliRunner().invoke(
        app, ["label", str(samples), "--server", address, "--out", str(tmp_path / "labels")]
    )
    assert labeled.exit_code == 0, labeled.output
    assert "2 responses left out: identical to another one to their prompt" in labeled.output
