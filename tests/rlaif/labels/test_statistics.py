"""What labels say of themselves is counted as a person would count it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constitution.schema import Message
from judge_service.types import Order, PrincipleVote, Provenance, Read, Verdict
from rlaif.data.datasets import read_preferences
from rlaif.data.records import Preference, RecordError
from rlaif.feedback.receipts import Receipt, parse_receipt
from rlaif.labels.statistics import decides, read_unjudged, stats
from tests.support.feedback.labeled import LAW, labeled
from tests.support.feedback.scripted_judge import MODEL


def vote(name: str, prob_a: float, weight: float = 1.0, trait: str = "helpful") -> PrincipleVote:
    reads = (
        Read(Order.AB, -1.0, -1.0, prob_a, 0.8, 10, 0, "0" * 64, stored=True),
        Read(Order.BA, -1.0, -1.0, 1 - prob_a, 0.6, 10, 0, "1" * 64),
    )
    return PrincipleVote(name, trait, weight, prob_a, 0.1, reads, void_reads=1)


def label(
    number: int, a: str, b: str, prob_a: float, votes: list[PrincipleVote], consistent: bool = True
) -> Preference:
    a_chosen = prob_a >= 0.5
    chosen, rejected = (a, b) if a_chosen else (b, a)
    from pydantic import TypeAdapter

    origin = Provenance("law", "1.0.0", "c" * 64, MODEL, "1", ("x",), (Order.AB, Order.BA), 0)
    found = Receipt(
        "A" if a_chosen else "B",
        origin,
        Verdict.TIE if prob_a == 0.5 else Verdict.A if a_chosen else Verdict.B,
        prob_a,
        prob_a,
        tuple(votes),
        0.2,
        consistent,
        0.0,
    )
    flat = TypeAdapter(Receipt).dump_python(found, mode="json")
    receipt = {**flat.pop("provenance"), **flat}
    return Preference(
        id=f"l{number}",
        prompt=(Message(role="user", content=f"question {number // 2}"),),
        chosen=(Message(role="assistant", content=chosen),),
        rejected=(Message(role="assistant", content=rejected),),
        prob_chosen=max(prob_a, 1 - prob_a),
        traits={"helpful": max(prob_a, 1 - prob_a), "honest": None},
        receipt=json.dumps(receipt),
    )


FOUR = [  # two pairs of each of two prompts
    label(0, "longer", "short", 0.8, [vote("x", 0.9), vote("y", 0.7)]),
    label(1, "longer", "short", 0.45, [vote("x", 0.2), vote("y", 0.7)], consistent=False),
    label(2, "tie", "tie", 0.5, [vote("x", 0.6), vote("y", 0.4)]),
    label(3, "a", "longer", 1.0, [vote("x", 1.0)]),
]


def test_counts_and_means_are_those_worked_by_hand():
    found = stats(FOUR, {}.get, {"too_long": 2})
    assert (found.labels, found.prompts, found.ties) == (4, 2, 1)
    assert found.chosen_a.value == 3 / 4
    assert found.mean_prob_chosen == pytest.approx((0.8 + 0.55 + 0.5 + 1.0) / 4)
    assert found.histogram == (1, 1, 0, 0, 0, 0, 1, 0, 0, 1)
    assert found.position_consistency == 3 / 4
    assert found.mean_order_gap == pytest.approx(0.2)
    assert found.mean_label_mass == pytest.approx(0.7)
    assert found.lowest_label_mass == 0.6
    assert (found.reads, found.stored_reads, found.void_reads) == (14, 7, 7)
    # by prompt: (1 + 0) / 2 and (½ + 0) / 2
    assert found.chosen_longer.value == pytest.approx((0.5 + 0.25) / 2)
    assert found.chosen_longer.n == 2
    assert found.traits == {"helpful": pytest.approx(0.7125)}
    assert found.constitutions == {"law 1.0.0 (cccccccccccc)": 4}
    assert found.unjudged == {"too_long": 2}


def test_a_principle_is_measured_where_it_has_a_vote():
    x, y = stats(FOUR, {}.get, {}).principles
    assert (x.principle_id, x.labels, y.labels) == ("x", 4, 3)
    assert x.mean_prob_a == pytest.approx((0.9 + 0.2 + 0.6 + 1.0) / 4)
    assert x.mean_prob_chosen == pytest.approx((0.9 + 0.8 + 0.6 + 1.0) / 4)
    assert x.agrees == 1.0
    assert y.agrees == 1 / 3
    # x: l1 and l2 turn without it, in l3 it is alone; y: l2 is A's by itself too
    assert (x.decides, y.decides) == (3 / 4, 0)


def test_the_weight_of_a_trait_counts_in_who_decides():
    votes = (vote("x", 0.9), vote("y", 0.3, trait="honest"))
    assert decides(votes, 0, {}) is True  # p = 0.6, without x 0.3
    assert decides(votes, 1, {}) is False
    assert decides(votes, 0, {"honest": 3.0}) is False  # p = 0.45
    assert decides(votes, 1, {"honest": 3.0}) is True


@given(st.lists(st.floats(0.51, 1.0), min_size=2, max_size=5))
def test_no_principle_decides_where_all_agree(probs):
    votes = tuple(vote(f"v{n}", p) for n, p in enumerate(probs))
    assert not any(decides(votes, n, {}) for n in range(len(votes)))


def test_an_empty_file_is_told():
    with pytest.raises(RecordError, match="no labels"):
        stats([], {}.get, {})


def test_labels_of_the_real_judge_add_up(tmp_path):
    file = labeled(tmp_path)
    labels = read_preferences(file)
    found = stats(labels, {LAW.digest: LAW.trait_weights}.get, read_unjudged(file))
    assert found.labels == sum(found.histogram) == 12
    assert found.reads == 12 * 3 * 2
    assert found.unjudged == {"empty_response": 1}
    assert found.mean_prob_chosen == pytest.approx(
        sum(max(p := parse_receipt(one).prob_a, 1 - p) for one in labels) / 12
    )


def test_a_broken_line_of_the_unjudged_is_named(tmp_path):
    (tmp_path / "unjudged.jsonl").write_text('{"reason": "too_long"}\n{"reas\n')
    with pytest.raises(RecordError, match=r"unjudged\.jsonl:2: not an unjudged pair"):
        read_unjudged(tmp_path / "preferences.parquet")
