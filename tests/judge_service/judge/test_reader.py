"""A fitted reader: its features by hand, exact symmetry, and its place beside the curves."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constitution.schema import Constitution, Message, Principle, Trait
from judge_service.judge.calibration import (
    Calibration,
    CalibrationError,
    Calibrations,
    Temperature,
    model_sha256,
    read_calibrations,
    write_calibration,
)
from judge_service.judge.judge import Judge
from judge_service.judge.prompts import TEMPLATE_VERSION
from judge_service.judge.reader import FittedReader, Lengths, features
from judge_service.types import (
    Comparison,
    Judgment,
    ModelIdentity,
    Order,
    PrincipleVote,
    Provenance,
    Read,
    Verdict,
)
from tests.support.fakes import FakeEngine, parse

MODEL = ModelIdentity("fake", "0" * 64, "1" * 64, "float32", "fake")


def read(order: Order, first: float, second: float) -> Read:
    mass = math.exp(first) + math.exp(second)
    return Read(order, first, second, 0.5, mass, 10, 0, "f" * 64)


def vote(ab: tuple[float, float], ba: tuple[float, float], id: str = "p0") -> PrincipleVote:
    """A vote whose reads have these log-probabilities of (first, second) by order."""
    reads = (read(Order.AB, *ab), read(Order.BA, *ba))
    return PrincipleVote(id, "helpful" if id == "p0" else "honest", 1.0, 0.5, 0.0, reads)


def swapped(one: PrincipleVote) -> PrincipleVote:
    """The vote of the same prompts with the names A and B exchanged."""
    other = {Order.AB: Order.BA, Order.BA: Order.AB}
    return replace(one, reads=tuple(replace(r, order=other[r.order]) for r in one.reads))


def test_the_features_are_those_of_the_equations() -> None:
    # d_AB = -0.5 + 1.5 = 1. In BA the first response is B: d_BA = -(-0.25 + 3.25) = -3.
    found = features([vote((-0.5, -1.5), (-0.25, -3.25))], Lengths(200, 100))
    assert found["length"] == pytest.approx(math.log(2))
    assert found["p0/log_odds"] == pytest.approx((1 - 3) / 2)
    assert found["p0/log_odds*gap"] == pytest.approx(-1 * math.tanh(4 / 2))
    masses = math.exp(-0.5) + math.exp(-1.5), math.exp(-0.25) + math.exp(-3.25)
    assert found["p0/mass"] == pytest.approx(math.log(masses[0] / masses[1]))


def test_the_probability_is_the_sigmoid_of_the_weighted_features() -> None:
    reader = FittedReader((("p0/log_odds", 2.0), ("length", -1.0), ("elsewhere/mass", 9.0)), 1.0)
    # log-odds ½ by both orders, lengths 3 : 1.
    one = vote((-1.0, -1.5), (-1.5, -1.0))
    odds = math.exp(2.0 * 0.5) / 3
    assert reader.prob_a([one], Lengths(300, 100)) == pytest.approx(odds / (1 + odds))
    assert reader.trait_probs([one], Lengths(300, 100)) == {
        "helpful": pytest.approx(odds / (1 + odds))
    }


logprob = st.floats(-30.0, -0.001)
pairs_of_logprobs = st.tuples(logprob, logprob)
weights = st.floats(-50.0, 50.0)


@given(
    st.lists(st.tuples(pairs_of_logprobs, pairs_of_logprobs), min_size=1, max_size=3),
    st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    st.data(),
)
def test_swapping_the_responses_gives_the_complement_to_the_last_bit(
    reads: list[tuple[tuple[float, float], tuple[float, float]]],
    characters: tuple[int, int],
    data: st.DataObject,
) -> None:
    votes = [vote(ab, ba, f"p{i}") for i, (ab, ba) in enumerate(reads)]
    names = features(votes, Lengths(*characters))
    reader = FittedReader(tuple((name, data.draw(weights)) for name in names), 1.0)
    prob = reader.prob_a(votes, Lengths(*characters))
    mirrored = reader.prob_a([swapped(v) for v in votes], Lengths(*reversed(characters)))
    assert prob + mirrored == 1.0
    assert 0.0 <= prob <= 1.0


def test_a_principle_without_reads_in_both_orders_adds_nothing() -> None:
    half = replace(vote((-1.0, -2.0), (-1.0, -2.0)), reads=(read(Order.AB, -1.0, -2.0),))
    assert features([half], Lengths(10, 10)) == {"length": 0.0}


# ── in a calibration file, and applied by the judge ──────────────────────────────────────────

CONSTITUTION = Constitution(
    name="test",
    version="1.0.0",
    traits={"helpful": Trait()},
    principles=(
        Principle(id="p0", trait="helpful", compare="Be helpful.", critique="c", revise="r"),
    ),
)
SHORTER = FittedReader((("length", -2.0), ("p0/log_odds", 0.1)), 3.0, "by hand")


def fitted(model: ModelIdentity = MODEL, digest: str = CONSTITUTION.digest) -> Calibration:
    return Calibration(
        "test", digest, model.name, model_sha256(model), TEMPLATE_VERSION, "pairwise", 40, SHORTER
    )


def test_a_reader_is_kept_in_the_file_of_calibrations_and_replaces_a_curve(tmp_path: Path) -> None:
    file = tmp_path / "test.calibration.json"
    write_calibration(file, replace(fitted(), curve=Temperature(2.0)))
    write_calibration(file, fitted())
    (found,) = read_calibrations(file)
    assert (found, found.kind, found.sha256) == (fitted(), "reader", fitted().sha256)
    for change, message in (
        ({"weights": [["length", 1.0], ["length", 2.0]]}, "named twice"),
        ({"weights": [["length", "much"]]}, "number"),
    ):
        entry = json.loads(file.read_text())[0]
        broken = tmp_path / "broken.json"
        broken.write_text(json.dumps([{**entry, "curve": {**entry["curve"], **change}}]))
        with pytest.raises(CalibrationError, match=message):
            read_calibrations(broken)


async def test_a_judge_with_a_reader_may_turn_the_verdict_and_names_it() -> None:
    def likes_the_longer(prompt: str) -> tuple[float, float]:
        first = 0.9 if len(parse(prompt).first) > 10 else 0.1
        return math.log(first), math.log(1 - first)

    engine = FakeEngine(likes_the_longer)
    calibration = fitted(engine.identity)
    judge, plain = Judge(engine, Calibrations([calibration])), Judge(engine)
    conversation = (Message(role="user", content="Boil an egg?"),)
    long, short = "Eggs are boiled in water, as is widely known.", "8 minutes."
    judged, mirrored, before = [
        await by.compare(Comparison("1", conversation, a, b), CONSTITUTION)
        for by, a, b in ((judge, long, short), (judge, short, long), (plain, long, short))
    ]
    assert isinstance(judged, Judgment)
    assert isinstance(mirrored, Judgment)
    assert isinstance(before, Judgment)
    assert (before.verdict, judged.verdict) == (Verdict.A, Verdict.B)
    assert judged.raw_prob_a == before.prob_a
    assert judged.provenance.reader == calibration.sha256
    assert judged.provenance.calibration == ""
    assert judged.prob_a + mirrored.prob_a == 1.0
    assert judged.trait_probs == {"helpful": judged.prob_a}


def test_a_reader_for_another_setup_says_what_differs() -> None:
    origin = Provenance(
        "test", "1.0.0", CONSTITUTION.digest, MODEL, TEMPLATE_VERSION, ("p0",), tuple(Order), 0
    )
    assert fitted().unfit_for(origin) == ""
    other = fitted(digest="c" * 64).unfit_for(origin)
    assert other == f"constitution test cccccccccccc, not test {CONSTITUTION.digest[:12]}"
    both = fitted(replace(MODEL, name="m", dtype="float16")).unfit_for(
        replace(origin, protocol="pointwise")
    )
    assert "model m " in both
    assert both.endswith("protocol pairwise, not pointwise")
