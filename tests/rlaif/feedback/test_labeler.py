"""Labels survive kills; edited inputs are judged anew; a pair without a judgment gets no label."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constitution.errors import UserError
from constitution.schema import Constitution, Message
from judge_service.client.sync import JudgeUnavailable
from judge_service.server_info import FittedCalibration
from judge_service.types import Comparison, JudgeOptions, Judgment, Order, Unjudged, UnjudgedReason
from rlaif.api.inputs import constitution_of
from rlaif.data.datasets import read_preferences
from rlaif.evaluation.comparison import EvaluatorModel, JudgedPair
from rlaif.feedback.earlier_labels import Earlier
from rlaif.feedback.labeler import LabelingError, comparer, identify, judge_pairs, label
from rlaif.feedback.receipts import preference
from tests.support.feedback.scripted_judge import MODEL, ScriptedJudge


def comparison(number: int, a: str = "a longer answer", b: str = "short") -> Comparison:
    question = (Message(role="user", content=f"question {number}"),)
    return Comparison(f"p{number}", question, a, b)


CONSTITUTION = """
name: small
version: 1.0.0
traits: {helpful: {}}
principles:
  - {id: help, trait: helpful, compare: Which helps?, critique: How not?, revise: Help.}
"""
PAIRS = [comparison(number) for number in range(6)]


# ── labels ───────────────────────────────────────────────────────────────────────────────────


def test_every_pair_becomes_an_ordered_soft_label_with_its_receipt(tmp_path):
    summary = label(PAIRS, ScriptedJudge(), tmp_path)
    found = read_preferences(tmp_path / "preferences.parquet")
    assert [p.id for p in found] == [pair.id for pair in PAIRS]
    assert found[0].chosen_text == "a longer answer"
    assert found[0].prob_chosen == 0.9
    assert found[0].traits == {"helpful": 0.9, "honest": 0.3}
    receipt = json.loads(found[0].receipt)
    assert receipt["constitution_sha256"] == "c" * 64
    assert receipt["model"]["name"] == "scripted"
    assert receipt["votes"][0]["reads"][0]["logprob_second"] == -2.3
    assert receipt["votes"][0]["reads"][0]["prompt_sha256"] == "d" * 64
    assert summary.judged == summary.asked == 6
    assert summary.mean_prob_chosen == pytest.approx(0.9)
    assert summary.position_consistency == 1
    assert summary.mean_label_mass == pytest.approx(0.98)
    assert (summary.prompt_tokens, summary.cached_tokens, summary.reads) == (1200, 960, 12)


@given(st.text(), st.text())
def test_swapping_a_and_b_gives_the_same_preference(one, other):
    judge = ScriptedJudge()
    pair = comparison(0, one + "x", other + "yyy")
    swapped = comparison(0, pair.response_b, pair.response_a)
    if len(pair.response_a) == len(pair.response_b):
        return  # an exact tie: whichever is A
    first = preference(pair, judge.judge(pair))
    second = preference(swapped, judge.judge(swapped))
    assert first.prob_chosen == second.prob_chosen
    assert first.chosen_text == second.chosen_text


def test_a_pair_without_a_judgment_is_recorded_with_its_reason_and_gets_no_label(tmp_path):
    summary = label([*PAIRS, comparison(9, b=" ")], ScriptedJudge(), tmp_path)
    assert summary.unjudged_by_reason == {"empty_response": 1}
    assert len(read_preferences(tmp_path / "preferences.parquet")) == 6
    kept = json.loads((tmp_path / "unjudged.jsonl").read_text())
    assert (kept["id"], kept["reason"]) == ("p9", "empty_response")
    saved = json.loads((tmp_path / "labels.summary.json").read_text())
    assert saved["unjudged"] == 1


def test_no_judgment_at_all_is_an_error_that_counts_the_reasons(tmp_path):
    with pytest.raises(LabelingError, match=r"none of 1 pairs.*empty_response 1"):
        label([comparison(0, b="")], ScriptedJudge(), tmp_path)
    assert not (tmp_path / "preferences.parquet").exists()


def test_a_second_run_judges_nothing(tmp_path):
    label(PAIRS, ScriptedJudge(), tmp_path)
    judge = ScriptedJudge()
    assert label(PAIRS, judge, tmp_path).asked == 0
    assert judge.received == []


def test_a_dead_server_keeps_the_labels_and_the_next_run_continues(tmp_path):
    judge = ScriptedJudge()
    judge.stop_after, judge.stop_with = 2, JudgeUnavailable("127.0.0.1:1 does not answer")
    with pytest.raises(LabelingError, match=r"does not answer\n2 of 6 labels are saved"):
        label(PAIRS, judge, tmp_path)
    judge.stop_after = None
    assert label(PAIRS, judge, tmp_path).asked == 4
    assert sorted(judge.received) == [pair.id for pair in PAIRS]


def change_nothing(judge, options):
    return options


def edit_the_constitution(judge, options):
    judge.sha256 = "e" * 64
    return options


def change_the_model(judge, options):
    judge.model = judge.judged_by = replace(MODEL, weights_sha256="f" * 64)
    return options


def fit_a_calibration(judge, options):
    judge.calibrations = (FittedCalibration(judge.sha256, "pairwise", "9" * 64),)
    return options


def judge_in_one_order(judge, options):
    return replace(options, orders=(Order.AB,))


def judge_with_another_seed(judge, options):
    return replace(options, seed=1)


def judge_with_priority(judge, options):
    return replace(options, interactive=False)


def judge_without_the_store(judge, options):
    return replace(options, use_store=False)


@pytest.mark.parametrize(
    ("change", "judged"),
    [
        (change_nothing, 0),
        (judge_with_priority, 0),
        (judge_without_the_store, 0),
        (edit_the_constitution, 6),
        (change_the_model, 6),
        (fit_a_calibration, 6),
        (judge_in_one_order, 6),
        (judge_with_another_seed, 6),
    ],
)
def test_only_an_equal_request_reuses_an_answer(tmp_path, change, judged):
    label(PAIRS, ScriptedJudge(), tmp_path)
    judge = ScriptedJudge()
    options, earlier = change(judge, JudgeOptions()), Earlier.OVERWRITE
    assert label(PAIRS, judge, tmp_path, options=options, earlier=earlier).asked == judged
    again = label(PAIRS, ScriptedJudge(), tmp_path, earlier=earlier)
    assert again.asked == 0, "going back costs nothing"


def test_an_edited_response_is_judged_again_and_the_same_text_under_another_id_is_not(tmp_path):
    label(PAIRS, ScriptedJudge(), tmp_path)
    edited = replace(PAIRS[0], response_b="now edited")
    renamed = replace(PAIRS[1], id="renamed")
    judge = ScriptedJudge()
    label([edited, renamed], judge, tmp_path)
    assert judge.received == ["p0"]
    assert [p.id for p in read_preferences(tmp_path / "preferences.parquet")] == ["p0", "renamed"]


def test_equal_pairs_are_judged_once(tmp_path):
    judge = ScriptedJudge()
    summary = label([PAIRS[0], replace(PAIRS[0], id="again")], judge, tmp_path)
    assert (summary.judged, summary.asked) == (2, 1)


@pytest.mark.parametrize("reason", [UnjudgedReason.ENGINE_FAILED, UnjudgedReason.CANCELLED])
def test_a_transient_failure_is_judged_again(tmp_path, reason):
    judge = ScriptedJudge()
    judge.judge = lambda _: Unjudged(reason, "the engine stumbled")
    with pytest.raises(LabelingError):
        label(PAIRS, judge, tmp_path)
    assert label(PAIRS, ScriptedJudge(), tmp_path).judged == 6


def test_a_judge_that_changes_during_labeling_is_an_error(tmp_path):
    judge = ScriptedJudge()
    judge.judged_by = replace(MODEL, name="another")
    with pytest.raises(LabelingError, match="the judge changed while labeling"):
        label(PAIRS, judge, tmp_path)


def test_a_log_probability_of_minus_infinity_survives_the_journal(tmp_path):
    judge = ScriptedJudge()
    found = judge.judge(PAIRS[0])
    impossible = replace(found.votes[0].reads[0], logprob_second=-math.inf)
    judge.judge = lambda _: replace(found, votes=(replace(found.votes[0], reads=(impossible,)),))
    label(PAIRS[:1], judge, tmp_path)
    again = judge_pairs(PAIRS[:1], ScriptedJudge(), tmp_path / "labels.journal.jsonl")
    assert again.judged_now == 0
    ((_, found),) = again.by_pair()
    assert found.votes[0].reads[0].logprob_second == -math.inf


def test_answers_stay_on_disk_and_not_in_memory(tmp_path):
    """Each answer is 100 kB, all of them 20 MB."""
    judge = ScriptedJudge()
    found = judge.judge(PAIRS[0])
    long = replace(found.votes[0].reads[0], rationale="x" * 100_000)
    judge.judge = lambda _: replace(found, votes=(replace(found.votes[0], reads=(long,)),))
    pairs = [comparison(number) for number in range(200)]
    tracemalloc.start()
    for _ in range(2):  # judged, then found in the journal
        answers = judge_pairs(pairs, judge, tmp_path / "labels.journal.jsonl")
        assert sum(isinstance(answer, Judgment) for _, answer in answers.by_pair()) == 200
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "labels.journal.jsonl").stat().st_size > 20e6
    assert peak < 4e6


def test_missing_answers_are_an_error(tmp_path):
    judge = ScriptedJudge()
    judge.stream = lambda *_, **__: iter([(PAIRS[0].id, judge.judge(PAIRS[0]))])
    with pytest.raises(LabelingError, match="no answer for 5 pairs"):
        label(PAIRS, judge, tmp_path)


def test_two_pairs_of_one_id_are_an_error(tmp_path):
    with pytest.raises(LabelingError, match="duplicate pair id: 'p0'"):
        label([PAIRS[0], replace(PAIRS[1], id="p0")], ScriptedJudge(), tmp_path)


def test_an_unknown_constitution_and_a_loading_judge_are_errors():
    judge = ScriptedJudge()
    with pytest.raises(LabelingError, match=r"'harmless' in its current form, only hhh"):
        identify(judge.server_info(), "harmless")
    judge.model = None
    with pytest.raises(LabelingError, match="still loading"):
        identify(judge.server_info())


def test_a_constitution_file_must_have_the_digest_of_the_servers(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(CONSTITUTION)
    judge = ScriptedJudge()
    with pytest.raises(LabelingError, match="in its current form"):
        identify(judge.server_info(), str(path))
    judge.sha256 = Constitution.load(path).digest
    assert identify(judge.server_info(), str(path)).constitution.name == "hhh"


def test_a_constitution_is_sent_inline_if_the_server_allows_it(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(CONSTITUTION)
    info = replace(ScriptedJudge().server_info(), inline_constitutions=True)
    assert identify(info, str(path)).constitution.sha256 == Constitution.load(path).digest


def test_labels_by_a_file_keep_its_rules_where_training_finds_their_weights(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(CONSTITUTION)
    judge = ScriptedJudge()
    judge.sha256 = Constitution.load(path).digest
    label(PAIRS, judge, tmp_path / "labels", constitution=str(path))
    path.unlink()
    labels = read_preferences(tmp_path / "labels" / "preferences.parquet")
    for source in (tmp_path / "labels", tmp_path / "labels" / "preferences.parquet"):
        assert constitution_of("", labels, source).digest == judge.sha256
    with pytest.raises(UserError, match="neither ships nor is beside them"):
        constitution_of("", labels)


def test_a_comparer_judges_once_and_reports_pairs_without_a_judgment(tmp_path):
    judge = ScriptedJudge()
    compare = comparer(judge, tmp_path / "journal.jsonl")
    question = (Message(role="user", content="q"),)
    questions = [("one", question, "longer", "short"), ("two", question, "text", " ")]
    who = EvaluatorModel("scripted", "a" * 64, "hhh 1.0.0")
    assert compare(questions) == {
        "one": JudgedPair(0.9, traits={"helpful": 0.9, "honest": 0.3}, evaluator=who),
        "two": JudgedPair(None, "empty_response", evaluator=who),
    }
    assert compare(questions)["one"].prob_a == 0.9
    assert sorted(judge.received) == ["one", "two"]


def test_progress_shows_the_count_and_the_rate(tmp_path, capsys):
    label(PAIRS, ScriptedJudge(), tmp_path)
    assert re.search(r"labels: 6/6 pairs, [\d.]+ (pairs/s|s/pair)", capsys.readouterr().err)


def test_progress_counts_only_labels_that_a_power_failure_would_leave(tmp_path, monkeypatch):
    on_disk, reported, real = [0], [], os.fsync

    def fsync(file):
        real(file)
        journal = tmp_path / "labels.journal.jsonl"
        if os.path.samestat(os.fstat(file), journal.stat()):
            on_disk.append(journal.read_bytes().count(b"\n"))

    @contextmanager
    def counted(title, total, unit):
        yield lambda done, note="", metrics=None: reported.append((done, on_disk[-1]))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr("rlaif.feedback.labeler.progress", counted)
    monkeypatch.setattr("rlaif.data.journal.SYNC_SECONDS", 3600)
    pairs = [comparison(number) for number in range(600)]
    label(pairs, ScriptedJudge(), tmp_path)
    assert on_disk == [0, 0, 256, 512, 600]  # when it was opened, and then in groups
    assert all(done <= kept for done, kept in reported)
    assert reported[-1] == (600, 600)


def test_datasets_loads_the_file_directly(tmp_path):
    datasets = pytest.importorskip("datasets")
    label(PAIRS, ScriptedJudge(), tmp_path)
    found = datasets.load_dataset(
        "parquet",
        data_files=str(tmp_path / "preferences.parquet"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert found.num_rows == 6
    assert found[0]["chosen"] == [{"role": "assistant", "content": "a longer answer"}]
    assert found[0]["prob_chosen"] == 0.9


SLOW_LABELING = """
import sys, time
from pathlib import Path
from rlaif.evaluation.comparison import EvaluatorModel, JudgedPair
from rlaif.feedback.labeler import label
from tests.support.feedback.scripted_judge import ScriptedJudge
from tests.rlaif.feedback.test_labeler import comparison

class SlowJudge(ScriptedJudge):
    def judge(self, pair):
        time.sleep(0.02 if len(self.received) < 100 else 3600)  # until it is killed
        return super().judge(pair)

label([comparison(n) for n in range(200)], SlowJudge(), Path(sys.argv[1]))
"""


def test_kill_9_loses_no_answer_and_the_next_run_judges_only_the_rest(tmp_path):
    journal = tmp_path / "labels.journal.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_LABELING, str(tmp_path)],
        cwd=Path(__file__).parents[3],
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not (journal.is_file() and journal.read_bytes().count(b"\n") >= 20):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    answered = journal.read_bytes().count(b"\n")
    assert answered < 200

    judge = ScriptedJudge()
    summary = label([comparison(n) for n in range(200)], judge, tmp_path)
    assert summary.asked == 200 - answered
    assert summary.judged == 200
    assert len(set(judge.received)) == len(judge.received)
