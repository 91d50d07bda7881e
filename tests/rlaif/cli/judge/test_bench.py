"""`rlaif judge bench` and `rlaif reward bench`: what they print, write and refuse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from constitution.errors import UserError
from rlaif.cli.main import app
from tests.support.fakes import FakeEngine
from tests.support.feedback.bench_judges import knows_right
from tests.support.service.thread_server import serving_in_thread


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    engine = FakeEngine(knows_right)
    with serving_in_thread(engine, constitutions=("overall",), allow_inline_constitutions=True) as (
        served,
        _,
    ):
        yield served


@pytest.fixture
def gold(tmp_path: Path) -> Path:
    rows = [
        {
            "prompt": f"question {n}", "chosen": f"a right one {n}",
            "rejected": f"another {n} one.",
            "category": "even" if n % 2 == 0 else "odd",
        }
        for n in range(24)
    ]  # fmt: skip
    path = tmp_path / "gold.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rlaif(*words: Any) -> Result:
    ran = CliRunner().invoke(app, list(map(str, words)), env={"COLUMNS": "120"})
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        raise ran.exception
    return ran


def test_a_bench_prints_figures_floors_verdict_length_obedience_and_cost(
    address: str, gold: Path, tmp_path: Path
) -> None:
    ran = rlaif("judge", "bench", gold, "--server", address, "--out", tmp_path / "out",
                "--obedience", 6)  # fmt: skip
    assert ran.exit_code == 0, ran.output
    assert "gold.jsonl (pairs), fake by overall 1.0.0" in ran.output
    assert "│ overall │ 24        │ 1.00 [0.86, 1.00] │ 0.50   │" in ran.output
    assert "│ even    │ 12        │" in ran.output
    assert "length: the longer is chosen in" in ran.output
    assert "position: both orders agree in 1.00" in ran.output
    assert "cost: 48 reads" in ran.output
    assert (
        "│ better-on-the-whole │ 6     │ 1.00 [0.61, 1.00] │ 0.00 [0.00, 0.39] │ 0.00" in ran.output
    )
    written = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert written["results"][0]["figures"][0]["estimate"]["value"] == 1.0
    assert [(each["judge"], each["gold"]) for each in written["worth"]] == [("fake", "gold.jsonl")]


def test_json_holds_every_file_and_every_figure(address: str, gold: Path, tmp_path: Path) -> None:
    other = tmp_path / "llmbar.jsonl"
    row = {"input": "a question", "output_1": "a right one", "output_2": "another", "label": 1}
    other.write_text(json.dumps(row) + "\n")
    ran = rlaif("judge", "bench", gold, other, "--server", address, "--out", tmp_path / "out",
                "--limit", 5, "--json", "--obedience", 0)  # fmt: skip
    first, second = json.loads(ran.stdout)["results"]
    assert (first["questions"], second["questions"]) == (5, 1)
    assert (second["format"], second["obedience"]) == ("llmbar", [])
    assert second["verdict"] == "not above chance"  # one question says nothing


def test_several_files_are_shown_at_a_glance(address: str, gold: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text("".join(gold.read_text().splitlines(keepends=True)[:12]))
    ran = rlaif("judge", "bench", gold, other, "--server", address, "--out", tmp_path / "out",
                "--obedience", 12)  # fmt: skip
    overview = ran.output[ran.output.rindex("best floor") :]
    assert "│ gold.jsonl  │ 1.00 [0.86, 1.00] │" in overview
    assert "│ other.jsonl │ 1.00 [0.76, 1.00] │" in overview
    # The longer is never chosen nor right; by the inverted principle it is as if it followed.
    assert overview.count("0.00 (0.00)") == 4


def test_a_file_without_an_answer_leaves_the_others_results(
    address: str, gold: Path, tmp_path: Path
) -> None:
    long = {"prompt": "q", "chosen": "a right one", "rejected": "word " * 6000}
    (tmp_path / "long.jsonl").write_text(json.dumps(long) + "\n")
    with pytest.raises(UserError, match=r"long.jsonl: no question could be answered .too_long 1."):
        rlaif("judge", "bench", tmp_path / "long.jsonl", gold, "--server", address,
              "--out", tmp_path / "out", "--obedience", 0)  # fmt: skip
    (found,) = json.loads((tmp_path / "out" / "bench.json").read_text())["results"]
    assert (found["file"], found["questions"]) == (str(gold), 24)


def test_a_dry_run_counts_reads_and_shows_the_inverted_principles(gold: Path) -> None:
    ran = rlaif("judge", "bench", gold, "--dry-run", "--limit", 10, "--obedience", 4)
    lines = ran.output.splitlines()
    assert lines[0] == (
        "gold.jsonl (pairs): 10 of 24 questions, 10 prompts, 2 groups; 20 reads by overall, and 8 "
        "by its inversion"
    )
    assert lines[1].startswith("inverted better-on-the-whole: Prefer the reply that is less help")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--format", "llmbars"), "unknown format: 'llmbars'"),
        (("--format", "llmbar"), "gold.jsonl:1: output_1: a text is needed"),
        (("--inverted", "harmless", "-c", "./own.yaml"), "other principles than overall"),
        (("--floor-train", "nothing.jsonl"), "nothing.jsonl: no such file"),
        (("--floor-train", "gold.jsonl"), "floors on that gold.jsonl does not ask: 0; give 10"),
        (("--inverted", "harmless", "--scores"), "not measured with --scores; leave one"),
        (("--inverted", "harmless", "--obedience", "0"), "not measured with --obedience 0"),
    ],
)
def test_mistakes_are_refused_before_a_judge_is_reached(
    words: tuple[str, ...], message: str, gold: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    shown = rlaif("constitution", "show", "overall", "--yaml").output
    (tmp_path / "own.yaml").write_text(shown)
    with pytest.raises(UserError, match=message):
        rlaif("judge", "bench", gold, "--server", "127.0.0.1:1", *words)


def test_a_reward_bench_checks_the_folder_first_and_counts_responses(
    gold: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="not a reward model"):
        rlaif("reward", "bench", tmp_path, gold)
    (tmp_path / "reward.json").write_text(json.dumps({"label_weights": {}, "base_name": "x"}))
    ran = rlaif("reward", "bench", tmp_path, gold, "--dry-run")
    assert ran.output.strip().endswith(
        "24 of 24 questions, 24 prompts, 2 groups; 48 responses to score"
    )
