"""rlaif.train_*: everything is checked before anything is loaded, and then it trains."""

from __future__ import annotations

import json
import sys

import pytest

import rlaif
from constitution.errors import UserError
from constitution.schema import Message
from rlaif.api import pairs as api_pairs
from rlaif.api.inputs import constitution_of
from rlaif.api.pairs import plan_dpo, plan_reward, plan_sft
from rlaif.api.plan import require_responses
from rlaif.api.problems import RefusedError
from rlaif.api.rollouts import open_reward, plan_ppo, plan_rest
from rlaif.batching.unusable import BatchError
from rlaif.data.records import RecordError, Sample
from rlaif.models.download import ModelError
from rlaif.training.config import TrainConfig, TrainingError
from rlaif.training.preflight import MissingPackageError
from tests.support.feedback import labeled
from tests.support.feedback.constitutions import make_constitution, principle
from tests.support.training.pairs import preference

FAST = {
    "dtype": "float32",
    "max_tokens": 120,
    "batch_size": 4,
    "epochs": 1,
    "lora": {"rank": 2},
}
ROLLOUT = {"dtype": "float32", "max_tokens": 60, "max_new_tokens": 4, "engine": "transformers"}
PLAN = {"max_tokens": 200}  # within the tiny model's context
MANNERS = make_constitution(principle(0, trait="manners"))


def letters(conversations, responses):
    return [float(len(set(response))) for response in responses]


def problems_of(plan):
    return [f"{type(problem).__name__}: {problem}" for problem in plan.problems]


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    monkeypatch.setattr(
        "rlaif.models.backbone.Backbone.load", lambda *_, **__: pytest.fail("a model was loaded")
    )


# ── training ─────────────────────────────────────────────────────────────────────────────────


def test_dpo_trains_on_labels_in_memory_and_returns_its_folder(polite_pairs, tiny_model, tmp_path):
    out = rlaif.train_dpo(polite_pairs, model=tiny_model, out=str(tmp_path / "dpo"), **FAST)
    assert out == tmp_path / "dpo"
    assert (out / "adapter_model.safetensors").is_file()
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2


def test_sft_imitates_a_mix_of_records_and_weighted_files(polite_pairs, tiny_model, tmp_path):
    (tmp_path / "books.jsonl").write_text('{"id": "b", "text": "Once upon a time."}\n')
    out = rlaif.train_sft(
        polite_pairs[2:], mix=[f"0.5*{tmp_path}/books.jsonl"], heldout=polite_pairs[:2],
        model=tiny_model, out=tmp_path / "sft", **FAST,
    )  # fmt: skip
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert any("loss_books" in line for line in metrics)
    assert any("heldout_loss" in line for line in metrics)


def test_a_reward_model_scores_ppo_and_rest(polite_pairs, questions, tiny_model, tmp_path):
    reward = rlaif.train_reward(
        polite_pairs, model=tiny_model, out=tmp_path / "reward", constitution=MANNERS, **FAST
    )
    prompts = [q.model_copy(update={"split": "train"}) for q in questions]
    ppo = rlaif.train_ppo(
        prompts, model=tiny_model, reward=reward, out=tmp_path / "ppo", iterations=1,
        prompts_per_iteration=2, **ROLLOUT,
    )  # fmt: skip
    rest = rlaif.train_rest(
        prompts, model=tiny_model, reward=letters, out=tmp_path / "rest", quantiles=[0.5],
        samples_per_prompt=2, batch_size=4, **ROLLOUT,
    )  # fmt: skip
    assert all((out / "adapter_model.safetensors").is_file() for out in (ppo, rest))


def test_a_judge_compares_ppo_with_its_start(questions, tiny_model, tmp_path):
    prompts = [q.model_copy(update={"split": "train"}) for q in questions]
    start = [
        Sample(prompt=q, index=0, response="Hm.", tokens=2, complete=True, seed=0) for q in prompts
    ]
    out = rlaif.train_ppo(
        prompts, model=tiny_model, reward=letters, out=tmp_path / "ppo", start=start,
        server=labeled.judge(), iterations=1, eval_every=1, eval_prompts=2,
        prompts_per_iteration=2, **ROLLOUT,
    )  # fmt: skip
    (line,) = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    assert 0 <= line["judge_score"] <= 1


# ── what is refused ──────────────────────────────────────────────────────────────────────────


def test_a_single_problem_is_raised_as_its_own_kind(polite_pairs, tiny_model, nothing_is_loaded):
    with pytest.raises(ModelError, match="unknown model 'smollm'; did you mean smollm2-135m"):
        rlaif.train_dpo(polite_pairs, model="smollm")
    with pytest.raises(RecordError, match=r"missing.parquet: no such file"):
        rlaif.train_reward("missing.parquet", model=tiny_model, **PLAN)
    with pytest.raises(UserError, match="epochs: Input should be greater"):
        rlaif.train_sft(polite_pairs, model=tiny_model, epochs=0)


def test_several_problems_are_raised_together(tmp_path, nothing_is_loaded):
    (tmp_path / "file").touch()
    with pytest.raises(RefusedError) as caught:
        rlaif.train_dpo(
            "missing.parquet", model="smollm", out=tmp_path / "file", bta=1, heldout="gone.jsonl"
        )
    assert [type(problem).__name__ for problem in caught.value.problems] == [
        "InvalidSettingsError", "ModelError", "TrainingError", "RecordError", "RecordError",
    ]  # fmt: skip
    for named in ("did you mean 'beta'?", "smollm", "not a folder", "missing.parquet", "gone"):
        assert named in str(caught.value)


def test_empty_responses_are_counted_and_named(tiny_model):
    pairs = [preference(n, "Yes.", " " if n < 5 else "No.") for n in range(8)]
    (problem,) = problems_of(plan_dpo(pairs, model=tiny_model, **PLAN))
    assert problem == (
        "BatchError: 5 of 16 responses are empty: pair-0 (rejected), pair-1 (rejected), "
        "pair-2 (rejected), ...; drop these records, or set unusable=skip"
    )
    assert not plan_dpo(pairs, model=tiny_model, **PLAN, unusable="skip").problems


def test_nothing_but_empty_responses_is_refused_even_where_they_are_skipped():
    with pytest.raises(BatchError, match="2 of 2 responses are empty: a, b; give others"):
        require_responses([("a", ""), ("b", " ")], TrainConfig(unusable="skip"))


def test_sft_refuses_labels_that_are_all_unsure(tiny_model):
    pairs = [preference(n, "Yes.", "No.", prob_chosen=0.55) for n in range(3)]
    (problem,) = problems_of(plan_sft(pairs, model=tiny_model, **PLAN))
    assert "lessons: nothing to imitate: all 3 labels are below min_prob_chosen=0.6" in problem


def test_sft_names_a_model_and_an_empty_response_together():
    found = problems_of(plan_sft([{"prompt": "Hi?", "completion": " "}], model="smollm"))
    assert len(found) == 2
    assert "unknown model 'smollm'" in found[0]
    assert "1 of 1 responses are empty: lessons: " in found[1]


@pytest.mark.parametrize("plan", [plan_sft, plan_reward, plan_dpo])
def test_a_held_out_record_whose_prompt_is_trained_on_is_refused(plan, polite_pairs, tiny_model):
    loud = (Message(role="user", content=polite_pairs[1].prompt[0].content.upper()),)
    again = polite_pairs[0].model_copy(update={"id": "again", "prompt": loud})
    more = {"constitution": MANNERS}
    given = more if plan is plan_reward else {}
    (problem,) = problems_of(plan(polite_pairs, model=tiny_model, heldout=[again], **PLAN, **given))
    assert "1 held-out record has a prompt that is also trained on: 'again" in problem
    assert "asks the same as 'pair-1" in problem
    assert not plan(polite_pairs[2:], model=tiny_model, heldout=[again], **PLAN, **given).problems


def test_sft_refuses_plain_text_that_is_trained_on_and_held_out(tiny_model):
    trained, heldout = [{"id": "b", "text": "Once upon"}], [{"id": "h", "text": "once  UPON"}]
    (problem,) = problems_of(plan_sft(trained, model=tiny_model, heldout=heldout, **PLAN))
    assert "'h' (held out) asks the same as 'b'" in problem


@pytest.mark.parametrize("plan", [plan_ppo, plan_rest])
def test_prompts_of_one_text_on_both_sides_train_no_policy(plan, tiny_model):
    given = [{"prompt": "Say a", "split": "train"}, {"prompt": "say A", "split": "heldout"}]
    (problem,) = problems_of(plan(given, model=tiny_model, reward=letters, **PLAN))
    assert "prompts: 1 held-out record has a prompt that is also trained on" in problem


def test_settings_that_need_held_out_records_are_refused_without(polite_pairs, tiny_model):
    (dpo,) = problems_of(plan_dpo(polite_pairs, model=tiny_model, **PLAN, keep="best"))
    idle = {"eval_every": 3, "text_eval": None}
    (sft,) = problems_of(plan_sft(polite_pairs, model=tiny_model, **PLAN, **idle))
    assert "keep=best: there are no held-out pairs" in dpo
    assert "eval_every=3 does nothing without held-out samples" in sft


def test_the_reward_model_refuses_traits_and_labels_that_it_cannot_learn(polite_pairs, tiny_model):
    (trait,) = problems_of(
        plan_reward(polite_pairs, model=tiny_model, **PLAN, constitution="harmless")
    )
    assert "unknown trait in the labels: 'manners'" in trait
    undecided = [preference(1, "a", "b", 0.5)]
    (label,) = problems_of(plan_reward(undecided, model=tiny_model, **PLAN, label_kind="hard"))
    assert "none of the 1 pairs has a label to learn from" in label


def test_the_old_name_of_label_kind_is_refused_with_the_new_one(polite_pairs, tiny_model):
    plan = plan_reward(
        polite_pairs, model=tiny_model, **PLAN, constitution=MANNERS, config=["labels=hard"]
    )
    (problem,) = problems_of(plan)
    assert "labels is now called label_kind: write label_kind=hard" in problem


def test_a_judge_and_the_start_of_ppo_go_together(questions, tiny_model):
    asked = {"model": tiny_model, "reward": letters, **PLAN}
    (alone,) = problems_of(plan_ppo(questions, server="127.0.0.1:1", eval_prompts=2, **asked))
    assert "give both, or neither" in alone
    (idle,) = problems_of(plan_ppo(questions, eval_every=3, **asked))
    assert "settings that need a judge of held-out responses: eval_every" in idle


def test_a_judge_must_leave_prompts_to_train_on(questions, tiny_model):
    prompts = [q.model_copy(update={"split": "train"}) for q in questions]
    start = [Sample(prompt=prompts[0], index=0, response="Hm.", tokens=2, complete=True, seed=0)]
    plan = plan_ppo(
        prompts, model=tiny_model, **PLAN, reward=letters, server=labeled.judge(), start=start
    )
    assert problems_of(plan) == [
        "TrainingError: eval_prompts=64 of 6 usable prompts leaves none to train on; lower "
        "eval_prompts or give more prompts"
    ]


def test_every_reward_that_cannot_be_opened_is_named(questions, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    rewards = ["nowhere", "2x*json:dumps", "no_such_module:f", "empty", "0.5*json:dumps"]
    found = problems_of(plan_rest(questions, model=tiny_model, **PLAN, reward=rewards))
    assert len(found) == 4
    for problem, named in zip(
        found,
        ["unknown source 'nowhere'", "invalid reward '2x*json:dumps'", "no module named",
         "empty: not a reward model (reward.json is missing)"],
        strict=True,
    ):  # fmt: skip
        assert named in problem


@pytest.mark.parametrize("reward", [[], 3, None])
def test_what_is_no_reward_is_refused_with_what_to_give(reward, questions, tiny_model):
    (problem,) = problems_of(plan_rest(questions, model=tiny_model, **PLAN, reward=reward))
    assert "invalid reward" in problem
    assert "module:function" in problem


def test_a_reward_module_of_the_working_folder_is_found_and_not_run(
    questions, tiny_model, tmp_path, monkeypatch
):
    (tmp_path / "mine_only.py").write_text("raise SystemExit('it was run')\n")
    monkeypatch.chdir(tmp_path)
    assert not plan_rest(questions, model=tiny_model, **PLAN, reward="mine_only:f").problems
    assert "mine_only" not in sys.modules


def test_a_weighted_folder_is_a_function_and_a_plain_one_a_folder(tmp_path):
    (tmp_path / "reward.json").write_text('{"label_weights": {}}')
    with open_reward([str(tmp_path)]) as plain:
        assert plain == tmp_path
    with open_reward(letters) as function:
        assert function is letters


def test_missing_packages_are_named_with_the_extra(polite_pairs, tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(
        MissingPackageError, match=r"not installed: accelerate, peft; run `.*\[train\]"
    ):
        rlaif.train_dpo(polite_pairs, model=tiny_model, **PLAN)


def test_a_context_that_is_too_short_for_max_tokens_is_refused_before_loading(
    polite_pairs, tiny_model, nothing_is_loaded
):
    with pytest.raises(TrainingError, match=r"max_tokens=1024 is more than .* can read \(256\)"):
        rlaif.train_dpo(polite_pairs, model=tiny_model)


def test_a_tracker_that_is_not_installed_is_refused_before_training(
    polite_pairs, tiny_model, monkeypatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    (problem,) = problems_of(plan_dpo(polite_pairs, model=tiny_model, **PLAN, trackers=["wandb"]))
    assert "trackers: wandb is not installed" in problem


def test_the_labels_own_constitution_gives_the_weights(tmp_path):
    labels = [preference(0, "a", "b")]
    assert constitution_of("", labels).name == "overall"
    assert constitution_of(MANNERS, labels) is MANNERS
    with pytest.raises(UserError, match="did you mean 'hhh'"):
        constitution_of("hhhh", labels)


def test_train_split_prompts_only_are_trained_on(tiny_model):
    prompts = [{"prompt": f"Say {n}.", "split": "test" if n else "train"} for n in range(3)]
    assert plan_rest(prompts, model=tiny_model, **PLAN, reward=letters).counts["prompts"] == 1


def test_a_plan_runs_only_when_nothing_is_refused(polite_pairs, tiny_model, monkeypatch):
    trained = []
    monkeypatch.setattr(
        "rlaif.algorithms.dpo.train.train", lambda *given: trained.append(given) or given[3]
    )
    with pytest.raises(TrainingError):
        plan_dpo(polite_pairs, model=tiny_model, **PLAN, keep="best").run()
    assert not trained
    assert api_pairs.train_dpo(polite_pairs, model=tiny_model, out="o", **PLAN).name == "o"
    assert len(trained) == 1
