"""The workshop's commands through the real client and server; only the engine is scripted.

The scripted judge prefers the longer response, whatever the principle says, unless it says "brief".
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import Result
from typer.testing import CliRunner

from constitution.errors import UserError
from constitution.schema import Constitution
from judge_service.client.sync import JudgeClient
from rlaif.cli.main import app
from rlaif.data.datasets import read_preferences
from rlaif.data.records import write_preferences
from rlaif.feedback.labeler import label
from tests.support.fakes import FakeEngine, parse, prefer_longer
from tests.support.feedback.builders import pair
from tests.support.service.serving import serving

RULES = """
name: rules
version: 1.0.0
traits: {helpful: {}, kind: {weight: 0.5}}
principles:
  - id: thorough
    trait: helpful
    compare: Prefer the reply that says more.
    critique: What is missing?
    revise: Add it.
    examples:
      - {prompt: Why?, response_a: Because of this and that., response_b: Because., preferred: A}
      - {prompt: How?, response_a: So., response_b: First this and then that., preferred: B}
  - id: warm
    trait: kind
    compare: Prefer the warmer reply.
    critique: What is cold?
    revise: Warm it.
    examples:
      - {prompt: Hello?, response_a: Hello to you., response_b: What., preferred: A}
"""
BRIEF = RULES.replace("Prefer the warmer reply.", "Prefer the brief reply.").replace(
    "kind: {weight: 0.5}", "kind: {weight: 3.0}"
)


def answer(prompt: str) -> tuple[float, float]:
    first, second = prefer_longer(prompt)
    return (second, first) if "brief" in parse(prompt).principle else (first, second)


@contextmanager
def running(engine: FakeEngine) -> Iterator[str]:
    """The address of a judge in a thread of its own."""
    ready, stop = threading.Event(), threading.Event()
    addresses: list[str] = []

    async def live() -> None:
        async with serving(engine, allow_inline_constitutions=True) as server:
            addresses.append(server.address)
            ready.set()
            while not stop.is_set():
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(live()))
    thread.start()
    try:
        assert ready.wait(120)
        yield addresses[0]
    finally:
        stop.set()
        thread.join(120)


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine(answer)


@pytest.fixture(scope="module")
def server(engine: FakeEngine) -> Iterator[str]:
    with running(engine) as address:
        yield address


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    return path


def constitution(*arguments: str | Path, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, ["constitution", *map(str, arguments)], input=typed)


# ── test ─────────────────────────────────────────────────────────────────────────────────────


def test_a_sound_constitution_passes_and_says_so(server: str, rules: Path) -> None:
    found = constitution("test", rules, "--server", server)
    assert found.exit_code == 0, found.output
    assert "3 of 3 passed, 100% [44%, 100%]" in found.output


def test_a_broken_principle_fails_by_name_in_every_format(server: str, rules: Path) -> None:
    rules.write_text(BRIEF)
    junit = rules.with_name("out.xml")
    found = constitution("test", rules, "--server", server, "--json", "--junit", junit)
    assert found.exit_code == 1
    told = json.loads(found.stdout)
    assert [e["passed"] for e in told["examples"]] == [True, True, False]
    assert told["examples"][2]["prob"] == pytest.approx(0.0909, abs=1e-3)
    assert told["summary"]["total"]["n"] == 3
    assert ET.parse(junit).getroot().get("failures") == "1"
    one = constitution("test", rules, "--server", server, "--principle", "thorough")
    assert one.exit_code == 0


def test_watching_asks_only_what_changed_and_outlives_a_broken_file(
    engine: FakeEngine, server: str, rules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def saves(path: Path) -> Iterator[None]:
        for text in (RULES, "name: [", BRIEF):
            path.write_text(text)
            before = len(engine.prompts)
            yield
            asked.append(len(engine.prompts) - before)
        raise KeyboardInterrupt

    monkeypatch.setattr("rlaif.constitution_tools.watch.saves", saves)
    found = constitution("test", rules, "--server", server, "--watch")
    assert found.exit_code == 0
    assert asked == [6, 0, 2]
    assert "rules.yaml:1:" in found.output
    assert "2 of 3 as before, not asked again" in found.output
    assert "no longer watching" in found.output


def test_a_shipped_constitution_cannot_be_watched() -> None:
    assert isinstance(constitution("test", "hhh", "--watch").exception, UserError)


# ── diff ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def labels(server: str, rules: Path) -> Path:
    """Eight labels under RULES: the longer response of each, 10 to 1."""
    pairs = [pair(f"l{i}", f"Question {i}?", "A longer answer.", "Short.") for i in range(8)]
    folder = rules.with_name("labels")
    with JudgeClient(server) as client:
        label(pairs, client, folder, constitution=Constitution.load(rules))
    path = folder / "labels.jsonl"
    write_preferences(path, read_preferences(folder / "preferences.parquet"))
    return path


def test_diff_shows_the_flips_and_reads_only_the_edited_principle(
    engine: FakeEngine, server: str, rules: Path, labels: Path
) -> None:
    new = rules.with_name("new.yaml")
    new.write_text(BRIEF)
    arguments = ("diff", rules, new, "--labels", labels, "--server", server)

    planned = constitution(*arguments, "--dry-run")
    assert "warm: reworded" in planned.output
    assert "trait kind: weighed differently: 0.5 → 3" in planned.output
    assert "16 reads are wanted, 32 to label them all again" in planned.output

    before = len(engine.prompts)
    found = constitution(*arguments, "--show", "1")
    assert found.exit_code == 0, found.output
    assert len(engine.prompts) - before == 16
    assert "8 of 8 labels flip" in found.output
    assert "P(A better) 0.909 → 0.295, moved by warm" in found.output
    assert "B: Short." in found.output

    told = json.loads(constitution(*arguments, "--json").stdout)
    assert len(engine.prompts) - before == 16  # the journal held them
    assert told["usage"]["reads"] == 0
    assert told["flips"] == 8
    assert told["most_confident"][0]["moved_by"] == "warm"


def test_a_diff_of_weights_needs_no_judge(rules: Path, labels: Path) -> None:
    new = rules.with_name("new.yaml")
    new.write_text(RULES.replace("weight: 0.5", "weight: 0.7"))
    found = constitution("diff", rules, new, "--labels", labels, "--server", "127.0.0.1:1")
    assert found.exit_code == 0, found.output
    assert "0 of 8 labels flip" in found.output


def test_diff_refuses_labels_of_another_constitution(rules: Path, labels: Path) -> None:
    found = constitution("diff", "hhh", rules, "--labels", labels)
    assert "no label was made under hhh as it is now" in str(found.exception)


# ── ablate ───────────────────────────────────────────────────────────────────────────────────


def test_ablate_needs_no_judge_and_says_what_gold_would_tell(rules: Path, labels: Path) -> None:
    found = constitution("ablate", rules, "--labels", labels)
    assert found.exit_code == 0, found.output
    assert "8 labels, 0 of them with gold" in found.output
    assert "without gold it cannot be told which principle is right" in found.output


def test_ablate_with_gold_draws_and_weighs(rules: Path, labels: Path) -> None:
    gold, out = rules.with_name("gold.jsonl"), rules.with_name("ablation")
    lines = (
        {"prompt": f"Question {i}?", "chosen": "A longer answer.", "rejected": "Short."}
        for i in range(8)
    )
    gold.write_text("\n".join(map(json.dumps, lines)))
    arguments = ("ablate", rules, "--labels", labels, "--gold", gold)
    found = constitution(*arguments, "--out", out)
    assert found.exit_code == 0, found.output
    assert "weights are not refitted: 8 labels with gold" in found.output
    assert (out / "redundancy.svg").stat().st_size > 1000
    assert (out / "redundancy.png").read_bytes().startswith(b"\x89PNG")
    told = json.loads(constitution(*arguments, "--json").stdout)
    assert told["accuracy"]["value"] == 1.0
    assert told["redundancy"][0]["r"] == pytest.approx(1.0)
    assert told["refitted"] is None


def test_ablate_refuses_labels_of_another_constitution(rules: Path, labels: Path) -> None:
    found = constitution("ablate", "hhh", "--labels", labels)
    assert "rlaif label --update" in str(found.exception)


# ── try ──────────────────────────────────────────────────────────────────────────────────────


def test_try_shows_the_votes_of_what_is_typed(server: str, rules: Path) -> None:
    typed = "Why?\n.\nBecause of\nthis.\n.\nNo.\n.\nagain\nNo.\n.\nBecause of that.\n.\n"
    found = constitution("try", rules, "--server", server, typed=typed)
    assert found.exit_code == 0, found.output
    assert "P(A better) = 0.909" in found.output
    assert "P(A better) = 0.091" in found.output
    assert "thorough" in found.output
