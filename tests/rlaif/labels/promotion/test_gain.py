"""The paired gain on held-back prompts: figures by hand, and noise that is not adopted."""

import math
import random

import pytest

from rlaif.labels.promotion.gain import (
    Judged,
    Metric,
    adopted,
    held_back_prompts,
    paired_gain,
    trial,
)


def judged(*qs: float) -> list[Judged]:
    return [Judged(f"g{i}", f"prompt {i}", q) for i, q in enumerate(qs)]


def test_the_split_is_by_prompt_seeded_and_half():
    prompts = [f"p{i % 40}" for i in range(100)]
    test = held_back_prompts(prompts, seed=0)
    assert len(test) == 20
    assert test == held_back_prompts(reversed(prompts), seed=0)
    assert test != held_back_prompts(prompts, seed=1)
    assert held_back_prompts(prompts, seed=0, share=1.0) == frozenset(prompts)


def test_the_interval_is_that_of_agresti_and_min_for_binary_outcomes():
    # 5 of 80 prompts won, none lost: mean 5/82, Σd² = 5 + 1 (two of ±√½), n = 82, t(79) = 1.9905.
    gain = paired_gain([1.0] * 5 + [0.0] * 75)
    center = 5 / 82
    half = 1.9905 * math.sqrt((6 - 25 / 82) / 81 / 82)
    assert gain.value == 5 / 80
    assert (gain.low, gain.high) == (pytest.approx(center - half, abs=1e-4),
                                     pytest.approx(center + half, abs=1e-4))  # fmt: skip
    assert gain.low is not None
    assert gain.low > 0
    four = paired_gain([1.0] * 4 + [0.0] * 76)
    assert four.low is not None
    assert four.low < 0


def test_more_candidates_widen_the_interval_and_no_gain_has_none():
    gains = [1.0] * 7 + [0.0] * 73
    one, ten = paired_gain(gains), paired_gain(gains, candidates=10)
    assert one.low is not None
    assert ten.low is not None
    assert one.low > 0 > ten.low
    same = paired_gain([0.0] * 50)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    assert paired_gain([1.0]).low is None


def test_accuracy_counts_ties_half_and_log_loss_is_in_nats():
    base, better = judged(0.4, 0.5, 0.6), judged(0.6, 0.5, 0.9)
    accuracy = trial("x", base, better, Metric.ACCURACY, tested=3, candidates=1)
    assert (accuracy.base, accuracy.candidate) == (0.5, pytest.approx(2.5 / 3))
    loss = trial("x", base, better, Metric.LOG_LOSS, tested=3, candidates=1)
    assert loss.candidate == pytest.approx(-math.log(0.6 * 0.5 * 0.9) / 3)
    assert loss.gain.value == pytest.approx(math.log(0.6 * 0.9 / (0.4 * 0.6)) / 3)


def test_pairs_of_one_prompt_count_once_and_unjudged_pairs_are_counted_apart():
    base = [Judged("a", "p", 0.4), Judged("b", "p", 0.4), Judged("c", "q", 0.4)]
    candidate = [Judged("a", "p", 0.6), Judged("b", "p", 0.4)]
    found = trial("x", base, candidate, Metric.ACCURACY, tested=4, candidates=1)
    assert (found.gain.value, found.gain.n, found.pairs, found.unjudged) == (0.5, 1, 2, 2)
    nothing = trial("x", base, [], Metric.ACCURACY, tested=4, candidates=1)
    assert not nothing.passed


def test_the_highest_gain_that_passed_is_adopted_and_too_few_prompts_never_pass():
    base = judged(*[0.4] * 40)
    half, most = judged(*[0.6] * 20, *[0.4] * 20), judged(*[0.6] * 30, *[0.4] * 10)
    trials = [
        trial(name, base, qs, Metric.ACCURACY, tested=40, candidates=3)
        for name, qs in (("half", half), ("most", most), ("same", base))
    ]
    best = adopted(trials)
    assert best is not None
    assert best.name == "most"
    assert adopted(trials[2:]) is None
    few = trial("all", base[:19], judged(*[0.6] * 19), Metric.ACCURACY, tested=19, candidates=1)
    assert few.gain.low is not None
    assert few.gain.low > 0
    assert adopted([few]) is None


@pytest.mark.parametrize("metric", Metric)
def test_noise_is_adopted_in_at_most_one_run_of_twenty(metric):
    """The full simulation, readers among the candidates, is benchmarks/judge/promotion_noise.py."""
    rng = random.Random(0)
    runs = 200
    count = 0
    for _ in range(runs):
        base, noise = ([rng.betavariate(3, 2) for _ in range(40)] for _ in range(2))
        found = trial("noise", judged(*base), judged(*noise), metric, tested=40, candidates=1)
        count += adopted([found]) is not None
    assert count <= 0.05 * runs
