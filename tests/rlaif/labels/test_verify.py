"""Labels that reproduce pass, and labels that do not are reported with the reason."""

import json
import math
import re
from dataclasses import replace

import pytest

from judge_service.judge.calibration import Temperature
from judge_service.types import JudgeOptions, ModelIdentity
from rlaif.data.datasets import read_preferences
from rlaif.feedback.labeler import label
from rlaif.labels.verify import TOLERANCE, draw, replay, verify_offline
from tests.support.fakes import FakeEngine
from tests.support.feedback.constitutions import (
    by_rule,
    edited,
    engine,
    make_constitution,
    pairs,
    principle,
)
from tests.support.feedback.labeled import CONSTITUTION, judge, labeled, rewrite
from tests.support.feedback.local_judge import LocalJudge

WEIGHTS = {CONSTITUTION.digest: CONSTITUTION.trait_weights}.get


@pytest.fixture
def file(tmp_path):
    return labeled(tmp_path)


def with_receipt(change):
    """A change of a label that edits its receipt."""

    def edit(one):
        receipt = json.loads(one.receipt)
        change(receipt)
        return one.model_copy(update={"receipt": json.dumps(receipt)})

    return edit


def shifted(by):
    """An engine that answers as before, the first label's log-probability moved (nats)."""

    def answer(prompt):
        first, second = by_rule(prompt)
        return first + by, second

    return answer


# ── offline ──────────────────────────────────────────────────────────────────────────────────


def test_every_label_is_the_sum_of_its_reads(file):
    found = verify_offline(read_preferences(file), WEIGHTS)
    assert (found.labels, found.wrong, found.passed) == (12, 0, True)
    assert not found.without_weights


def falsify_the_label(receipt):
    receipt["prob_a"] = receipt["raw_prob_a"] = 0.5 + (receipt["prob_a"] - 0.5) / 2


def falsify_a_vote(receipt):
    receipt["votes"][1]["prob_a"] += 1e-6


def falsify_a_read(receipt):
    receipt["votes"][1]["reads"][0]["logprob_first"] -= 1e-6


def lose_a_read(receipt):
    del receipt["votes"][0]["reads"][1]


def name_an_unknown_protocol(receipt):
    receipt["protocol"] = "by the stars"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (falsify_the_label, r"'q4': P\(A\) is"),
        (falsify_a_vote, r"'q4': P\(A\) by p1 is"),
        (falsify_a_read, r"'q4': a read of p1 is"),
        (lose_a_read, r"'q4': P\(A\) by p0 is"),
        (name_an_unknown_protocol, r"'q4': P\(A\) by p0 is .* recomputed none"),
    ],
)
def test_a_label_that_differs_from_its_reads_is_named(file, change, message):
    rewrite(file, 4, with_receipt(change))
    found = verify_offline(read_preferences(file), WEIGHTS)
    assert (found.wrong, found.passed) == (1, False)
    (example,) = found.examples
    assert re.search(message, example)


@pytest.mark.parametrize("which", ["chosen", "rejected"])
def test_a_response_that_ended_otherwise_than_its_receipt_says_is_named(file, which):
    """Changed in the label, and the other way round in the receipt, whose A and B it calls them."""
    rewrite(file, 3, lambda one: one.model_copy(update={f"{which}_complete": False}))

    def cut_in_receipt(receipt):
        chosen = receipt["chosen"].lower()
        rejected = "b" if chosen == "a" else "a"
        receipt[f"complete_{chosen if which == 'chosen' else rejected}"] = False

    rewrite(file, 5, with_receipt(cut_in_receipt))
    found = verify_offline(read_preferences(file), WEIGHTS)
    assert found.examples == [
        f"label 'q3': the {which} response was cut off, by its receipt it ended by itself",
        f"label 'q5': the {which} response ended by itself, by its receipt it was cut off",
    ]
    assert found.wrong == 2


def test_a_receipt_from_before_says_nothing_of_endings(file):
    def forget(receipt):
        del receipt["complete_a"], receipt["complete_b"]

    def change(one):
        return with_receipt(forget)(one.model_copy(update={"chosen_complete": False}))

    rewrite(file, 3, change)
    assert verify_offline(read_preferences(file), WEIGHTS).passed


def test_swapped_texts_are_detected_by_a_trait_probability(file):
    rewrite(file, 2, lambda one: one.model_copy(update={"traits": {"honest": 0.123}}))
    found = verify_offline(read_preferences(file), WEIGHTS)
    assert "'q2': P(chosen) by honest is 0.123" in found.examples[0]


def test_traits_that_a_calibration_moved_to_the_other_side_are_detected(file):
    def calibrate(temperature):
        """As a judge with this temperature would have labeled, its digest in the receipt."""
        curve = Temperature(abs(temperature))

        def change(one):
            receipt = json.loads(one.receipt)
            prob = curve.apply(receipt["raw_prob_a"])
            changed = json.dumps(receipt | {"prob_a": prob, "calibration": "c" * 64})
            traits = {name: curve.apply(p) for name, p in one.traits.items()}
            if temperature < 0:
                traits = {name: 1 - p for name, p in traits.items()}
            new = {"receipt": changed, "prob_chosen": max(prob, 1 - prob), "traits": traits}
            return one.model_copy(update=new)

        return change

    rewrite(file, 2, calibrate(3.0))
    assert verify_offline(read_preferences(file), WEIGHTS).passed
    rewrite(file, 5, calibrate(-3.0))
    found = verify_offline(read_preferences(file), WEIGHTS)
    assert found.wrong == 1
    assert re.search(r"'q5': P\(chosen\) by \w+, before calibration, is", found.examples[0])


def test_without_the_constitution_the_sum_is_not_checked_and_this_is_reported(file):
    rewrite(file, 4, with_receipt(falsify_a_vote))
    found = verify_offline(read_preferences(file), {}.get)
    assert found.without_weights == {f"small 1.0.0 ({CONSTITUTION.digest[:12]})": 12}
    assert found.wrong == 1  # a vote is checked all the same


def test_labels_of_one_trait_need_no_constitution(tmp_path):
    one_trait = make_constitution(principle(0), principle(1, weight=3.0), helpful=7.0)
    label(pairs(4), LocalJudge(one_trait, engine=engine()), tmp_path)
    found = verify_offline(read_preferences(tmp_path / "preferences.parquet"), {}.get)
    assert found.passed
    assert not found.without_weights


# ── by asking again ──────────────────────────────────────────────────────────────────────────


def test_the_same_judge_gives_the_same_numbers(file):
    client = judge()
    found = replay(read_preferences(file), client)
    assert found.passed
    assert (found.sampled, found.recomputed, found.reads) == (12, 12, 72)
    assert (found.largest, found.mean, found.largest_logprob) == (0.0, 0.0, 0.0)
    assert (found.asked_differently, found.chosen_differs) == (0, 0)
    assert len(client.engine.prompts) == 72


def test_a_change_within_the_tolerance_passes_and_beyond_it_fails(file):
    client = LocalJudge(CONSTITUTION, engine=engine(shifted(-0.01)))
    found = replay(read_preferences(file), client, tolerance=0.01)
    assert found.passed
    assert 0 < found.mean <= found.largest < 0.01
    assert found.largest_logprob >= 0.01 - 1e-9
    strict = replay(read_preferences(file), client, tolerance=1e-6)
    assert not strict.passed
    assert strict.beyond > 0


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "torch.bfloat16", "fp8"])
def test_the_tolerance_is_that_of_the_dtype_in_the_receipt(file, dtype):
    def say(receipt):
        receipt["model"]["dtype"] = dtype

    rewrite(file, 0, with_receipt(say))
    found = replay(read_preferences(file)[:1], judge())
    assert found.tolerance == TOLERANCE.get(dtype.removeprefix("torch."), 0.02)


def test_a_sample_of_principles_is_drawn_again(tmp_path):
    options = JudgeOptions(sample_principles=2, seed=5)
    label(pairs(6), judge(), tmp_path, options=options)
    client = judge()
    found = replay(read_preferences(tmp_path / "preferences.parquet"), client)
    assert found.passed
    assert len(client.engine.prompts) == 6 * 2 * 2


def test_reads_below_todays_minimum_label_mass_are_repeated(tmp_path):
    def timid(prompt):
        return tuple(logprob + math.log(0.05) for logprob in by_rule(prompt))

    client = LocalJudge(CONSTITUTION, engine=engine(timid))
    label(pairs(2), client, tmp_path, options=JudgeOptions(min_label_mass=0.01))
    assert replay(read_preferences(tmp_path / "preferences.parquet"), client).passed


def test_another_model_fails_and_its_differences_are_named(file):
    class OtherServer(FakeEngine):
        @property
        def identity(self):
            return replace(super().identity, weights_sha256="f" * 64, dtype="bfloat16")

    found = replay(
        read_preferences(file), LocalJudge(CONSTITUTION, engine=engine(kind=OtherServer))
    )
    ((difference, count),) = found.other_model.items()
    assert difference == (
        "weights_sha256 000000000000 then, ffffffffffff now, dtype float32 then, bfloat16 now"
    )
    assert count == 12
    assert found.recomputed == 12
    assert not found.passed


def test_an_unavailable_constitution_is_counted_not_skipped(file):
    found = replay(read_preferences(file), LocalJudge(edited(CONSTITUTION, 0, weight=9.0)))
    assert found.no_constitution == {f"small 1.0.0 ({CONSTITUTION.digest[:12]})": 12}
    assert (found.recomputed, found.passed) == (0, False)


def test_an_edited_text_is_detected_by_the_digest_of_the_prompt(file):
    def edit(one):
        message = one.chosen[0].model_copy(update={"content": one.chosen_text + "!"})
        return one.model_copy(update={"chosen": (message,)})

    rewrite(file, 3, edit)
    found = replay(read_preferences(file), judge(), tolerance=1.0)
    assert (found.asked_differently, found.beyond, found.passed) == (1, 0, False)


def test_a_label_read_after_a_rationale_is_counted_separately(file):
    def wrote(receipt):
        receipt["votes"][0]["reads"][0]["rationale"] = "Because."

    rewrite(file, 3, with_receipt(wrote))
    found = replay(read_preferences(file), judge())
    assert found.no_answer == {"it was read after a rationale": 1}
    assert not found.passed


def test_a_judge_that_fails_is_counted(file):
    found = replay(
        read_preferences(file), LocalJudge(CONSTITUTION, engine=FakeEngine(fail_after=0))
    )
    assert sum(found.no_answer.values()) == 12
    assert not found.passed


def test_a_sample_depends_on_the_seed_and_the_ids_only(file):
    labels = read_preferences(file)
    drawn = [one.id for one in draw(labels, 4, seed=0)]
    assert len(set(drawn)) == 4
    assert drawn == [one.id for one in draw(reversed(labels), 4, seed=0)]
    assert drawn != [one.id for one in draw(labels, 4, seed=1)]
    assert len(draw(labels, 99, seed=0)) == 12


def test_a_model_that_is_still_loading_differs_in_everything(file):
    client = judge()
    info = client.server_info()
    client.server_info = lambda: replace(info, model=None)
    (difference,) = replay(read_preferences(file), client).other_model
    assert all(name in difference for name in ModelIdentity.__dataclass_fields__)
