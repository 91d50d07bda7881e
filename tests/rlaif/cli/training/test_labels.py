"""`rlaif labels …` and `rlaif label --update`: their output and errors."""

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
from tests.support.feedback.labeled import CONSTITUTION, judge, labeled, rewrite
from tests.support.feedback.local_judge import LocalJudge


def rlaif(*arguments, code=0):
    """The command's standard output, or the message of its error."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        assert code == 1, result.exception
        return str(result.exception)
    assert result.exit_code == code, result.output
    return result.stdout


@pytest.fixture
def file(tmp_path):
    return labeled(tmp_path / "labels")


@pytest.fixture
def constitution_file(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(to_yaml(CONSTITUTION), encoding="utf-8")
    return path


@pytest.fixture
def served(monkeypatch):
    """Makes the commands use a local judge in place of a server."""

    def serve(client):
        @contextmanager
        def judge_client(*_, **__):
            yield client

        monkeypatch.setattr("rlaif.feedback.client.judge_client", judge_client)
        return client

    return serve


def test_show_prints_the_texts_the_reads_and_the_provenance(file):
    output = rlaif("labels", "show", file, "q3")
    label = read_preferences(file)[3]
    for text in (label.chosen_text, label.rejected_text, "question q3", "p2", "honest", "BA"):
        assert text in output
    assert CONSTITUTION.digest in output
    assert "calibration none" in output


def test_show_accepts_the_folder_and_prints_json(file):
    shown = json.loads(rlaif("labels", "show", file.parent, "q3", "--json"))
    assert shown["id"] == "q3"
    assert len(shown["receipt"]["votes"]) == 3


def test_show_prints_brackets_in_a_text_literally(file):
    def edit(one):
        message = one.chosen[0].model_copy(update={"content": "[bold]loud[/nonsense]"})
        return one.model_copy(update={"chosen": (message,)})

    rewrite(file, 0, edit)
    assert "[bold]loud[/nonsense]" in rlaif("labels", "show", file, "q0")


def test_an_unknown_id_is_an_error_with_some_known_ids(file):
    assert "unknown label id: 'x'; its ids are q0, q1, q2" in rlaif(
        "labels", "show", file, "x", code=1
    )


def test_a_broken_receipt_is_an_error_naming_the_label(file):
    rewrite(file, 5, lambda one: one.model_copy(update={"receipt": "{"}))
    for command in ("stats", "verify"):
        flags = ["--offline"] if command == "verify" else []
        assert "label 'q5': its receipt cannot be read" in rlaif(
            "labels", command, file, *flags, code=1
        )


def test_a_file_with_other_columns_is_an_error_naming_the_missing_ones(tmp_path):
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "other.parquet"
    parquet.write_table(pyarrow.table({"id": ["a"], "prompt": ["b"]}), path)
    output = rlaif("labels", "stats", path, code=1)
    assert "no column chosen, rejected (it has id, prompt)" in output


def test_an_invalid_row_is_an_error_naming_the_row_and_the_id(file):
    rewrite(file, 5, lambda one: one.model_copy(update={"prob_chosen": 1.5}))
    output = rlaif("labels", "stats", file, code=1)
    assert re.search(r"row 5, id 'q5': Preference\.prob_chosen", output)


def test_stats_prints_counts_and_a_histogram(file, constitution_file):
    output = rlaif("labels", "stats", file, "-c", constitution_file)
    assert "12 labels of 12 prompts" in output
    assert "without a label: 1 (empty_response 1)" in output
    assert "█" in output
    found = json.loads(rlaif("labels", "stats", file, "--json"))
    assert sum(found["histogram"]) == found["labels"] == 12
    assert f"entropy, mean: {found['mean_entropy']:.3f} bits" in output
    assert 0 < found["mean_entropy"] < 1


def test_stats_warns_of_labels_that_hardly_prefer_a_response(file):
    assert "hardly prefer a response" not in rlaif("labels", "stats", file)
    for place in range(12):
        rewrite(file, place, lambda one: one.model_copy(update={"prob_chosen": 0.52}))
    output = " ".join(rlaif("labels", "stats", file).split())
    assert "12 of 12 labels hardly prefer a response: prob_chosen is within 0.05 of 0.5" in output


def test_verify_offline_needs_only_the_constitution(file, constitution_file):
    assert "12 labels recomputed from their reads, 0 differ" in rlaif(
        "labels", "verify", file, "--offline", "-c", constitution_file
    )
    assert "the sum over traits was not checked" in rlaif("labels", "verify", file, "--offline")


def test_verify_reports_that_labels_reproduce(file, served):
    client = served(judge())
    output = rlaif("labels", "verify", file, "--sample", 5)
    assert "5 of 5 labels recomputed with 30 reads" in output
    assert "the labels reproduce" in output
    assert len(client.engine.prompts) == 30


def test_verify_sends_a_constitution_that_the_judge_lacks(file, constitution_file, served):
    served(LocalJudge(engine=engine()))
    rlaif("labels", "verify", file, "-c", constitution_file)
    output = rlaif("labels", "verify", file, code=1)
    assert "the judge does not serve small 1.0.0" in output


def test_verify_exits_with_1_if_labels_do_not_reproduce(file, served):
    served(LocalJudge(CONSTITUTION, engine=engine(prefer_longer)))
    found = json.loads(rlaif("labels", "verify", file, "--json", code=1))
    assert found["passed"] is False
    assert found["beyond"] > 0


def test_export_prints_the_counts(file, tmp_path):
    out = tmp_path / "pairs.jsonl"
    output = rlaif(
        "labels", "export", file, "--format", "openrlhf", "--out", out, "--min-prob", 0.6
    )
    kept = sum(one.prob_chosen >= 0.6 for one in read_preferences(file))
    assert 0 < kept < 12
    assert f"{kept} labels" in output
    assert f"{12 - kept} below --min-prob 0.6 left out" in output
    assert len(out.read_text().splitlines()) == kept


@pytest.mark.parametrize("command", [["stats"], ["verify"], ["verify", "--offline"]])
def test_a_file_without_labels_is_an_error(tmp_path, command):
    (tmp_path / "none.jsonl").write_text("")
    output = rlaif("labels", command[0], tmp_path / "none.jsonl", *command[1:], code=1)
    assert "contains no labels" in output


def samples(path, count):
    prompts = [
        Prompt(id=f"q{n}", messages=[{"role": "user", "content": f"{n}"}]) for n in range(count)
    ]
    write_jsonl(
        path,
        [
            Sample(prompt=p, index=i, response=text, tokens=1, complete=True, seed=0)
            for p in prompts
            for i, text in enumerate((f"one {p.id}", f"another {p.id}"))
        ],
    )
    return path


def test_label_update_prints_what_changed_and_what_was_saved(tmp_path, constitution_file, served):
    pairs, out = samples(tmp_path / "s.jsonl", 10), tmp_path / "out"
    served(judge())
    output = rlaif("label", pairs, "-c", constitution_file, "--out", out)
    assert "60 reads computed, 0 from the store" in output
    new = tmp_path / "new.yaml"
    new.write_text(to_yaml(edited(CONSTITUTION, 1, compare="Which is kinder?")), encoding="utf-8")
    served(LocalJudge(engine=engine()))
    output = rlaif("label", pairs, "-c", new, "--out", out, "--update", "--from", constitution_file)
    assert "of 10 labels changed their chosen response, mean |Δ prob| 0." in output
    assert "10 labels from receipts; reworded or new principles: p1" in output
    assert "20 reads computed, 40 from the store and receipts (66.7% saved)" in output
    assert (out / "preferences.previous.parquet").is_file()


def test_from_without_update_is_an_error(tmp_path, constitution_file):
    output = rlaif("label", samples(tmp_path / "s.jsonl", 1), "--from", constitution_file, code=1)
    assert "give --update too" in output
