"""PPI++ against figures of ppi-python, the equations in numpy, and its promise with a biased judge.

ppi-python is not part of the test environment: with its dependencies it takes 450 MB. Its figures:

    pip install ppi-python==0.2.3
    python -c "import numpy as np; from ppi_py import ppi_mean_ci, ppi_mean_pointestimate as mean
    Y = np.array([1,0,1,1,.5,0,1,0,1,0]); f = np.array([1,0,1,1,1,.5,1,1,1,0])
    F = np.array([1,1,0,1,.5,1,0,1,1,1,0,1,1,.5,1,0,1,1,1,0])
    print(mean(Y, f, F), ppi_mean_ci(Y, f, F, alpha=0.05))"
"""

import math
import random

import numpy as np
import pytest

from rlaif.data.records import HumanVerdict, RecordError
from rlaif.evaluation.comparison import ResponseComparison
from rlaif.evaluation.human_verdicts import (
    human_win_rates,
    prediction_powered_mean,
    require_known,
)
from rlaif.evaluation.intervals import share_estimate, student_t
from tests.rlaif.evaluation.test_policies import sample

HUMAN = [1, 0, 1, 1, 0.5, 0, 1, 0, 1, 0]
JUDGE = [1, 0, 1, 1, 1, 0.5, 1, 1, 1, 0]
JUDGE_ONLY = [1, 1, 0, 1, 0.5, 1, 0, 1, 1, 1, 0, 1, 1, 0.5, 1, 0, 1, 1, 1, 0]


def test_the_value_is_that_of_ppi_python():
    estimate, weight = prediction_powered_mean(HUMAN, JUDGE, JUDGE_ONLY)
    assert estimate.value == pytest.approx(0.525117, abs=1e-6)
    assert 0 < weight < 1


def test_the_interval_is_that_of_ppi_python_but_for_small_samples():
    estimate, weight = prediction_powered_mean(HUMAN, JUDGE, JUDGE_ONLY)
    others, rectified = weight * np.array(JUDGE_ONLY), np.array(HUMAN) - weight * np.array(JUDGE)

    # ppi-python: normal quantile, variances divided by n
    plain = math.sqrt(others.var() / 20 + rectified.var() / 10)
    assert estimate.value - 1.959964 * plain == pytest.approx(0.28603498, abs=1e-6)
    # ours: Student's t, and two contradictions in the variance of the 10
    more = np.append(rectified, [-weight, 1.0])
    half = student_t(9) * math.sqrt(others.var(ddof=1) / 20 + more.var(ddof=1) / 10)
    assert estimate.low == pytest.approx(estimate.value - half)
    assert estimate.high == pytest.approx(estimate.value + half)


def test_a_judge_that_says_nothing_leaves_the_human_mean():
    estimate, weight = prediction_powered_mean(HUMAN, [1.0] * 10, [1.0] * 20)
    assert weight == 0
    assert estimate.value == pytest.approx(0.55)


def test_a_judge_that_says_the_opposite_is_not_used():
    _, weight = prediction_powered_mean(HUMAN, [1 - y for y in HUMAN], JUDGE_ONLY)
    assert weight == 0


def test_verdicts_on_all_prompts_need_no_judge():
    estimate, weight = prediction_powered_mean(HUMAN, JUDGE, [])
    assert (estimate.value, weight) == (pytest.approx(0.55), 0)


def test_a_judge_without_an_error_so_far_is_not_taken_to_be_exact():
    human = [1.0, 0.0] * 5
    estimate, weight = prediction_powered_mean(human, human, [1.0, 0.0] * 500)
    assert weight > 0.9
    assert estimate.high - estimate.low > 0.3


def test_people_who_always_agree_get_wilsons_interval_and_not_a_width_of_0():
    estimate, _ = prediction_powered_mean([1.0] * 8, [1.0] * 8, JUDGE_ONLY)
    assert estimate == share_estimate([1.0] * 8)
    assert estimate.low < 0.7


def test_one_verdict_gets_wilsons_interval():
    assert prediction_powered_mean([1.0], [1.0], JUDGE_ONLY)[0] == share_estimate([1.0])


def test_no_verdict_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        prediction_powered_mean([], [], JUDGE_ONLY)


def simulated(rng, accuracy, truth=0.55, humans=60, judged=400):
    """Human outcomes, and those of a judge that is right with `accuracy` and else says 'better'."""
    outcomes = [float(rng.random() < truth) for _ in range(judged)]
    said = [y if rng.random() < accuracy else 1.0 for y in outcomes]
    return outcomes[:humans], said[:humans], said[humans:]


def test_the_truth_is_covered_with_a_biased_judge_whose_own_interval_misses_it():
    rng = random.Random(3)
    runs = [simulated(rng, 0.7) for _ in range(300)]
    ppi = [prediction_powered_mean(*run)[0] for run in runs]
    raw = [share_estimate([*judge, *others]) for _, judge, others in runs]
    assert sum(e.low <= 0.55 <= e.high for e in ppi) >= 0.93 * 300
    assert sum(e.low <= 0.55 <= e.high for e in raw) <= 0.3 * 300


def test_a_good_judge_makes_the_interval_narrower_than_human_verdicts_alone():
    run = simulated(random.Random(5), 0.95)
    estimate, _ = prediction_powered_mean(*run)
    alone = share_estimate(run[0])
    assert estimate.high - estimate.low < 0.75 * (alone.high - alone.low)


# ── verdicts on policies ─────────────────────────────────────────────────────────────────────


def compared(*probs, index=0):
    return [ResponseComparison(f"p{i}", index, f"text {i}", p) for i, p in enumerate(probs)]


def verdict(prompt, said, index=0, **more):
    return HumanVerdict(policy="dpo", prompt=prompt, index=index, verdict=said, **more)


def test_verdicts_are_paired_with_the_judges_by_prompt():
    # people: 1, 0, ½; the judge on the same: 1, 1, 0; on the others 1, 1, 0
    said = [verdict("p0", "better"), verdict("p1", "worse"), verdict("p2", "tie")]
    comparisons = compared(0.9, 0.8, 0.3, 0.7, 0.6, 0.4, None)
    rate = human_win_rates(said, {"dpo": comparisons, "ppo": comparisons})["dpo"]
    expected, weight = prediction_powered_mean([1, 0, 0.5], [1, 1, 0], [1, 1, 0])
    assert (rate.corrected, rate.judge_weight) == (expected, weight)
    assert (rate.human, rate.judge_only) == (share_estimate([1, 0, 0.5]), 3)
    assert rate.agreement == pytest.approx(1 / 3)


def test_a_policy_without_verdicts_has_no_rate():
    assert human_win_rates([verdict("p0", "tie")], {"ppo": compared(0.9)}) == {}


def test_several_people_on_one_pair_are_averaged():
    said = [verdict("p0", v, annotator=a) for a, v in (("a", "better"), ("b", "tie"))]
    assert human_win_rates(said, {"dpo": compared(0.9, 0.1)})["dpo"].human.value == 0.75


def test_responses_to_one_prompt_count_once_and_the_judge_is_compared_on_those_seen():
    comparisons = compared(0.9, 0.9) + compared(0.1, 0.9, index=1)
    rate = human_win_rates([verdict("p0", "better", index=1)], {"dpo": comparisons})["dpo"]
    assert (rate.human.n, rate.judge_only, rate.agreement) == (1, 1, 0.0)


def test_pairs_that_the_judge_did_not_judge_leave_the_human_rate():
    rate = human_win_rates([verdict("p0", "worse")], {"dpo": compared(None, 0.9)})["dpo"]
    assert (rate.corrected, rate.agreement) == (share_estimate([0.0]), None)


SAMPLES = {"dpo": [sample("p0", "text 0")]}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (HumanVerdict(policy="ppo", prompt="p0", verdict="tie"), "unknown policy; expected dpo"),
        (verdict("p9", "tie"), "no prompt of its samples has this id .the first one's is 'p0'."),
        (verdict("p0", "tie", index=1), "has no response 1 to it"),
        (verdict("p0", "tie", response="other"), "another response than the evaluated one"),
    ],
)
def test_a_verdict_on_what_is_not_evaluated_is_named(given, message):
    with pytest.raises(RecordError, match=message):
        require_known([given], SAMPLES)


def test_a_verdict_with_the_text_that_is_evaluated_passes():
    require_known([verdict("p0", "tie", response="text 0"), verdict("p0", "worse")], SAMPLES)
