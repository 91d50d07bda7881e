"""Receipts reproduce the judgment; older ones are parsed, and broken ones are errors."""

import json
from dataclasses import replace

import pytest

from judge_service.types import Comparison, JudgeOptions, Provenance
from rlaif.data.datasets import read_preferences
from rlaif.data.records import RecordError
from rlaif.feedback.receipts import comparison, parse_receipt, preference, receipt
from tests.support.feedback.constitutions import pairs
from tests.support.feedback.labeled import judge, labeled


@pytest.fixture
def judged():
    client = judge()
    ((_, judgment),) = client.stream(pairs(1), "small", JudgeOptions())
    return pairs(1)[0], judgment


def test_a_receipt_reproduces_the_judgment(judged):
    pair, judgment = judged
    found = parse_receipt(preference(pair, judgment))
    assert found.provenance == judgment.provenance
    assert found.votes == judgment.votes
    assert (found.prob_a, found.verdict) == (judgment.prob_a, judgment.verdict)
    assert (found.order_gap, found.spread) == (judgment.order_gap, judgment.spread)
    assert found.position_consistent == judgment.position_consistent
    assert found.raw_prob_a == judgment.prob_a


def test_the_calibration_and_the_raw_probability_are_kept(judged):
    pair, judgment = judged
    calibrated = replace(
        judgment,
        raw_prob_a=judgment.prob_a,
        prob_a=0.75,
        provenance=replace(judgment.provenance, calibration="c" * 64),
    )
    found = parse_receipt(preference(pair, calibrated))
    assert (found.prob_a, found.raw_prob_a) == (0.75, judgment.prob_a)
    assert found.provenance.calibration == "c" * 64


@pytest.mark.parametrize("prob", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_a_label_and_its_receipt_reproduce_the_judged_pair(judged, prob):
    pair, judgment = judged
    label = preference(pair, replace(judgment, prob_a=prob))
    assert comparison(label, parse_receipt(label)) == pair
    assert label.prob_chosen == max(prob, 1 - prob)


def test_a_receipt_without_newer_fields_is_parsed_with_defaults(judged):
    pair, judgment = judged
    label = preference(pair, judgment)
    old = receipt(pair, judgment)
    for name in ("protocol", "calibration", "raw_prob_a", "spread"):
        del old[name]
    for vote in old["votes"]:
        for read in vote["reads"]:
            del read["stored"], read["rationale"]
    found = parse_receipt(label.model_copy(update={"receipt": json.dumps(old)}))
    assert found.votes == judgment.votes
    assert found.provenance.protocol == Provenance.__dataclass_fields__["protocol"].default
    assert found.raw_prob_a == judgment.prob_a


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("", "label 'q0' has no receipt"),
        ("{", "label 'q0': its receipt cannot be read: receipt: "),
        ('{"chosen": "A"}', "verdict: missing field"),
        ("[]", "label 'q0'"),
    ],
)
def test_a_broken_receipt_names_the_label_and_the_field(judged, broken, message):
    pair, judgment = judged
    label = preference(pair, judgment).model_copy(update={"receipt": broken})
    with pytest.raises(RecordError) as error:
        parse_receipt(label)
    assert message in str(error.value)


def test_a_chosen_response_other_than_a_or_b_is_an_error(judged):
    pair, judgment = judged
    label = preference(pair, judgment)
    wrong = json.dumps({**json.loads(label.receipt), "chosen": "C"})
    with pytest.raises(RecordError, match=r"'q0': .*chosen"):
        parse_receipt(label.model_copy(update={"receipt": wrong}))


def test_labels_on_disk_carry_readable_receipts(tmp_path):
    for label in read_preferences(labeled(tmp_path, 3)):
        found = parse_receipt(label)
        assert isinstance(comparison(label, found), Comparison)
        assert [vote.principle_id for vote in found.votes] == ["p0", "p1", "p2"]
