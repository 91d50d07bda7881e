"""rlaif.prepare_corpus, and trainings that take what it made in place of labels."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import rlaif
from constitution.writer import to_yaml
from rlaif.api.pairs import plan_dpo, plan_reward
from rlaif.batching.corpus.manifest import CorpusError, read_manifest
from rlaif.cli.main import app
from rlaif.data.datasets import read_preferences
from rlaif.data.records import RecordError, write_preferences
from rlaif.training.preflight import steps_in
from tests.support.corpora import corpus_of
from tests.support.feedback.constitutions import make_constitution, principle
from tests.support.feedback.labeled import CONSTITUTION, labeled
from tests.support.training.pairs import many_pairs, preference

FAST = {"dtype": "float32", "max_tokens": 200, "batch_size": 4, "epochs": 1, "lora": {"rank": 2}}
RULES = make_constitution(principle(0, trait="manners"), principle(1, trait="brevity"))
REFUSED = """
import sys
import rlaif
try:
    rlaif.train_dpo(sys.argv[1], model=sys.argv[2], max_tokens=100)
except rlaif.UserError as error:
    print(error)
print([name for name in ("torch", "transformers") if name in sys.modules])
"""


@pytest.fixture(scope="module")
def corpus(tiny_model, tmp_path_factory):
    return corpus_of(tiny_model, many_pairs(9), tmp_path_factory.mktemp("c")).corpus.folder


@pytest.fixture
def held(tmp_path):
    write_preferences(tmp_path / "held.jsonl", many_pairs(2, 100))
    return tmp_path / "held.jsonl"


def test_labels_become_a_corpus_that_both_trainers_take(tiny_model, tmp_path, held):
    write_preferences(tmp_path / "labels/preferences.parquet", many_pairs(9))
    made = rlaif.prepare_corpus(
        tmp_path / "labels", model=tiny_model, out=tmp_path / "corpus", **FAST
    )
    settings = {"model": tiny_model, "heldout": held, **FAST}
    policy = rlaif.train_dpo(made, out=tmp_path / "dpo", keep="best", text_eval=None, **settings)
    assert (policy / "adapter_model.safetensors").is_file()
    assert steps_in(policy / "checkpoints")[-1] == 3
    reward = rlaif.train_reward(made, out=tmp_path / "reward", constitution=RULES, **settings)
    assert json.loads((reward / "evaluation.json").read_text())["pairs"] == 2


def test_a_folder_of_shards_is_prepared_shard_by_shard(tiny_model, tmp_path):
    write_preferences(tmp_path / "labels.jsonl", many_pairs(9))
    rlaif.split_shards(tmp_path / "labels.jsonl", out=tmp_path / "shards", rows=4)
    made = [
        rlaif.prepare_corpus(tmp_path / of, model=tiny_model, out=tmp_path / f"c-{of}", **FAST)
        for of in ("labels.jsonl", "shards")
    ]
    ids = [(folder / "ids.npy").read_bytes() for folder in made]
    assert ids[0] == ids[1]
    assert read_manifest(made[1]).rows == 9


def test_a_dry_run_says_what_would_be_trained_on(corpus, tiny_model, held):
    settings = {"heldout": held, "loss": "sigmoid", "model": tiny_model, **FAST}
    plan = plan_dpo(corpus, **settings).examined()
    assert plan.problems == []
    assert (dict(plan.counts), plan.steps, plan.unchecked) == ({"pairs": 9}, 3, "")


def test_everything_that_does_not_fit_is_refused_at_once(corpus, tiny_model, tmp_path):
    write_preferences(tmp_path / "held.jsonl", [*many_pairs(1), preference(300, "a", " ")])
    plan = plan_dpo(
        corpus, model=tiny_model, max_tokens=100, keep="best", heldout=tmp_path / "held.jsonl"
    )
    said = [str(problem) for problem in plan.problems]
    assert any("made with max_tokens=200, now 100" in each for each in said)
    assert any("'pair-0' (held out) asks the same as 'pair-0' of" in each for each in said)
    assert any(
        "1 of 2 responses are empty" in each or "responses are empty" in each for each in said
    )
    assert len(said) == 3


def test_a_held_out_corpus_is_refused(corpus, tiny_model):
    with pytest.raises(CorpusError, match="held-out pairs are read as labels; give their file"):
        plan_dpo(corpus, model=tiny_model, heldout=corpus, **FAST).run()


def test_a_refused_corpus_imports_no_torch(corpus, tiny_model):
    command = [sys.executable, "-c", REFUSED, str(corpus), tiny_model]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "set max_tokens=200, or prepare another corpus" in said
    assert said.endswith("[]\n")


def test_skipped_pairs_ask_for_the_setting_that_skips(tiny_model, tmp_path):
    write_preferences(tmp_path / "l.jsonl", [*many_pairs(3), preference(99, "a" * 300, "b")])
    settings = {"model": tiny_model, **FAST}
    made = rlaif.prepare_corpus(
        tmp_path / "l.jsonl", out=tmp_path / "corpus", unusable="skip", **settings
    )
    with pytest.raises(CorpusError, match=r"1 pairs were left out .* set unusable=skip"):
        rlaif.train_dpo(made, out=tmp_path / "dpo", **settings)
    out = rlaif.train_dpo(made, out=tmp_path / "dpo", unusable="skip", text_eval=None, **settings)
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[0])["skipped"] == 1


def test_the_weights_of_traits_come_from_the_constitution_of_the_labels(tiny_model, tmp_path):
    file = labeled(tmp_path / "labels")
    (file.parent / "constitution.yaml").write_text(to_yaml(CONSTITUTION))  # as of one from a file
    made = rlaif.prepare_corpus(file.parent, model=tiny_model, out=tmp_path / "corpus", **FAST)
    assert read_manifest(made).example == read_preferences(file)[0]
    shutil.rmtree(file.parent)
    reward = rlaif.train_reward(made, model=tiny_model, out=tmp_path / "reward", **FAST)
    weights = json.loads((reward / "reward.json").read_text())
    assert weights["label_weights"] == CONSTITUTION.label_weights
    (made / "constitution.yaml").unlink()
    (problem,) = plan_reward(made, model=tiny_model, **FAST).problems
    assert "neither ships nor is beside them" in str(problem)


def test_labels_that_cannot_be_read_are_refused(tiny_model, tmp_path):
    with pytest.raises(RecordError, match=r"missing\.parquet"):
        rlaif.prepare_corpus(tmp_path / "missing.parquet", model=tiny_model, **FAST)


def test_the_command_makes_it_and_says_what_is_in_it(tiny_model, tmp_path):
    write_preferences(tmp_path / "labels.parquet", many_pairs(9))
    command = [
        "train",
        "prepare",
        "reward",
        str(tmp_path / "labels.parquet"),
        "--model",
        tiny_model,
    ]
    command += ["--out", str(tmp_path / "corpus"), "max_tokens=200"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "9 pairs" in done.output
    shutil.rmtree(tmp_path / "corpus")
