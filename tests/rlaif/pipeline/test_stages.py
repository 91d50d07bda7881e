"""What each stage is given: which model, which records, which judge. Trainers are stand-ins."""

import hashlib
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlaif.data.records import Sample, read_jsonl, write_jsonl
from rlaif.evaluation.intervals import Estimate
from rlaif.evaluation.policies import EvaluationResult
from rlaif.feedback.labeler import label
from rlaif.feedback.pairs import pairs_from_samples
from rlaif.models import catalog
from rlaif.pipeline import stages
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.recipe import Recipe, load_recipe
from rlaif.pipeline.runner import input_digest
from rlaif.pipeline.stages import stages_of
from tests.support.feedback.scripted_judge import ScriptedJudge

TRAINERS = {
    "sft": "rlaif.algorithms.sft.train.train",
    "reward": "rlaif.algorithms.reward.train.train",
    "dpo": "rlaif.algorithms.dpo.train.train",
    "ppo": "rlaif.algorithms.ppo.train.train",
    "rest": "rlaif.algorithms.rest.train.train",
}
POLICY = "/models/small"
BASE = {
    "name": "x",
    "policy": "small",
    "judge": "j",
    "constitution": "hhh",
    "prompts": "quickstart",
}


def recipe(**changes):
    return Recipe.model_validate({**BASE, "train_prompts": 30, "heldout_prompts": 6, **changes})


def names(**changes):
    return [stage.name for stage in stages_of(RunContext(recipe(**changes), Path("nowhere")))]


def digests(**changes):
    found = stages_of(RunContext(recipe(**changes), Path("nowhere")))
    return {stage.name: input_digest(stage) for stage in found}


@pytest.fixture
def work(tmp_path, monkeypatch):
    """work(**recipe): the stages on made-up samples and labels; what trainers got in `.got`."""

    def make(**changes):
        made = RunContext(recipe(**changes), tmp_path)
        answers = [
            Sample(
                prompt=p, index=i, response="word " * (3 + 2 * i), tokens=5, complete=True, seed=0
            )
            for p in made.prompts("train")
            for i in range(2)
        ]
        made.samples.parent.mkdir()
        write_jsonl(made.samples, answers)
        pairs = pairs_from_samples(answers)
        label(pairs.comparisons, ScriptedJudge(), made.labels.parent, constitution="hhh")
        return made

    got = {}

    def trainer(name, leaves="adapter_config.json"):
        def train(config, model, records, *rest, **named):
            out = next(item for item in rest if isinstance(item, Path) and item.name == name)
            out.mkdir(exist_ok=True)
            (out / leaves).write_text("{}")
            got[name] = SimpleNamespace(config=config, model=model, records=records, rest=rest)
            got[name].named = named

        return train

    monkeypatch.setattr(catalog, "resolve", lambda name: f"/models/{name}")
    for name, train in TRAINERS.items():
        monkeypatch.setattr(train, trainer(name))
    merged = []

    def merge(base, adapter, out, dtype):
        merged.append((base, adapter.name))
        out.mkdir()
        return out

    monkeypatch.setattr("rlaif.models.backbone.merge_adapter", merge)

    @contextmanager
    def judge_client(self, log):
        yield ScriptedJudge()

    monkeypatch.setattr(RunContext, "judge_client", judge_client)
    make.got, make.merged, make.trainer = got, merged, trainer
    return make


def train_all(made):
    for stage in stages_of(made):
        if stage.name in {"sft", "reward", "dpo", "ppo", "rest"}:
            stage.folder.mkdir(exist_ok=True)
            stage.run()


# ── which stages ─────────────────────────────────────────────────────────────────────────────


def test_sft_and_rest_are_stages_where_a_recipe_has_them():
    short = ["models", "sample", "label", "reward", "dpo", "ppo", "respond", "evaluate"]
    assert names() == short
    assert names(sft={}, rest={}) == [
        "models", "sample", "label", "sft", "reward", "dpo", "ppo", "rest", "respond", "evaluate",
    ]  # fmt: skip


def test_labels_are_found_again_whatever_is_trained_on_them():
    plain = digests()
    changed = digests(sft={}, rest={}, start="sft", dpo={"beta": 0.2}, ppo={"iterations": 3})
    for name in ("models", "sample", "label"):
        assert changed[name] == plain[name]
    for name in ("reward", "dpo", "ppo", "respond"):
        assert changed[name] != plain[name]


def test_what_only_the_judging_of_ppo_depends_on_is_no_input_without_it():
    same = digests(evaluate={"seed": 1})["ppo"] == digests()["ppo"]
    judged = {"ppo": {"eval_every": 5}}
    assert same
    assert digests(**judged, evaluate={"seed": 1})["ppo"] != digests(**judged)["ppo"]


# ── what they are given ──────────────────────────────────────────────────────────────────────


def test_all_begin_from_the_policy_unless_told_otherwise(work):
    made = work(sft={}, rest={})
    train_all(made)
    assert {name: call.model for name, call in work.got.items()} == dict.fromkeys(
        ("sft", "reward", "dpo", "ppo", "rest"), POLICY
    )
    assert work.merged == []
    assert [source.name for source in work.got["sft"].records] == ["chosen"]
    assert work.got["ppo"].rest[0] == made.reward


def test_from_sft_the_others_begin_with_its_merged_model(work, tmp_path):
    made = work(sft={}, rest={}, start="sft")
    train_all(made)
    assert work.got.pop("sft").model == POLICY
    assert work.merged == [(POLICY, "sft")]
    assert {call.model for call in work.got.values()} == {str(tmp_path / "sft" / "model")}


def test_a_fully_tuned_sft_model_is_taken_as_it_is(work, tmp_path, monkeypatch):
    monkeypatch.setattr(TRAINERS["sft"], work.trainer("sft", leaves="config.json"))
    made = work(sft={"lora": None}, start="sft")
    train_all(made)
    assert work.merged == []
    assert work.got["dpo"].model == str(tmp_path / "sft")


def test_dpo_trains_on_every_label_unless_it_is_to_look_at_some(work):
    made = work()
    train_all(made)
    every = work.got["dpo"]
    assert len(every.records) == 30
    assert every.rest[-1] == []

    made.recipe = recipe(dpo={"keep": "best"})
    made.train_dpo()
    looked = work.got["dpo"]
    heldout = looked.rest[-1]
    assert len(looked.records) + len(heldout) == 30
    assert {p.prompt for p in looked.records}.isdisjoint({p.prompt for p in heldout})
    assert heldout == work.got["reward"].rest[-1], "those that the reward model does not see"


def test_ppo_has_no_judge_unless_one_is_asked_for(work):
    train_all(work())
    assert "judge" not in work.got["ppo"].named


def test_ppo_is_judged_against_the_starts_first_sample(work):
    made = work(ppo={"eval_every": 2})
    train_all(made)
    judge = work.got["ppo"].named["judge"]
    prompts = made.prompts("train")[:3]
    # the start's first sample has three words; the scripted judge gives the longer one 0.9
    assert judge(prompts, ["word " * 9] * 3) == pytest.approx(0.9)
    assert judge(prompts, ["w"] * 3) == pytest.approx(0.1)
    assert judge(prompts, ["word word word "] * 3) == 0.5
    assert judge(prompts[:1], [""]) is None, "unjudged is no number"


def test_responses_come_from_each_policy_on_what_it_began_from(work, tmp_path, monkeypatch):
    made = work(sft={}, rest={}, start="sft")
    train_all(made)
    (tmp_path / "dpo" / "config.json").write_text("{}")  # as full fine-tuning leaves it
    asked = []

    def sample(model, prompts, out, config):
        asked.append((out.stem, model))

    monkeypatch.setattr("rlaif.generation.offline.sample", sample)
    work.merged.clear()
    (tmp_path / "responses").mkdir()
    made.respond()
    assert asked == [
        ("start", POLICY),
        ("SFT", str(tmp_path / "responses" / "SFT-merged")),
        ("DPO", str(tmp_path / "dpo")),
        ("PPO", str(tmp_path / "responses" / "PPO-merged")),
        ("ReST", str(tmp_path / "responses" / "ReST-merged")),
    ]
    from_sft = str(tmp_path / "sft" / "model")
    assert work.merged == [(POLICY, "sft"), (from_sft, "ppo"), (from_sft, "rest")]
    assert list((tmp_path / "responses").iterdir()) == [], "merged models are not kept"


def test_kl_is_to_the_policy_whatever_training_began_from(work, tmp_path, monkeypatch):
    made = work(sft={}, start="sft")
    train_all(made)
    loaded = []

    def logprobs(model, adapter):
        loaded.append((model, adapter))
        level = {POLICY: -2.0}.get(model, -1.0)
        return SimpleNamespace(
            reference=lambda samples: [[level]] * len(samples),
            policy=lambda samples: [[level + 0.5 * (adapter is not None)]] * len(samples),
        )

    monkeypatch.setattr("rlaif.models.sample_logprobs.response_logprobs", logprobs)
    samples = read_jsonl(made.samples, Sample)[:2]
    assert made.kl("SFT", samples).k1.value == pytest.approx(-1.5 + 2.0)
    assert made.kl("DPO", samples).k1.value == pytest.approx(-0.5 + 2.0)
    from_sft = str(tmp_path / "sft" / "model")
    assert loaded[1:] == [(from_sft, tmp_path / "dpo"), (POLICY, None)]


def test_an_evaluation_has_every_policy_with_traits_kinds_and_rewards(work, tmp_path, monkeypatch):
    made = work(sft={}, rest={})
    train_all(made)
    (tmp_path / "responses").mkdir()
    for words, name in enumerate(("start", *made.policies), start=2):
        answers = [
            Sample(prompt=p, index=0, response="word " * words, tokens=5, complete=True, seed=0)
            for p in made.prompts("heldout")
        ]
        write_jsonl(tmp_path / "responses" / f"{name}.jsonl", answers)
    scorer = SimpleNamespace(overall_scores=lambda prompts, texts: [float(len(t)) for t in texts])
    monkeypatch.setattr("rlaif.models.reward_model.RewardModel.load", lambda model, folder: scorer)
    monkeypatch.setattr(RunContext, "kl", lambda self, name, samples: None)
    monkeypatch.setattr("rlaif.generation.offline.tokens_per_second", lambda path: 1.0)
    made.evaluate()
    found = EvaluationResult.load(tmp_path / "evaluation" / "evaluation.json")
    assert [policy.name for policy in found.policies] == ["start", "SFT", "DPO", "PPO", "ReST"]
    rest = found.policies[-1]
    assert rest.win_rate.value == 1.0
    assert rest.traits["helpful"] == Estimate(1.0, pytest.approx(0.61, abs=0.01), 1.0, 6)
    assert rest.reward_gain.value == 20.0
    assert {kind.kind for kind in rest.kinds} >= {"everyday"}


def test_labels_are_split_by_the_text_of_the_prompt(work):
    made = work()
    train, heldout = made.split_labels()
    for preference in heldout:
        text = "\0".join(message.content for message in preference.prompt)
        assert int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32 < 0.2
    assert len(train) + len(heldout) == 30


def test_a_changed_constitution_labels_the_run_again_in_its_folder(work):
    made = work()
    journal = made.labels.with_name("labels.journal.jsonl")
    before = journal.read_bytes().count(b"\n")

    @contextmanager
    def judge_client(log):
        judge = ScriptedJudge()
        judge.sha256 = "e" * 64
        yield judge

    made.judge_client = judge_client
    made.judge()
    assert journal.read_bytes().count(b"\n") == 2 * before, "answers of both are kept"
    assert sorted(f.name for f in made.labels.parent.glob("*.parquet")) == ["preferences.parquet"]


@pytest.mark.parametrize(
    ("changes", "flags"),
    [
        ({}, ("--dtype", "auto")),
        (
            {"judge_dtype": "bfloat16", "judge_flags": ["--max-context-tokens", "512"]},
            ("--dtype", "bfloat16", "--max-context-tokens", "512"),
        ),
    ],
)
def test_the_judge_of_a_recipe_is_started_as_the_recipe_says(tmp_path, monkeypatch, changes, flags):
    started = []
    monkeypatch.setattr(
        "rlaif.feedback.client.judge_client", lambda *_, flags: started.append(flags)
    )
    RunContext(recipe(**changes), tmp_path).judge_client(tmp_path / "judge.log")
    assert started == [flags]


def test_no_shipped_recipe_sets_the_steps_of_a_judge():  # on a GPU vLLM's are far longer
    for name in ("quickstart", "cpu_study"):
        assert "--step-tokens" not in load_recipe(name).judge_flags


def test_a_file_with_fewer_prompts_than_the_recipe_takes_counts_as_what_it_holds(tmp_path):
    own = tmp_path / "own.jsonl"
    own.write_text("".join(f'{{"prompt": "Question {n}?"}}\n' for n in range(10)))
    found = stages._counted(recipe(prompts=str(own)), tmp_path)
    assert found.train_prompts + found.heldout_prompts == 10
    assert found.heldout_prompts <= 3
