"""What each kind of stage hands to its work: which model, which records, which judge. Trainers and
samplers are stand-ins here; test_declared_inputs.py runs the real ones."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from constitution import Message
from rlaif.batching.unusable import BatchError
from rlaif.data.records import PlainText, RecordError
from rlaif.generation.base import SamplingError
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.drawing import as_text
from rlaif.pipeline.recipe import RecipeError
from rlaif.pipeline.stage import labels_by_file
from rlaif.settings import MovingWeight
from tests.support.feedback.scripted_judge import ScriptedJudge
from tests.support.training.recipes import a_recipe
from tests.support.training.workshop import FROM_SFT, POLICY, TRAINERS


def labels_of(work):
    files = labels_by_file(work.graph["reward"].sources["labels"])
    return [label for _, labels in files for label in labels]


# ── what trainers are given ──────────────────────────────────────────────────────────────────


def test_trainers_begin_from_the_model_that_their_stage_names(work):
    work.prepare().train()
    assert {name: call.model for name, call in work.got.items()} == dict.fromkeys(TRAINERS, POLICY)
    assert work.merged == []
    assert [source.name for source in work.got["sft"].records] == ["labels"]
    assert work.got["ppo"].rest[0] == work.folder / "reward", "a role of the policy's backbone"


def test_trainers_begin_from_the_merged_model_of_a_stage_that_trains_an_adapter(work):
    work.prepare(FROM_SFT).train()
    assert work.got.pop("sft").model == POLICY
    assert work.merged == [(POLICY, "sft")]
    assert {call.model for call in work.got.values()} == {str(work.folder / "sft-model")}


def test_trainers_take_a_fully_tuned_model_as_it_is(work, monkeypatch):
    monkeypatch.setattr(TRAINERS["sft"], work.trainer("sft", leaves="config.json"))
    work.prepare({"sft": {"lora": None}, "dpo": {"model": "sft"}}).train()
    assert work.merged == []
    assert work.got["dpo"].model == str(work.folder / "sft")


def test_sft_mixes_labels_and_a_text_file_by_their_weights(work, tmp_path):
    (tmp_path / "book.txt").write_text("Once upon a time.")
    text = str(tmp_path / "book.txt")
    work.prepare({"sft": {"data": {"labels": 1, text: 0.1}, "eval_every": 1}}).train()
    labels, book = work.got["sft"].records
    assert (labels.name, labels.weight, book.name, book.weight) == ("labels", 1.0, "book", 0.1)
    assert book.records == [PlainText(id="book", text="Once upon a time.")]
    assert len(work.got["sft"].rest[1]) == 30 - len(labels.records), "no text is held out"


def test_sft_is_handed_weights_that_move(work):
    work.prepare({"sft": {"data": {"labels": [0, 0.5], "samples": [1, 0.5]}}}).train()
    weights = [source.weight for source in work.got["sft"].records]
    assert weights == [MovingWeight(0.0, 0.5), MovingWeight(1.0, 0.5)]
    (line,) = (line for line in as_text(work.graph).splitlines() if line.startswith("sft "))
    assert line.endswith("data: 0..0.5*labels, 1..0.5*samples")


def test_dpo_trains_on_every_label_unless_it_is_to_look_at_some(work):
    work.prepare().train()
    every = work.got["dpo"]
    assert len(every.records) == 30
    assert every.rest[-1] == []

    work.make({"dpo": {"keep": "best"}}).train()
    looked = work.got["dpo"]
    heldout = looked.rest[-1]
    assert len(looked.records) + len(heldout) == 30
    assert {p.prompt for p in looked.records}.isdisjoint({p.prompt for p in heldout})
    assert heldout == work.got["reward"].rest[-1], "those that the reward model does not see"


def test_dpo_takes_labels_of_several_sources(work):
    work.prepare().train()
    more = work.folder / "more.parquet"
    (work.folder / "labels" / "preferences.parquet").rename(more)
    write_labels(work, more, repeat=2)
    work.make({"dpo": {"labels": ["labels", str(more)]}}).train()
    assert len(work.got["dpo"].records) == 90


def write_labels(work, source, repeat):
    """The labels stage's file with those of `source` so many times, under other ids."""
    from rlaif.data.datasets import read_preferences
    from rlaif.data.records import write_preferences

    labels = read_preferences(source)
    copies = [
        each.model_copy(update={"id": f"{each.id}-{n}"}) for n in range(repeat) for each in labels
    ]
    write_preferences(work.graph["labels"].outputs.paths[0], copies, sorted(labels[0].traits))


@pytest.mark.parametrize("kind", ["sft", "reward", "dpo", "ppo", "rest"])
def test_a_record_that_a_trainer_refuses_is_named_with_its_file(work, kind, monkeypatch):
    work.prepare(FROM_SFT).train()
    stage, records = work.graph[kind], work.got[kind].records
    if kind in ("ppo", "rest"):
        file, name = work.context.recipe.prompts, records[0].id
    else:
        pair = records[0].records[0] if kind == "sft" else records[0]
        file, name = work.graph["labels"].outputs.paths[0], f"{pair.id} (chosen)"

    def refuse(*args, **named):
        raise BatchError(f"{name}: 9 tokens", name)

    monkeypatch.setattr(TRAINERS[kind], refuse)
    with pytest.raises(BatchError, match=rf"^{re.escape(f'{file}: {name}: 9 tokens')}$"):
        stage.run(work.context)


@pytest.mark.parametrize("kind", ["sample", "respond"])
def test_a_prompt_that_a_sampler_refuses_is_named_with_its_file(work, kind, monkeypatch):
    work.make()
    prompt = work.context.prompts("train" if kind == "sample" else "heldout")[0]

    def refuse(*args, **named):
        raise SamplingError(f"the sampler failed: prompt {prompt.id}: refused")

    monkeypatch.setattr("rlaif.generation.offline.sample", refuse)
    stage = next(stage for stage in work.graph.stages if stage.kind == kind)
    with pytest.raises(SamplingError, match=rf"^{re.escape(work.context.recipe.prompts)}: the sam"):
        stage.run(work.context)


# ── one split for all stages ─────────────────────────────────────────────────────────────────


def test_split_of_labels_is_by_the_text_of_the_prompt(work):
    work.prepare()
    labels = labels_of(work)
    split = work.context.split(labels, looks=True)
    for preference in split.heldout:
        text = "\0".join(message.content for message in preference.prompt)
        assert int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32 < 0.2
    assert len(split.train) + len(split.heldout) == 30


def respelled(messages, system="Answer in verse."):
    """The same conversation with another system message, in capitals, and with wider spaces."""
    turns = [m for m in messages if m.role != "system"]
    loud = [m.model_copy(update={"content": m.content.upper().replace(" ", "  ")}) for m in turns]
    return (Message(role="system", content=system), *loud)


@pytest.mark.parametrize("as_merged", [lambda messages: messages[1:], respelled])
@pytest.mark.parametrize("looks", [False, True])
def test_split_no_stage_trains_on_a_prompt_that_policies_are_evaluated_on(
    work, looks, as_merged, capsys
):
    work.prepare(system="Be brief.")
    labels = labels_of(work)
    evaluated = as_merged(work.context.prompts("heldout")[0].messages)
    foreign = labels[0].model_copy(update={"id": "leak", "prompt": evaluated})
    split = work.context.split([*labels, foreign], looks=looks)
    assert foreign not in split.train
    assert (foreign in split.heldout) == looks
    said = "left out 1 of 31 records: their prompts are held out"
    assert (said in capsys.readouterr().err) != looks


def test_split_pairs_of_a_prompt_are_on_one_side_however_files_spell_it(work):
    work.prepare()
    labels = labels_of(work)
    merged = [
        x.model_copy(update={"id": f"m{x.id}", "prompt": respelled(x.prompt)}) for x in labels
    ]
    split = work.context.split([*labels, *merged], looks=True)
    sides = {x.id: side for side, records in enumerate(split) for x in records}
    assert all(sides[x.id] == sides[f"m{x.id}"] for x in labels)


@pytest.mark.parametrize("trainer", ["ppo", "rest"])
def test_prompts_on_which_policies_are_evaluated_train_no_policy(work, trainer, tmp_path):
    lines = [("Say a", "train"), ("say  A", "heldout"), ("Say b", "train"), ("Say c", "heldout")]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": p, "split": s}) + "\n" for p, s in lines))
    work.make(prompts=str(file), train_prompts=None, heldout_prompts=None)
    declared = work.graph[trainer].inputs(work.context)["prompts"]
    assert [prompt.messages[-1].content for prompt in declared] == ["Say b"]
    work.make({trainer: {"prompts": "heldout"}})
    with pytest.raises(RecordError, match="prompts of this selection are held out, and policies"):
        work.graph[trainer].inputs(work.context)


def prompts_seen(got):
    """Texts of what a trainer was handed: records, prompts, or sources of records."""
    records = [r for each in got.records for r in getattr(each, "records", [each])]
    prompts = [getattr(record, "prompt", record) for record in records]
    return {"\n".join(m.content for m in getattr(prompt, "messages", prompt)) for prompt in prompts}


def looked_at(got):
    """Texts of the prompts that a trainer evaluates on while it trains."""
    [heldout] = [r for r in got.rest if isinstance(r, list)]
    return {"\n".join(m.content for m in label.prompt) for label in heldout}


@pytest.mark.parametrize(
    ("changes", "look"),
    [
        (FROM_SFT, ["reward"]),
        (FROM_SFT | {"dpo": {"model": "sft", "keep": "best"}}, ["reward", "dpo"]),
        (FROM_SFT | {"dpo": {"model": "ppo", "eval_every": 5}}, ["reward", "dpo"]),
        (FROM_SFT | {"dpo": {"model": "rest", "eval_every": 5}}, ["reward", "dpo"]),
        (FROM_SFT | {"sft": {"eval_every": 5}}, ["reward", "sft"]),
    ],
)
def test_split_no_stage_trains_on_a_pair_that_a_stage_after_it_is_evaluated_on(work, changes, look):
    work.prepare(changes).train()
    evaluated = {"\n".join(m.content for m in p.messages) for p in work.context.prompts("heldout")}
    for name, got in work.got.items():
        seen = prompts_seen(got)
        assert seen
        assert not seen & evaluated
        for later in work.graph.from_stage(name):
            if later.name in look:
                assert not seen & looked_at(work.got[later.name]), f"{name} before {later.name}"
    for name in look:
        assert looked_at(work.got[name])


def test_split_a_stage_that_leads_to_no_evaluation_on_pairs_trains_on_all_of_them(work, capsys):
    work.prepare().train()
    assert len(prompts_seen(work.got["dpo"])) == len(prompts_seen(work.got["sft"])) == 30
    assert "left out" not in capsys.readouterr().err
    work.prepare(FROM_SFT).train()
    left_out = len(looked_at(work.got["reward"]))
    assert len(prompts_seen(work.got["sft"])) == 30 - left_out
    said = f"left out {left_out} of 30 records: their prompts are held out, and a stage that"
    assert said in capsys.readouterr().err


def test_split_that_leaves_a_side_empty_is_refused(work):
    work.prepare(heldout_pairs=0.0001)
    labels = labels_of(work)
    with pytest.raises(
        RecipeError, match=r"heldout_pairs=0.0001 leaves 30 records to train on and"
    ):
        work.context.split(labels, looks=True)


def test_prompts_can_be_chosen_by_kind_after_the_limits(work):
    work.make({"samples": {"prompts": {"split": "train", "kind": ["harmful"]}}})
    options = work.graph["samples"].options
    chosen = work.context.prompts(options.prompts)
    assert {prompt.kind for prompt in chosen} == {"harmful"}
    assert len(chosen) == sum(p.kind == "harmful" for p in work.context.prompts("train"))
    work.make({"samples": {"prompts": {"kind": ["no-such"]}}})
    with pytest.raises(ValueError, match=r"no prompt of split 'train' has kind \['no-such'\]"):
        work.context.prompts(work.graph["samples"].options.prompts)


# ── judges ───────────────────────────────────────────────────────────────────────────────────


def test_ppo_has_no_judge_unless_one_is_asked_for(work):
    work.prepare().train()
    assert "judge" not in work.got["ppo"].named


def test_ppo_is_judged_against_the_starts_first_sample(work):
    work.prepare({"ppo": {"eval_every": 2, "samples": "samples"}}).train()
    judge = work.got["ppo"].named["judge"]
    prompts = work.context.prompts("train")[:3]
    # the start's first sample has three words; the scripted judge gives the longer one 0.9
    assert judge(prompts, ["word " * 9] * 3) == pytest.approx([0.9] * 3)
    assert judge(prompts, ["w"] * 3) == pytest.approx([0.1] * 3)
    assert judge(prompts, ["word word word "] * 3) == [0.5] * 3
    assert judge(prompts[:1], [""]) == [None], "unjudged is no number"


def test_label_another_constitution_labels_again_in_its_folder(work, monkeypatch):
    work.prepare()
    labels = work.graph["labels"].folder
    journal = labels / "labels.journal.jsonl"
    before = journal.read_bytes().count(b"\n")

    @contextmanager
    def judge_client(self, judge, constitution, log):
        other = ScriptedJudge()
        other.sha256 = "e" * 64
        yield other

    monkeypatch.setattr(RunContext, "judge_client", judge_client)
    work.graph["labels"].run(work.context)
    assert journal.read_bytes().count(b"\n") == 2 * before, "answers of both are kept"
    assert sorted(f.name for f in labels.glob("*.parquet")) == ["preferences.parquet"]


@pytest.mark.parametrize(
    ("judge", "flags"),
    [
        ("j", ("--dtype", "auto")),
        (
            {"model": "j", "dtype": "bfloat16", "flags": ["--max-context-tokens", "512"]},
            ("--dtype", "bfloat16", "--max-context-tokens", "512"),
        ),
    ],
)
def test_judge_is_started_as_the_recipe_says(tmp_path, monkeypatch, judge, flags):
    started = []
    monkeypatch.setattr(
        "rlaif.feedback.client.judge_client",
        lambda model, constitution, log, flags: started.append((model, constitution, flags)),
    )
    recipe = a_recipe(models={"policy": "p/q", "judge": judge})
    context = RunContext(recipe, tmp_path)
    context.judge_client(recipe.models["judge"], "", tmp_path / "judge.log")
    context.judge_client(recipe.models["judge"], "overall", tmp_path / "judge.log")
    assert started == [("j", "hhh", flags), ("j", "overall", flags)]


# ── scores ───────────────────────────────────────────────────────────────────────────────────


def test_ppo_adds_up_several_rewards_by_their_weights(work, monkeypatch):
    monkeypatch.setattr(TRAINERS["ppo"], work.trainer("ppo"))
    mix = {"reward": 1.0, "tests.rlaif.pipeline.test_kinds:length": 0.5}
    work.prepare({"ppo": {"reward": mix}}).train()
    reward = work.got["ppo"].rest[0]
    assert [(name, weight) for name, weight, _ in reward._sources] == list(mix.items())
    assert reward._sources[0][2].path == work.folder / "reward"


def length(conversations, responses):
    """A reward for the test above."""
    return [float(len(response)) for response in responses]


def test_ppo_reads_a_reward_model_of_another_base_over_that_base(work, monkeypatch):
    loaded = []

    def load(model, folder):
        loaded.append((model, folder.name))
        return SimpleNamespace(backbone=None, overall_scores=lambda prompts, texts: [1.0])

    monkeypatch.setattr("rlaif.models.reward_model.RewardModel.load", load)
    work.prepare({"ppo": {"model": "sft"}}).train()
    assert loaded == [(POLICY, "reward")]
    assert not isinstance(work.got["ppo"].rest[0], Path)
