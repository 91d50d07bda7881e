"""rlaif.label, update_labels, evaluate and sample: what they take, return and refuse."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest

import rlaif
from constitution.errors import ConstitutionError, UserError
from constitution.schema import Message
from constitution.writer import to_yaml
from judge_service.types import JudgeOptions
from rlaif.api.judging import JudgeArgumentError, judge_of
from rlaif.api.problems import RefusedError
from rlaif.data.datasets import read_preferences
from rlaif.data.prompts import load_prompts
from rlaif.data.records import Prompt, RecordError, Sample
from rlaif.evaluation.judges.worth import WorthError
from rlaif.evaluation.policies import EvaluationResult
from rlaif.feedback.earlier_labels import EarlierLabelsError
from rlaif.models.download import ModelError
from rlaif.training.preflight import MissingPackageError
from tests.support.fakes import FakeEngine, prefer_longer
from tests.support.feedback.constitutions import edited, engine
from tests.support.feedback.labeled import CONSTITUTION, judge
from tests.support.feedback.local_judge import LocalJudge
from tests.support.training.sampling_here import sampling_here

__all__ = ["sampling_here"]  # a fixture


def responses(*texts, count=4):
    prompts = [
        Prompt(id=f"q{n}", messages=(Message(role="user", content=f"Q{n}?"),)) for n in range(count)
    ]
    return [
        Sample(prompt=p, index=i, response=f"{text} {p.id}", tokens=3, complete=True, seed=0)
        for p in prompts
        for i, text in enumerate(texts)
    ]


class OtherEngine(FakeEngine):
    """Another model."""

    @property
    def identity(self):
        return replace(super().identity, name="other", weights_sha256="e" * 64)


def test_label_writes_preferences_and_returns_the_counts(tmp_path):
    summary = rlaif.label(responses("yes", "no"), server=judge(), out=tmp_path / "labels")
    assert (summary.judged, summary.unjudged, summary.pairs) == (4, 0, 4)
    assert len(read_preferences(tmp_path / "labels/preferences.parquet")) == 4


def test_label_takes_all_pairs_and_the_judges_options(tmp_path):
    client = judge()
    summary = rlaif.label(
        responses("yes", "no", "hm"), server=client, out=tmp_path, pairs_per_prompt=None,
        sample_principles=1, seed=3, options=JudgeOptions(tie_margin=0.1),
    )  # fmt: skip
    assert summary.pairs == 12
    given = {name: summary.options[name] for name in ("sample_principles", "seed", "tie_margin")}
    assert given == {"sample_principles": 1, "seed": 3, "tie_margin": 0.1}


def test_label_draws_pairs_of_similar_length_and_counts_the_others(tmp_path):
    samples = responses("yes", "no", "a much longer response than those")
    summary = rlaif.label(
        samples, server=judge(), out=tmp_path, pairs_per_prompt=None, max_length_ratio=1.5
    )
    assert (summary.pairs, summary.unequal) == (4, 8)
    recorded = json.loads((tmp_path / "labels.summary.json").read_text())
    assert recorded["unequal"] == 8
    with pytest.raises(RecordError, match=r"lengths of all 4 pairs differ .* max_length_ratio, 1"):
        rlaif.label(
            responses("yes", "no more"), server=judge(), out=tmp_path / "x", max_length_ratio=1
        )


def test_labels_made_differently_are_kept_only_where_asked(tmp_path):
    samples = responses("yes", "no")
    rlaif.label(samples, server=judge(), out=tmp_path)
    with pytest.raises(EarlierLabelsError, match="made differently"):
        rlaif.label(samples, server=judge(), out=tmp_path, sample_principles=1)
    again = rlaif.label(
        samples, server=judge(), out=tmp_path, sample_principles=1, replace_labels=True
    )
    assert again.kept is not None
    assert (tmp_path / again.kept).is_file()


def test_an_update_reads_only_the_changed_principles(tmp_path):
    samples, new = responses("yes", "no"), edited(CONSTITUTION, 0, compare="Which is kinder?")
    rlaif.label(samples, server=judge(), out=tmp_path)
    client = LocalJudge(CONSTITUTION, engine=engine())
    done = rlaif.update_labels(
        samples, server=client, out=tmp_path, constitution=new, old=CONSTITUTION
    )
    assert done.reuse is not None
    assert done.reuse.changed == ("p0",)
    assert len(client.engine.prompts) == 4 * 2
    with pytest.raises(UserError, match="old needs the edited constitution"):
        rlaif.update_labels(samples, server=client, out=tmp_path, old=CONSTITUTION)


def test_evaluate_compares_policies_and_saves_the_result(tmp_path):
    result = rlaif.evaluate(
        {"dpo": responses("yes indeed")}, start=responses("no"), server=judge(), out=tmp_path
    )
    assert [policy.name for policy in result.policies] == ["start", "dpo"]
    assert result.policies[1].win_rate is not None
    assert EvaluationResult.load(tmp_path / "evaluation.json") == result


def answers(text):
    return [
        Sample(prompt=p, index=0, response=text, tokens=1, complete=True, seed=0)
        for p in load_prompts("facts")
    ]


def test_evaluate_measures_facts_without_the_judge(tmp_path):
    facts = {"start": answers("Paris"), "dpo": answers("No idea.")}
    result = rlaif.evaluate(
        {"dpo": responses("yes indeed"), "ppo": responses("yes")}, start=responses("no"),
        server=judge(), out=tmp_path, facts=facts,
    )  # fmt: skip
    start, dpo, ppo = ({r.rule: r.value.value for r in p.rules} for p in result.policies)
    assert (start["fact right"], start["fact wrong"]) == (0.02, 0.98)
    assert (dpo["fact declined"], dpo["fact right"]) == (1.0, 0.0)
    assert "fact right" not in ppo, "it was not asked"


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"start": [], "dop": []}, "facts: unknown policy 'dop'; expected one of: start, dpo; did"),
        ({"dpo": answers("Paris")}, "facts: the answers of start are missing"),
        ({"start": responses("yes")}, "facts of start: the prompt 'q0' is not one of the quest"),
        ([answers("Paris")], "invalid facts: list"),
    ],
)
def test_evaluate_refuses_facts_that_cannot_be_compared(facts, why, no_server):
    with pytest.raises(RecordError) as caught:
        rlaif.evaluate(
            {"dpo": responses("yes")}, start=responses("no"), server="127.0.0.1:1", facts=facts
        )
    assert why in str(caught.value)


def test_evaluate_by_several_judges_has_a_column_each_and_resumes_without_a_read(tmp_path):
    rlaif.label(responses("yes", "no"), server=judge(), out=tmp_path / "labels")

    def judges():
        engines = engine(), engine(prefer_longer, OtherEngine)
        return [LocalJudge(CONSTITUTION, engine=each) for each in engines]

    def evaluated(servers):
        return rlaif.evaluate(
            {"dpo": responses("yes indeed")}, start=responses("no"), server=servers,
            out=tmp_path / "e", labels=tmp_path / "labels" / "preferences.parquet",
        )  # fmt: skip

    first = judges()
    result = evaluated(first)
    assert [column.name for column in result.judges] == [first[0].engine.identity.name, "other"]
    assert [column.also_labeled for column in result.judges] == [True, False]
    assert [agreed.pairs for agreed in result.agreement] == [4]
    assert all(each.engine.prompts for each in first)
    again = judges()
    assert evaluated(again) == result
    assert [each.engine.prompts for each in again] == [[], []], "nothing is read twice"


def test_evaluate_knows_a_judge_on_gold_from_a_file_and_otherwise_says_nothing(tmp_path):
    figures = {
        "judge": judge().engine.identity.name, "gold": "g.jsonl", "n": 9, "accuracy": 0.5,
        "low": 0.2, "high": 0.8, "longer": 0.6,
    }  # fmt: skip
    (tmp_path / "worth.json").write_text(json.dumps(figures))

    def evaluated(**given):
        return rlaif.evaluate(
            {"dpo": responses("yes")}, start=responses("no"), server=judge(), out=tmp_path, **given
        )

    (plain,) = evaluated().judges
    assert (plain.worth, plain.also_labeled) == ((), None)
    (known,) = evaluated(worth=tmp_path / "worth.json").judges
    assert [(worth.gold, worth.accuracy) for worth in known.worth] == [("g.jsonl", 0.5)]


def test_evaluate_refuses_figures_of_a_judge_that_does_not_take_part(tmp_path):
    figures = {
        "judge": "another", "constitution": "hhh 1.0.0", "gold": "g.jsonl", "n": 9,
        "accuracy": 0.5, "low": 0.2, "high": 0.8, "longer": 0.6,
    }  # fmt: skip
    file = tmp_path / "worth.json"
    file.write_text(json.dumps(figures))
    server = judge()
    with pytest.raises(WorthError) as caught:
        rlaif.evaluate(
            {"dpo": responses("yes")}, start=responses("no"), server=server, out=tmp_path,
            worth=file,
        )  # fmt: skip
    name, rules = server.engine.identity.name, f"{CONSTITUTION.name} {CONSTITUTION.version}"
    assert str(caught.value) == (
        f"{file}: figures of judges that do not take part: another, hhh 1.0.0 (those that do: "
        f"{name}, {rules}); give their figures, or remove this file"
    )
    assert server.engine.prompts == [], "nothing was judged"


def test_evaluate_refuses_labels_and_figures_that_are_not_there(no_server):
    with pytest.raises(RefusedError) as caught:
        rlaif.evaluate(
            {"dpo": responses("yes")}, start=responses("no"), server="127.0.0.1:1",
            labels="no.parquet", worth=["no.json"],
        )  # fmt: skip
    assert [str(p) for p in caught.value.problems] == [
        "no.json: cannot be read: No such file or directory",
        "no.parquet: no such file; give labels, or the folder of `rlaif label`",
    ]  # fmt: skip
    with pytest.raises(JudgeArgumentError, match="expected one judge: none"):
        rlaif.evaluate({"dpo": responses("yes")}, start=responses("no"), judge=[])


@pytest.mark.parametrize("name", ["smollm2-135m", "127.0.0.1:1"])
def test_evaluate_refuses_a_judge_that_is_named_twice(name, no_server):
    with pytest.raises(JudgeArgumentError, match=f"the judge {name} is given twice"):
        rlaif.evaluate({"dpo": responses("yes")}, start=responses("no"), judge=[name, name])


# ── what is refused ──────────────────────────────────────────────────────────────────────────


@pytest.fixture
def no_server(monkeypatch):
    monkeypatch.setattr(
        "rlaif.feedback.client.judge_client", lambda *_, **__: pytest.fail("a server was started")
    )


@pytest.mark.parametrize("given", [{}, {"judge": "smollm2-135m", "server": "127.0.0.1:1"}])
def test_exactly_one_judge_is_given(given, no_server):
    with pytest.raises(JudgeArgumentError, match=r"give judge=MODEL .* or server=\"HOST:PORT\""):
        rlaif.label(responses("yes", "no"), **given)


def test_label_names_everything_refused_before_it_connects(tmp_path, no_server):
    (tmp_path / "file").touch()
    with pytest.raises(RefusedError) as caught:
        rlaif.label("missing.jsonl", judge="smollm", out=tmp_path / "file")
    for named in ("missing.jsonl: no such file", "unknown model 'smollm'", "not a folder"):
        assert named in str(caught.value)


def test_labels_that_could_not_be_written_are_refused_before_judging(monkeypatch, no_server):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackageError, match="not installed: pyarrow"):
        rlaif.label(responses("yes", "no"), server="127.0.0.1:1")


def test_sampling_needs_neither_peft_nor_accelerate(monkeypatch, tmp_path):
    for package in ("peft", "accelerate"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("rlaif.generation.offline.sample", lambda *given: given)
    model, prompts, out, config = rlaif.sample(["Hi?"], model="org/name", out=tmp_path / "s", n=1)
    assert (model, len(prompts), out.name, config.n) == ("org/name", 1, "s", 1)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingPackageError, match="not installed: torch"):
        rlaif.sample(["Hi?"], model="org/name", out=tmp_path / "s", n=1)


def test_one_response_per_prompt_makes_no_pair(no_server):
    with pytest.raises(RecordError, match="samples: no prompt has two different responses"):
        rlaif.label(responses("yes"), server="127.0.0.1:1")


def test_evaluate_names_every_file_that_is_missing(no_server):
    with pytest.raises(RefusedError) as caught:
        rlaif.evaluate({"a": "a.jsonl", "b": "b.jsonl"}, start="s.jsonl", server="127.0.0.1:1")
    assert [str(p) for p in caught.value.problems] == [
        "s.jsonl: no such file", "a.jsonl: no such file", "b.jsonl: no such file",
    ]  # fmt: skip
    with pytest.raises(RecordError, match="responses: no policy in it"):
        rlaif.evaluate({}, start=responses("no"), server="127.0.0.1:1")


def test_a_constitution_is_checked_where_it_is_ours_to_check(tmp_path, tiny_model):
    with pytest.raises(ConstitutionError, match="did you mean 'hhh'"):
        judge_of(tiny_model, "", "hhhh")
    assert judge_of("", "127.0.0.1:1", "hhhh").constitution == "hhhh"  # the server may know it
    with pytest.raises(ConstitutionError, match=r"mine.yaml"):
        judge_of("", "127.0.0.1:1", tmp_path / "mine.yaml")
    (tmp_path / "mine.yaml").write_text(to_yaml(CONSTITUTION))
    assert judge_of("", "127.0.0.1:1", tmp_path / "mine.yaml").constitution.endswith("mine.yaml")
    assert judge_of("", "127.0.0.1:1", CONSTITUTION).constitution is CONSTITUTION


def test_a_judge_model_is_served_with_the_constitution_for_the_call(monkeypatch, tiny_model):
    asked = []

    def judge_client(*given, **named):
        asked.append((given, named))
        raise ModelError("stop here")

    monkeypatch.setattr("rlaif.feedback.client.judge_client", judge_client)
    with pytest.raises(ModelError, match="stop here"):
        rlaif.label(responses("yes", "no"), judge=tiny_model, constitution="hhh", out="o")
    ((model, constitution, log, server), named) = asked[0]
    assert (model, constitution, log.name, server) == (tiny_model, "hhh", "judge.log", "")
    assert named == {"wait": 10.0}


# ── sampling ─────────────────────────────────────────────────────────────────────────────────


def test_sample_draws_from_prompts_in_memory(tiny_model, tmp_path, capsys, sampling_here):
    texts = [f"Say {n}." for n in range(6)]
    drawn = rlaif.sample(
        texts, model=tiny_model, out=tmp_path / "s.jsonl", split="train", limit=2, n=2,
        max_new_tokens=4, engine="transformers", dtype="float32",
    )  # fmt: skip
    assert [(s.prompt.messages[0].content in texts, s.index) for s in drawn] == [
        (True, 0), (True, 1), (True, 0), (True, 1),
    ]  # fmt: skip
    lines = (tmp_path / "s.jsonl").read_text().splitlines()
    assert [json.loads(line)["response"] for line in lines] == [s.response for s in drawn]
    assert "No line names a split" in capsys.readouterr().err


def test_sample_names_everything_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RefusedError) as caught:
        rlaif.sample("missing.jsonl", model="smollm", out=tmp_path / "file" / "s.jsonl", tmp=1)
    for named in ("tmp: unknown setting", "smollm", "missing.jsonl", "not a folder"):
        assert named in str(caught.value)
    with pytest.raises(UserError, match="invalid limit: 0"):
        rlaif.sample(["Hi?"], model="org/name", limit=0)


def test_merge_adapter_makes_a_model_that_sample_takes(
    polite_pairs, tiny_model, tmp_path, sampling_here
):
    adapter = rlaif.train_dpo(
        polite_pairs, model=tiny_model, out=tmp_path / "dpo", epochs=1, dtype="float32",
        lora={"rank": 2}, max_tokens=120,
    )  # fmt: skip
    merged = rlaif.merge_adapter(tiny_model, adapter, out=tmp_path / "merged")
    (sampled,) = rlaif.sample(
        ["Hi?"], model=merged, out=tmp_path / "s.jsonl", n=1, max_new_tokens=3,
        engine="transformers", dtype="float32",
    )  # fmt: skip
    assert sampled.tokens <= 3


def test_merge_adapter_names_everything_refused(tmp_path):
    with pytest.raises(RefusedError) as caught:
        rlaif.merge_adapter("smollm", tmp_path, out=tmp_path)
    for named in ("exists already", "not a LoRA adapter", "unknown model 'smollm'"):
        assert named in str(caught.value)
