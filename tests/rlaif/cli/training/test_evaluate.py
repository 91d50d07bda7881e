"""rlaif evaluate: the judges that are named, and what is printed of them."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from rlaif.cli.main import app
from rlaif.data.records import Prompt, Sample, write_jsonl
from rlaif.feedback.labeler import label
from rlaif.feedback.pairs import pairs_from_samples
from tests.support.feedback.scripted_judge import MODEL, ScriptedJudge


@pytest.fixture
def files(tmp_path):
    """Samples of the start and of a policy, and labels of the scripted judge."""
    for name, words in (("start", 3), ("dpo", 5)):
        answers = [
            Sample(
                prompt=Prompt(id=f"q{n}", messages=({"role": "user", "content": f"Q{n}?"},)),
                index=0, response="word " * words + str(n), tokens=5, complete=True, seed=0,
            )
            for n in range(4)
        ]  # fmt: skip
        write_jsonl(tmp_path / f"{name}.jsonl", answers)
    both = [a.model_copy(update={"index": i, "response": f"{i}"}) for a in answers for i in (0, 1)]
    label(pairs_from_samples(both).comparisons, ScriptedJudge(), tmp_path / "labels")
    return tmp_path


@pytest.fixture
def connected(monkeypatch):
    """What each judge was connected to: (model, server)."""
    found = []

    @contextmanager
    def judge_client(model, constitution, log, server="", **_):
        found.append((model, server))
        client = ScriptedJudge()
        if model:
            client.model = client.judged_by = replace(MODEL, name=model, weights_sha256="9" * 64)
        yield client

    monkeypatch.setattr("rlaif.feedback.client.judge_client", judge_client)
    monkeypatch.setattr("rlaif.models.catalog.resolve", lambda name: name)
    return found


def evaluated(files, *words):
    start = ("--start", str(files / "start.jsonl"), "--out", str(files / "e"))
    given = ["evaluate", f"dpo={files / 'dpo.jsonl'}", *start, *map(str, words)]
    result = CliRunner().invoke(app, given, env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_models_are_served_and_addresses_are_used_each_with_a_column(files, connected):
    printed = evaluated(
        files, "--judge", "org/m", "--judge", "localhost:7", "--judge", "[::1]:8", "--labels",
        files / "labels" / "preferences.parquet",
    )  # fmt: skip
    assert connected == [("org/m", ""), ("", "localhost:7"), ("", "[::1]:8")]
    assert "Win rate by judge" in printed
    assert "Judged by org/m, constitution hhh 1.0.0. It did not label the training data." in printed
    assert "scripted also labeled the training data." in printed
    assert "org/m and scripted name the same winner in 100 %" in printed


def test_judges_keep_the_order_in_which_they_are_named(files, connected):
    # The first one's rates are the policies' own; labels may be named by their folder.
    printed = evaluated(
        files, "--judge", "localhost:7", "--judge", "org/m", "--labels", files / "labels"
    )
    assert connected == [("", "localhost:7"), ("org/m", "")]
    assert "scripted and org/m name the same winner in 100 %" in printed
    assert "scripted also labeled the training data." in printed


def test_without_a_judge_the_server_decides_and_who_labeled_is_not_known(files, connected):
    printed = evaluated(files, "--server", "localhost:9", "--wait")
    assert connected == [("", "localhost:9")]
    assert "Whether it also labeled the training data is not known." in printed
    assert "scripted is not known on gold" in printed
    assert "Win rate by judge" not in printed, "of one judge the first table has it"


def test_figures_on_gold_are_shown_beside_the_judge_they_are_of(files, connected):
    figures = {
        "judge": "scripted", "gold": "g.jsonl", "n": 40, "accuracy": 0.6, "low": 0.45,
        "high": 0.74, "longer": 0.7,
    }  # fmt: skip
    (files / "worth.json").write_text(json.dumps([figures]))
    printed = evaluated(files, "--server", "localhost:9", "--wait", "--worth", files / "worth.json")
    assert "60 % [45, 74] of 40 pairs of g.jsonl (naming the longer: 70 %, not above chance)" in (
        printed
    )
