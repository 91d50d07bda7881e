"""Reward-model metrics against numbers worked by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constitution.errors import UserError
from constitution.schema import Message
from rlaif.data.records import Preference
from rlaif.evaluation.reward_models import (
    PairScores,
    RewardEvaluation,
    compare_nll,
    evaluate_reward,
    expected_calibration_error,
    reliability,
    soft_nll,
    spearman,
)


def pair(
    prompt: str,
    chosen: str,
    rejected: str,
    prob: float,
    traits: dict[str, float | None] | None = None,
) -> Preference:
    return Preference(
        id=prompt,
        prompt=(Message(role="user", content=prompt),),
        chosen=(Message(role="assistant", content=chosen),),
        rejected=(Message(role="assistant", content=rejected),),
        prob_chosen=prob,
        traits=traits or {},
    )


PAIRS = [
    pair("p", "long answer", "short", 0.9),
    pair("q", "brief", "a longer one", 0.8),
    pair("r", "same", "same", 0.5),
]


def test_accuracy_ignores_labels_of_one_half_and_counts_equal_scores_half():
    evaluation = evaluate_reward(PAIRS, [1.0, 0.0, 5.0], [0.0, 0.0, 0.0])
    assert evaluation.accuracy.value == (1 + 0.5) / 2
    assert evaluation.accuracy.n == 2


def test_the_length_floor_is_the_accuracy_of_picking_the_longer():
    assert evaluate_reward(PAIRS, [0.0] * 3, [0.0] * 3).length_floor.value == 0.5


def test_a_model_of_constant_scores_has_nll_log_2():
    assert soft_nll([0.0, 0.0], [0.9, 0.6]) == pytest.approx(math.log(2))


def test_nll_matches_a_number_worked_by_hand():
    # gap log 3: q = 3/4; -(0.9 log .75 + 0.1 log .25)
    expected = -(0.9 * math.log(0.75) + 0.1 * math.log(0.25))
    assert soft_nll([math.log(3)], [0.9]) == pytest.approx(expected)


@given(st.lists(st.tuples(st.floats(-800, 800), st.floats(0, 1)), min_size=1, max_size=20))
def test_nll_is_finite_and_never_below_the_labels_entropy(rows):
    gaps, labels = zip(*rows, strict=True)
    entropy = [-sum(x * math.log(x) for x in (p, 1 - p) if x > 0) for p in labels]
    assert math.isfinite(soft_nll(gaps, labels))
    assert soft_nll(gaps, labels) >= sum(entropy) / len(entropy) - 1e-9


def test_a_model_whose_probabilities_are_the_labels_is_calibrated():
    labels = [0.55, 0.7, 0.93, 0.2]
    gaps = [math.log(p / (1 - p)) for p in labels]
    assert expected_calibration_error(reliability(gaps, labels)) == pytest.approx(0, abs=1e-12)


def test_ece_matches_a_number_worked_by_hand():
    # two pairs at confidence 3/4 (one on the wrong side), agreement .9 and .1: mean .5; gap .25
    gaps = [math.log(3), -math.log(3)]
    bins = reliability(gaps, [0.9, 0.9])
    assert [(b.confidence, b.agreement, b.pairs) for b in bins] == [
        (pytest.approx(0.75), pytest.approx(0.5), 2)
    ]
    assert expected_calibration_error(bins) == pytest.approx(0.25)


def test_spearman_follows_ranks_with_ties_by_mean_rank():
    assert spearman([1, 2, 3], [10, 100, 1000]) == pytest.approx(1.0)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    # ranks 0, 1.5, 1.5, 3 against 0, 1, 2, 3: 4.5 / sqrt(4.5 * 5)
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(math.sqrt(0.9))
    assert spearman([1, 1], [1, 2]) is None


def test_missing_labels_and_nan_scores_are_errors():
    with pytest.raises(UserError, match="no held-out labels"):
        evaluate_reward([], [], [])
    with pytest.raises(UserError, match=r"pair 'p'.*nan"):
        evaluate_reward(PAIRS, [math.nan, 0.0, 0.0], [0.0] * 3)


def test_an_evaluation_survives_saving_and_loading(tmp_path):
    evaluation = evaluate_reward(PAIRS, [1.0, 2.0, 3.0], [0.5, 0.1, 4.0])
    evaluation.save(tmp_path / "evaluation.json")
    assert RewardEvaluation.load(tmp_path / "evaluation.json") == evaluation


def test_a_traits_metrics_use_its_own_labels_and_only_the_pairs_that_have_one():
    pairs = [
        pair("p", "long answer", "short", 0.9, {"kind": 0.2, "safe": None}),
        pair("q", "brief", "a longer one", 0.8, {"kind": None, "safe": None}),
        pair("r", "a", "bb", 0.7, {"kind": 0.75, "safe": None}),
    ]
    scores = PairScores([math.log(3), 9.0, 0.0], [0.0, 0.0, 0.0])
    evaluation = evaluate_reward(pairs, [1.0] * 3, [0.0] * 3, {"kind": scores, "safe": scores})
    assert evaluation.traits.keys() == {"kind"}  # no held-out label for safe: no metrics
    kind = evaluation.traits["kind"]
    assert kind.pairs == 2
    # Δ = log 3 against p = 0.2: the wrong side; Δ = 0: half a point
    assert kind.accuracy.value == 0.25
    # q = 3/4 and 1/2
    nll = -(0.2 * math.log(0.75) + 0.8 * math.log(0.25)), math.log(2)
    assert kind.nll == pytest.approx(sum(nll) / 2)
    # confidences 3/4 and 1/2, agreements 0.2 and 0.75, a bin each
    assert kind.ece == pytest.approx((0.55 + 0.25) / 2)
    # the longer is chosen in p (label says rejected), rejected in r (label says chosen)
    assert kind.length_floor.value == 0.0
    # lengths 11, 1, 5, 2 and scores log 3, 0, 0, 0
    assert kind.length_correlation == pytest.approx(math.sqrt(0.6))


def test_the_better_model_has_the_lower_nll_with_an_interval_of_the_difference():
    pairs = [pair(f"p{i}", "yes", "no", 0.9) for i in range(20)]
    right = [math.log(9) + 0.01 * (i % 3) for i in range(20)]
    trained = evaluate_reward(pairs, right, [0.0] * 20)
    constant = evaluate_reward(pairs, [0.0] * 20, [0.0] * 20)
    comparison = compare_nll(trained, constant)
    assert (comparison.nll, comparison.other_nll) == (trained.nll, pytest.approx(math.log(2)))
    assert comparison.difference.value == pytest.approx(trained.nll - math.log(2))
    assert comparison.difference.low < comparison.difference.value < comparison.difference.high < 0
    assert comparison.difference.n == 20
    swapped = compare_nll(constant, trained)
    assert swapped.difference.value == pytest.approx(-comparison.difference.value)


def test_pairs_of_one_prompt_count_once_in_the_interval_of_a_comparison():
    pairs = [pair("p", "a", "b", 0.9), pair("p", "c", "d", 0.9), pair("q", "e", "f", 0.9)]
    one = evaluate_reward(pairs, [1.0, 1.0, 0.0], [0.0] * 3)
    other = evaluate_reward(pairs, [0.0] * 3, [0.0] * 3)
    assert compare_nll(one, other).difference.n == 2


def test_evaluations_on_different_labels_are_not_compared():
    one = evaluate_reward(PAIRS, [0.0] * 3, [0.0] * 3)
    fewer = evaluate_reward(PAIRS[:2], [0.0] * 2, [0.0] * 2)
    relabeled = [p.model_copy(update={"prob_chosen": 0.6}) for p in PAIRS]
    other = evaluate_reward(relabeled, [0.0] * 3, [0.0] * 3)
    for mismatched in (fewer, other):
        with pytest.raises(UserError, match="not of the same labels; train both"):
            compare_nll(one, mismatched)


def test_an_evaluation_with_traits_survives_saving_and_loading(tmp_path):
    pairs = [pair("p", "long answer", "short", 0.9, {"kind": 0.2})]
    evaluation = evaluate_reward(pairs, [1.0], [0.5], {"kind": PairScores([1.0], [0.5])})
    evaluation.save(tmp_path / "evaluation.json")
    assert RewardEvaluation.load(tmp_path / "evaluation.json") == evaluation


def test_a_missing_or_invalid_file_is_named(tmp_path):
    path = tmp_path / "evaluation.json"
    with pytest.raises(UserError, match=r"evaluation.json: not an evaluation of a reward model"):
        RewardEvaluation.load(path)
    path.write_text('{"pairs": "many"}')
    with pytest.raises(UserError, match=r"evaluation.json: not an evaluation of a reward model"):
        RewardEvaluation.load(path)
