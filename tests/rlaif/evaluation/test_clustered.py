"""Clustered intervals against those of independent values, and by hand."""

from __future__ import annotations

import math
import random
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.evaluation.clustered import (
    clustered_line,
    clustered_mean,
    clustered_share,
    folds_by_prompt,
)
from rlaif.evaluation.intervals import mean_estimate, share_estimate, student_t

VALUES = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.5]


def test_clusters_of_one_value_give_the_intervals_of_independent_values() -> None:
    alone = list(range(len(VALUES)))
    binary = VALUES[:7]
    share = clustered_share(binary, alone[:7])
    assert astuple(share) == pytest.approx(astuple(share_estimate(binary)))
    mean, expected = clustered_mean(VALUES, alone), mean_estimate(VALUES)
    assert (mean.value, mean.low, mean.high) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )


def test_the_variance_of_two_clusters_by_hand() -> None:
    # m = 0.75; sums of deviations +0.5 and -0.5; variance 2/1 * (0.25 + 0.25) / 16 = 1/16.
    estimate = clustered_mean([1, 1, 1, 0], ["a", "a", "b", "b"])
    assert estimate.value == 0.75
    assert estimate.high == pytest.approx(0.75 + student_t(1) / 4)
    assert estimate.n == 2


def test_values_repeated_within_a_cluster_do_not_narrow_the_interval() -> None:
    draw = random.Random(1)
    values = [float(draw.random() < 0.7) for _ in range(60)]
    once = clustered_share(values, range(60))
    thrice = clustered_share([v for v in values for _ in range(3)],
                             [c for c in range(60) for _ in range(3)])  # fmt: skip
    assert thrice.value == once.value
    assert thrice.low == pytest.approx(once.low, abs=0.002)
    naive = clustered_share([v for v in values for _ in range(3)], range(180))
    assert naive.low is not None
    assert once.low is not None
    assert naive.low > once.low + 0.03


def test_weights_count_a_value_as_often_as_they_say() -> None:
    weighted = clustered_mean([1, 0, 0], ["a", "b", "c"], [2, 1, 1])
    repeated = clustered_mean([1, 1, 0, 0], ["a", "a", "b", "c"])
    assert astuple(weighted)[:1] == pytest.approx(astuple(repeated)[:1])
    assert weighted.n == repeated.n


def test_a_share_of_all_or_nothing_keeps_an_interval_of_its_clusters() -> None:
    assert clustered_share([1, 1, 1, 1], ["a", "a", "b", "b"]) == share_estimate([1, 1])
    assert clustered_share([0.5], ["a"]).n == 1
    assert clustered_mean([0.5, 0.7], ["a", "a"]).low is None


def test_the_line_is_that_of_least_squares_and_its_slope_covers_the_truth() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=200)
    y = 0.3 + 2 * x + draw.normal(size=200)
    line = clustered_line(list(x), list(y), list(range(200)))
    assert line is not None
    slope, intercept = np.polyfit(x, y, 1)
    assert (line.slope.value, line.intercept) == pytest.approx((slope, intercept))
    assert line.slope.low is not None
    assert line.slope.high is not None
    assert line.slope.low < 2 < line.slope.high
    # The classical standard error, for errors of equal variance.
    residuals = y - intercept - slope * x
    error = math.sqrt(residuals.var(ddof=2) / ((x - x.mean()) ** 2).sum())
    assert (line.slope.high - line.slope.low) / 2 == pytest.approx(1.97 * error, rel=0.15)


def test_a_line_needs_values_of_x_that_differ() -> None:
    assert clustered_line([1, 1], [0, 1], ["a", "b"]) is None
    line = clustered_line([0, 1], [0, 1], ["a", "b"])
    assert line is not None
    assert (line.slope.value, line.slope.low) == (1.0, None)


@given(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=60), st.integers(2, 6))
def test_no_prompt_is_in_two_folds(prompts: list[str], folds: int) -> None:
    fold_of = folds_by_prompt(prompts, folds, seed=3)
    assert len(set(zip(prompts, fold_of, strict=True))) == len(set(prompts))
    assert set(fold_of) <= set(range(folds))
    if len(set(prompts)) >= folds:
        assert len(set(fold_of)) == folds, "no fold is empty"
    assert fold_of == folds_by_prompt(prompts, folds, seed=3)


def test_folds_of_single_prompts_have_equal_size_and_depend_on_the_seed() -> None:
    prompts = [str(i) for i in range(50)]
    fold_of = folds_by_prompt(prompts, 5, seed=0)
    assert sorted(fold_of) == sorted(list(range(5)) * 10)
    assert fold_of != folds_by_prompt(prompts, 5, seed=1)


def test_folds_are_of_similar_size_where_prompts_are_not() -> None:
    folds = folds_by_prompt([f"p{n % 17}" for n in range(60)], 5, seed=3)
    sizes = [folds.count(fold) for fold in range(5)]
    assert max(sizes) - min(sizes) <= 4
