"""`rlaif labels …` and `rlaif label --update` as a user meets them."""

import json
import re
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from constitution.writer import to_yaml
from rlaif.cli.main import app
from rlaif.data.datasets import read_preferences
from rlaif.data.records import Prompt, Sample, write_jsonl
from tests.support.fakes import prefer_longer
from tests.support.feedback.constitutions import edited, engine
from tests.support.feedback.labeled import LAW, judge, labeled, rewrite
from tests.support.feedback.local_judge import LocalJudge


def rlaif(*arguments, code=0):
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if found.exception and not isinstance(found.exception, SystemExit):
        assert code == 1, found.exception
        return str(found.exception)
    assert found.exit_code == code, found.output
    return found.stdout


@pytest.fixture
def file(tmp_path):
    return labeled(tmp_path / "labels")


@pytest.fixture
def law(tmp_path):
    path = tmp_path / "law.yaml"
    path.write_text(to_yaml(LAW), encoding="utf-8")
    return path


@pytest.fixture
def served(monkeypatch):
    """A judge that the commands reach in place of a server."""

    def serve(client):
        @contextmanager
        def judge_client(*_, **__):
            yield client

        monkeypatch.setattr("rlaif.feedback.client.judge_client", judge_client)
        return client

    return serve


def test_show_tells_the_texts_the_reads_and_the_provenance(file):
    told = rlaif("labels", "show", file, "q3")
    label = read_preferences(file)[3]
    for text in (label.chosen_text, label.rejected_text, "question q3", "p2", "honest", "BA"):
        assert text in told
    assert LAW.digest in told
    assert "calibration none" in told


def test_show_takes_the_folder_and_gives_json(file):
    told = json.loads(rlaif("labels", "show", file.parent, "q3", "--json"))
    assert told["id"] == "q3"
    assert len(told["receipt"]["votes"]) == 3


def test_show_does_not_take_brackets_in_a_text_for_markup(file):
    def edit(one):
        message = one.chosen[0].model_copy(update={"content": "[bold]loud[/nonsense]"})
        return one.model_copy(update={"chosen": (message,)})

    rewrite(file, 0, edit)
    assert "[bold]loud[/nonsense]" in rlaif("labels", "show", file, "q0")


def test_an_unknown_id_is_told_with_some_that_are_there(file):
    assert "no label with the id 'x'; it has q0, q1, q2" in rlaif(
        "labels", "show", file, "x", code=1
    )


def test_a_broken_receipt_is_told_by_the_labels_id(file):
    rewrite(file, 5, lambda one: one.model_copy(update={"receipt": "{"}))
    for command in ("stats", "verify"):
        flags = ["--offline"] if command == "verify" else []
        assert "label 'q5': its receipt cannot be read" in rlaif(
            "labels", command, file, *flags, code=1
        )


def test_a_file_with_other_columns_is_told_by_the_ones_it_lacks(tmp_path):
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "other.parquet"
    parquet.write_table(pyarrow.table({"id": ["a"], "prompt": ["b"]}), path)
    told = rlaif("labels", "stats", path, code=1)
    assert "no column chosen, rejected (it has id, prompt)" in told


def test_a_row_that_is_no_preference_is_told_by_row_and_id(file):
    rewrite(file, 5, lambda one: one.model_copy(update={"prob_chosen": 1.5}))
    told = rlaif("labels", "stats", file, code=1)
    assert re.search(r"row 5, id 'q5': Preference\.prob_chosen", told)


def test_stats_count_and_draw(file, law):
    told = rlaif("labels", "stats", file, "-c", law)
    assert "12 labels of 12 prompts" in told
    assert "without a label: 1 (empty_response 1)" in told
    assert "█" in told
    found = json.loads(rlaif("labels", "stats", file, "--json"))
    assert sum(found["histogram"]) == found["labels"] == 12


def test_verify_offline_needs_the_constitution_for_the_sum_and_no_judge(file, law):
    assert "12 labels recomputed from their reads, 0 differ" in rlaif(
        "labels", "verify", file, "--offline", "-c", law
    )
    assert "the sum over traits was not checked" in rlaif("labels", "verify", file, "--offline")


def test_verify_says_that_labels_reproduce(file, served):
    client = served(judge())
    told = rlaif("labels", "verify", file, "--sample", 5)
    assert "5 of 5 labels recomputed with 30 reads" in told
    assert "they reproduce" in told
    assert len(client.engine.prompts) == 30


def test_verify_sends_a_constitution_that_the_judge_lacks(file, law, served):
    served(LocalJudge(engine=engine()))
    rlaif("labels", "verify", file, "-c", law)
    told = rlaif("labels", "verify", file, code=1)
    assert "the judge does not serve law 1.0.0" in told


def test_verify_exits_with_1_where_labels_do_not_reproduce(file, served):
    served(LocalJudge(LAW, engine=engine(prefer_longer)))
    found = json.loads(rlaif("labels", "verify", file, "--json", code=1))
    assert found["passed"] is False
    assert found["beyond"] > 0


def test_export_tells_the_counts(file, tmp_path):
    out = tmp_path / "pairs.jsonl"
    told = rlaif("labels", "export", file, "--format", "openrlhf", "--out", out, "--min-prob", 0.6)
    kept = sum(one.prob_chosen >= 0.6 for one in read_preferences(file))
    assert 0 < kept < 12
    assert f"{kept} labels" in told
    assert f"{12 - kept} under --min-prob 0.6 left out" in told
    assert len(out.read_text().splitlines()) == kept


@pytest.mark.parametrize("command", [["stats"], ["verify"], ["verify", "--offline"]])
def test_a_file_without_labels_is_told(tmp_path, command):
    (tmp_path / "none.jsonl").write_text("")
    told = rlaif("labels", command[0], tmp_path / "none.jsonl", *command[1:], code=1)
    assert "holds no labels" in told


def samples(path, count):
    asked = [
        Prompt(id=f"q{n}", messages=[{"role": "user", "content": f"{n}"}]) for n in range(count)
    ]
    write_jsonl(
        path,
        [
            Sample(prompt=p, index=i, response=text, tokens=1, complete=True, seed=0)
            for p in asked
            for i, text in enumerate((f"one {p.id}", f"another {p.id}"))
        ],
    )
    return path


def test_label_update_says_what_changed_and_what_was_saved(tmp_path, law, served):
    pairs, out = samples(tmp_path / "s.jsonl", 10), tmp_path / "out"
    served(judge())
    told = rlaif("label", pairs, "-c", law, "--out", out)
    assert "60 reads computed, 0 from the store" in told
    new = tmp_path / "new.yaml"
    new.write_text(to_yaml(edited(LAW, 1, compare="Which is kinder?")), encoding="utf-8")
    served(LocalJudge(engine=engine()))
    told = rlaif("label", pairs, "-c", new, "--out", out, "--update", "--from", law)
    assert "of 10 labels changed their chosen response, mean |Δ prob| 0." in told
    assert "10 labels from receipts; reworded or new principles: p1" in told
    assert "20 reads computed, 40 from the store and receipts (66.7% saved)" in told
    assert (out / "preferences.previous.parquet").is_file()


def test_from_without_update_is_told(tmp_path, law):
    told = rlaif("label", samples(tmp_path / "s.jsonl", 1), "--from", law, code=1)
    assert "give --update too" in told
