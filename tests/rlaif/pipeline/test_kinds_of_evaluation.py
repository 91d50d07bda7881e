"""What respond and evaluate hand to their work, and what they say. Samplers are stand-ins here;
test_declared_inputs.py runs the real ones."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rlaif.data.records import Sample, read_jsonl, write_jsonl
from rlaif.evaluation.intervals import Estimate
from rlaif.evaluation.policies import EvaluationResult
from rlaif.pipeline.kinds.evaluate import EvaluateStage
from tests.support.training.workshop import FROM_SFT, POLICY


def test_respond_samples_each_policy_over_what_it_began_from(work, monkeypatch):
    work.prepare(FROM_SFT).train()
    (work.folder / "dpo" / "config.json").write_text("{}")  # as full fine-tuning leaves it
    asked = []
    monkeypatch.setattr(
        "rlaif.generation.offline.sample",
        lambda model, prompts, out, config: asked.append((out.stem, model)),
    )
    work.merged.clear()
    responses = work.graph["responses"].folder
    responses.mkdir()
    work.graph["responses"].run(work.context)
    assert asked == [
        ("start", POLICY),
        ("sft", str(responses / "sft-merged")),
        ("dpo", str(work.folder / "dpo")),
        ("ppo", str(responses / "ppo-merged")),
        ("rest", str(responses / "rest-merged")),
    ]
    from_sft = str(work.folder / "sft-model")
    assert work.merged == [(POLICY, "sft"), (from_sft, "ppo"), (from_sft, "rest")]
    assert list(responses.iterdir()) == [], "merged models are not kept"


def test_evaluate_kl_is_to_the_start_whatever_training_began_from(work, monkeypatch):
    work.prepare(FROM_SFT).train()
    loaded = []

    def logprobs(model, adapter, *, template_kwargs):
        assert template_kwargs == {}
        loaded.append((model, adapter))
        level = {POLICY: -2.0}.get(model, -1.0)
        return SimpleNamespace(
            reference=lambda samples: [[level]] * len(samples),
            policy=lambda samples: [[level + 0.5 * (adapter is not None)]] * len(samples),
        )

    monkeypatch.setattr("rlaif.models.sample_logprobs.response_logprobs", logprobs)
    samples = read_jsonl(work.graph["samples"].outputs.paths[0], Sample)[:2]
    evaluation = work.graph["evaluation"]
    assert evaluation._kl("sft", samples).k1.value == pytest.approx(-1.5 + 2.0)
    assert evaluation._kl("dpo", samples).k1.value == pytest.approx(-0.5 + 2.0)
    from_sft = str(work.folder / "sft-model")
    assert loaded[1:] == [(from_sft, work.folder / "dpo"), (POLICY, None)]


def test_evaluate_has_every_policy_with_traits_kinds_and_rewards(work, monkeypatch):
    work.prepare().train()
    respond, evaluation = work.graph["responses"], work.graph["evaluation"]
    respond.folder.mkdir()
    evaluation.folder.mkdir()
    for words, name in enumerate(respond.policies, start=2):
        answers = [
            Sample(prompt=p, index=0, response="word " * words, tokens=5, complete=True, seed=0)
            for p in work.context.prompts("heldout")
        ]
        write_jsonl(respond.responses(name), answers)
    scorer = SimpleNamespace(overall_scores=lambda prompts, texts: [float(len(t)) for t in texts])
    monkeypatch.setattr("rlaif.models.reward_model.RewardModel.load", lambda model, folder: scorer)
    monkeypatch.setattr(EvaluateStage, "_kl", lambda self, name, samples: None)
    monkeypatch.setattr("rlaif.generation.offline.tokens_per_second", lambda path: 1.0)
    evaluation.run(work.context)
    found = EvaluationResult.load(evaluation.outputs.paths[0])
    assert [policy.name for policy in found.policies] == ["start", "sft", "dpo", "ppo", "rest"]
    rest = found.policies[-1]
    assert rest.win_rate.value == 1.0
    assert rest.traits["helpful"] == Estimate(1.0, pytest.approx(0.61, abs=0.01), 1.0, 6)
    assert rest.reward_gain.value == 20.0
    assert {kind.kind for kind in rest.kinds} >= {"everyday"}


def test_evaluate_says_on_how_much_its_table_rests(work):
    work.prepare()
    said = work.graph["evaluation"]._sizes(work.context)
    assert said == (
        "trained on 30 labels, judged on 6 held-out prompts: too few to tell policies apart"
    )


def test_evaluate_calls_twenty_prompts_no_longer_few(work):
    work.prepare(heldout_prompts=20)
    assert work.graph["evaluation"]._sizes(work.context).endswith("on 20 held-out prompts")
