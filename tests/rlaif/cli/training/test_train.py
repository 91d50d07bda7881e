"""`rlaif train …`: what is asked is what is done; a dry run does nothing and says what would be."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from constitution.errors import UserError
from constitution.schema import Message
from constitution.writer import to_yaml
from rlaif.cli.main import app
from rlaif.data.records import Sample, write_jsonl
from tests.support.feedback import labeled as labeled
from tests.support.feedback.constitutions import make_constitution, principle

SKIP = "unusable=skip"  # many quickstart prompts have over 72 of the tiny model's tokens
FAST = ["dtype=float32", "max_tokens=120", "batch_size=4", "checkpoint_every=1", "lora.rank=2"]


@pytest.fixture
def pairs(polite_pairs, tmp_path):
    path = tmp_path / "pairs.jsonl"
    write_jsonl(path, polite_pairs)
    return str(path)


def run(*arguments, code=0):
    found = CliRunner().invoke(app, ["train", *map(str, arguments)])
    if found.exception and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == code, found.output
    return found.stdout


def steps(out):
    return [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("algorithm", ["sft", "reward", "dpo", "ppo", "rest"])
def test_every_algorithm_explains_itself_with_an_example(algorithm):
    said = run(algorithm, "--help")
    assert f"Example: rlaif train {algorithm} " in said
    assert "--resume" in said
    assert "--dry-run" in said


def test_a_dry_run_says_records_steps_and_where_it_would_go_on(
    pairs, tiny_model, tmp_path, monkeypatch
):
    out = tmp_path / "dpo"
    asked = ["dpo", pairs, "--model", tiny_model, "--out", out, "epochs=3", "batch_size=3"]
    asked += ["max_tokens=200"]
    monkeypatch.setattr(
        "rlaif.models.backbone.Backbone.load", lambda *_, **__: pytest.fail("weights")
    )
    said = run(*asked, "--dry-run")
    assert "8 pairs; 9 steps\n" in said
    assert "no checkpoint; would start" in said
    assert not out.exists()
    (out / "checkpoints").mkdir(parents=True)
    for step in (4, 6):
        (out / f"checkpoints/step-{step:06d}.pt").touch()
    assert "would continue after step 6" in run(*asked, "--dry-run")
    assert "start anew and remove its 2 checkpoints" in run(*asked, "--dry-run", "--resume=never")
    assert len(list((out / "checkpoints").iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sft", "PAIRS", "epochs=2"], "8 pairs; 2 steps"),
        (["reward", "PAIRS", "--constitution=MANNERS"], "8 pairs; 2 steps"),
        (
            ["ppo", "quickstart", "--reward=json:dumps", "iterations=7", SKIP],
            "prompts; 7 iterations",
        ),
        (["rest", "quickstart", "--reward=json:dumps", SKIP], "8 responses each; 3 improve steps"),
    ],
)
def test_every_algorithm_has_a_dry_run(arguments, said, pairs, tiny_model, tmp_path):
    manners = tmp_path / "manners.yaml"
    manners.write_text(to_yaml(make_constitution(principle(0, trait="manners"))))
    arguments = [a.replace("MANNERS", str(manners)) for a in arguments]
    arguments = [pairs if a == "PAIRS" else a for a in arguments]
    out = tmp_path / "out"
    asked = [*arguments, "max_tokens=200", "--model", tiny_model, "--out", out]
    assert said in run(*asked, "--dry-run")
    assert not out.exists()


def test_training_again_changes_nothing_and_never_starts_anew(
    pairs, polite_pairs, tiny_model, tmp_path
):
    out = tmp_path / "dpo"
    asked = ["dpo", pairs, "--model", tiny_model, "--out", out, *FAST, "epochs=1"]
    heldout = pairs.replace("pairs.jsonl", "heldout.jsonl")
    other = (Message(role="user", content="Shall we?"),)
    write_jsonl(Path(heldout), [polite_pairs[0].model_copy(update={"prompt": other})])
    assert run(*asked, "--eval", heldout) == f"policy: {out}\n"
    assert steps(out) == [1, 2]
    written = (out / "metrics.jsonl").read_text()
    assert "heldout_loss" in written
    assert (out / "adapter_model.safetensors").is_file()
    run(*asked, "--eval", heldout)
    assert (out / "metrics.jsonl").read_text() == written
    with pytest.raises(UserError, match=r"config.epochs \(1, now 2\)"):
        run(*asked, "--eval", heldout, "epochs=2")
    run(*asked, "epochs=2", "--resume=never")
    assert steps(out) == [1, 2, 3, 4]


def test_sft_takes_a_mix_and_the_whole_model(pairs, tiny_model, tmp_path):
    (tmp_path / "books.jsonl").write_text('{"id": "b", "text": "Once upon a time."}\n')
    out = tmp_path / "sft"
    mix = f"0.5*{tmp_path / 'books.jsonl'}"
    fast = [setting for setting in FAST if not setting.startswith("lora")]
    run(
        "sft", pairs, "--mix", mix, "--model", tiny_model, "--out", out, *fast, "lora=null",
        "epochs=1",
    )  # fmt: skip
    assert any("loss_books" in line for line in (out / "metrics.jsonl").read_text().splitlines())
    assert (out / "model.safetensors").is_file()


def test_ppo_adds_up_several_rewards(tiny_model, questions, tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(
        "def letters(conversations, responses):\n    return [len(set(r)) for r in responses]\n"
        "def shorter(conversations, responses):\n    return [-len(r) for r in responses]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)
    write_jsonl(tmp_path / "prompts.jsonl", questions)
    run(
        "ppo", "prompts.jsonl", "--model", tiny_model, "--reward", "my_rewards:letters",
        "--reward", "0.1*my_rewards:shorter", "--out", "ppo", "dtype=float32", "max_tokens=60",
        "max_new_tokens=4", "prompts_per_iteration=2", "iterations=1", "engine=transformers",
    )  # fmt: skip
    assert steps(tmp_path / "ppo") == [1]


def test_a_reward_that_is_nowhere_is_refused_before_a_model_is_loaded(tiny_model, tmp_path):
    with pytest.raises(UserError, match="unknown source 'nowhere'; give judge:HOST:PORT, a reward"):
        run("ppo", "quickstart", "--model", tiny_model, "--reward", "nowhere")


def test_a_misspelled_setting_of_the_adapter_names_the_nearest(pairs, tiny_model):
    with pytest.raises(UserError, match=r"lora.rnk: unknown setting; did you mean 'rank'\?"):
        run("dpo", pairs, "--model", tiny_model, "lora.rnk=4")


def test_settings_that_do_not_go_together_are_told_in_one_sentence(questions, tiny_model, tmp_path):
    write_jsonl(tmp_path / "prompts.jsonl", questions)
    reported = "^advantages=rloo does not use value; remove it"
    with pytest.raises(UserError, match=reported):
        run("ppo", tmp_path / "prompts.jsonl", "--model", tiny_model, "--reward", "m:f",
            "advantages=rloo", "group_size=2", "value=head")  # fmt: skip


def test_a_judge_looks_at_ppo_underway(tiny_model, questions, tmp_path, monkeypatch):
    (tmp_path / "lettered.py").write_text(
        "def letters(conversations, responses):\n    return [len(set(r)) for r in responses]\n"
    )
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "prompts.jsonl", questions)
    first = [
        Sample(prompt=q, index=0, response="Hm.", tokens=2, complete=True, seed=0)
        for q in questions
    ]
    write_jsonl(tmp_path / "start.jsonl", first)
    asked = [
        "ppo", "prompts.jsonl", "--model", tiny_model, "--reward", "lettered:letters", "--judge",
        "127.0.0.1:1", "dtype=float32", "max_tokens=60", "max_new_tokens=4", "eval_prompts=2",
        "prompts_per_iteration=2", "iterations=2", "eval_every=1", "engine=transformers",
    ]  # fmt: skip
    with pytest.raises(UserError, match="give both, or neither"):
        run(*asked)
    reported = []

    @contextmanager
    def local(model, constitution, log, server, **_):
        reported.append(server)
        yield labeled.judge()

    monkeypatch.setattr("rlaif.feedback.client.judge_client", local)
    run(*asked, "--start", "start.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "ppo/metrics.jsonl").read_text().splitlines()]
    assert reported == ["127.0.0.1:1"]
    assert all(0 <= line["judge_score"] <= 1 for line in lines)
    assert (tmp_path / "ppo/checkpoints/best.pt").is_file()
