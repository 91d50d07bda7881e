"""Bradley-Terry strengths against choix, scikit-learn and scipy; errors against a simulation."""

import math
import random
from statistics import fmean, stdev

import choix
import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from rlaif.evaluation.intervals import student_t
from rlaif.evaluation.round_robin.bradley_terry import bradley_terry
from rlaif.evaluation.round_robin.strengths import SoftWin

NAMES = ("start", "sft", "dpo", "ppo")
TRUTH = (0.0, 0.5, 1.2, -0.4)


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def tournament(rng, prompts, hard=True, shared=0.0):
    """Every two policies on every prompt; shared: sd of what a prompt adds to each policy."""
    wins = []
    for p in range(prompts):
        theta = [t + rng.gauss(0, shared) for t in TRUTH]
        for i in range(len(NAMES)):
            for j in range(i + 1, len(NAMES)):
                q = sigmoid(theta[i] - theta[j])
                prob = float(rng.random() < q) if hard else min(1, max(0, q + rng.gauss(0, 0.1)))
                wins.append(SoftWin(f"p{p}", NAMES[i], NAMES[j], prob))
    return wins


def strengths(table):
    by_name = {row.name: row.strength.value for row in table.policies}
    return [by_name[name] for name in NAMES]


def test_two_policies_have_the_log_odds_of_the_wins():
    wins = [SoftWin(f"p{i}", "dpo", "start", float(i < 3)) for i in range(4)]
    first, second = bradley_terry(("start", "dpo"), wins).policies
    assert (first.name, second.name) == ("dpo", "start")
    assert first.strength.value == pytest.approx(math.log(3))
    assert first.wins_start.value == pytest.approx(0.75)
    assert (second.strength.value, second.strength.low) == (0.0, 0.0)


def test_the_error_of_two_policies_is_that_of_a_share_on_the_log_odds_scale():
    # se of a share with n - 1, over its derivative q(1 - q): √(q(1-q)/(n-1)) / (q(1-q))
    wins = [SoftWin(f"p{i}", "dpo", "start", float(i < 30)) for i in range(40)]
    row = bradley_terry(("start", "dpo"), wins).policies[0]
    expected = math.sqrt(0.75 * 0.25 / 39) / (0.75 * 0.25)
    assert row.strength.high - row.strength.value == pytest.approx(1.959964 * expected, rel=1e-5)


def test_wins_and_losses_give_the_strengths_of_choix():
    wins = tournament(random.Random(1), 40)
    place = {name: i for i, name in enumerate(NAMES)}
    ordered = [
        (place[w.one], place[w.other])[:: 1 if w.prob == 1 else -1] for w in wins
    ]  # (winner, loser)
    expected = choix.ilsr_pairwise(len(NAMES), ordered, alpha=0.0, tol=1e-10)
    assert strengths(bradley_terry(NAMES, wins)) == pytest.approx(
        list(expected - expected[0]), abs=1e-5
    )


def test_soft_wins_give_the_strengths_of_a_weighted_logistic_regression():
    wins = tournament(random.Random(2), 30, hard=False)
    rows = np.zeros((len(wins), len(NAMES)))
    for row, win in zip(rows, wins, strict=True):
        row[NAMES.index(win.one)], row[NAMES.index(win.other)] = 1, -1
    prob = np.array([win.prob for win in wins])
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000).fit(
        np.vstack([rows[:, 1:]] * 2),
        np.repeat([1, 0], len(wins)),
        sample_weight=np.concatenate([prob, 1 - prob]),
    )
    assert strengths(bradley_terry(NAMES, wins))[1:] == pytest.approx(
        list(model.coef_[0]), abs=1e-4
    )


def test_strengths_maximize_the_likelihood_where_prompts_have_several_responses():
    rng = random.Random(3)
    wins = tournament(rng, 10, hard=False)
    wins += [win for win in tournament(rng, 10, hard=False) if win.prompt in ("p0", "p1")]

    def loss(theta):
        full = [0.0, *theta]
        total = 0.0
        for win in wins:  # p0 and p1 have two comparisons of every two policies: half a weight each
            q = sigmoid(full[NAMES.index(win.one)] - full[NAMES.index(win.other)])
            weight = 0.5 if win.prompt in ("p0", "p1") else 1.0
            total -= weight * (win.prob * math.log(q) + (1 - win.prob) * math.log(1 - q))
        return total

    best = minimize(loss, [0.0] * 3, tol=1e-9)
    assert strengths(bradley_terry(NAMES, wins))[1:] == pytest.approx(list(best.x), abs=1e-4)


def test_errors_are_those_of_repeated_tournaments_whose_prompts_matter():
    """Outcomes on one prompt go together; errors that ignore it are too small."""
    rng = random.Random(5)
    tables = [bradley_terry(NAMES, tournament(rng, 60, shared=2.0)) for _ in range(150)]
    rows = [next(row for row in t.policies if row.name == "dpo") for t in tables]
    stated = fmean((r.strength.high - r.strength.low) / (2 * 1.959964) for r in rows)
    assert stated == pytest.approx(stdev(r.strength.value for r in rows), rel=0.2)


@pytest.mark.parametrize(
    ("prob", "words"), [(1.0, "dpo always won against"), (0.0, "dpo always lost against")]
)
def test_a_policy_that_won_or_lost_all_has_no_strength_and_words_say_so(prob, words):
    wins = [
        SoftWin(f"p{i}", *pair)
        for i in range(4)
        for pair in (("dpo", "start", prob), ("dpo", "sft", prob), ("sft", "start", 0.6))
    ]
    table = bradley_terry(("start", "sft", "dpo"), wins)
    assert table.policies == ()
    assert words in table.infinite


def test_a_policy_that_was_never_compared_is_named():
    wins = [SoftWin("p", "dpo", "start", 0.6)]
    assert "sft" in bradley_terry(("start", "sft", "dpo"), wins).infinite


def test_one_prompt_gives_strengths_without_intervals():
    row = bradley_terry(("start", "dpo"), [SoftWin("p", "dpo", "start", 0.6)]).policies[0]
    assert row.strength.value == pytest.approx(math.log(1.5))
    assert (row.strength.low, row.wins_start.high) == (None, None)


def test_seeds_of_one_method_have_a_mean_that_shows_how_much_they_differ():
    names = ("start", "dpo@1", "dpo@2", "ppo")
    rates = {"dpo@1": 0.8, "dpo@2": 0.6, "ppo": 0.7}
    wins = [
        SoftWin(f"p{i}", name, "start", 0.9 * rate + 0.2 * (i % 2) * rate * (1 - rate))
        for i in range(50)
        for name, rate in rates.items()
    ]
    table = bradley_terry(names, wins)
    (arm,) = table.arms
    seeds = [row.strength for row in table.policies if row.name.startswith("dpo")]
    assert (arm.name, arm.seeds) == ("dpo", 2)
    assert arm.strength.value == pytest.approx(fmean(seed.value for seed in seeds))
    between = student_t(1) * stdev(seed.value for seed in seeds) / math.sqrt(2)
    assert arm.strength.high - arm.strength.value > between


def test_swapping_the_sides_of_a_comparison_changes_nothing():
    wins = tournament(random.Random(6), 20, hard=False)
    swapped = [SoftWin(w.prompt, w.other, w.one, 1 - w.prob) for w in wins]
    one, other = bradley_terry(NAMES, wins), bradley_terry(NAMES, swapped)
    assert strengths(one) == pytest.approx(strengths(other))


def test_equally_strong_policies_stay_in_the_order_that_they_were_given_in():
    # Everyone beats the next one as often as it loses to it: all strengths are 0 up to rounding.
    names = ("start", "d", "c", "b", "a")
    wins = [
        SoftWin(f"p{i}", one, other, prob)
        for i in range(3)
        for one, other in zip(names, names[1:] + names[:1], strict=True)
        for prob in (0.9, 0.1)
    ]
    assert tuple(row.name for row in bradley_terry(names, wins).policies) == names
