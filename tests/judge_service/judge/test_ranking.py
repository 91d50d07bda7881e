"""Bradley-Terry ranking: recovery of known strengths, ties, and unconnected candidates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from judge_service.judge.ranking import design_pairs, fit_strengths, rank_candidates


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def outcomes_of(strengths: list[float], seed: int = 0) -> list[tuple[int, int, float]]:
    pairs = design_pairs(len(strengths), seed)
    return [(i, j, sigmoid(strengths[i] - strengths[j])) for i, j in pairs]


@pytest.mark.parametrize("candidates", [2, 5, 8, 9, 16, 33])
def test_known_strengths_are_recovered(candidates: int) -> None:
    known = np.linspace(-1.5, 1.5, candidates)
    np.random.default_rng(0).shuffle(known)
    strengths, errors = fit_strengths(candidates, outcomes_of(list(known)))
    assert strengths == pytest.approx(known, abs=0.02)
    assert strengths.sum() == pytest.approx(0, abs=1e-9)
    assert (errors > 0).all()


def test_two_candidates_by_hand() -> None:
    strengths, errors = fit_strengths(2, [(0, 1, sigmoid(1.0))])
    # s0 - s1 = 1 but for the prior; information of the difference is p (1 - p) = 0.19661,
    # each strength is half the difference: standard error 0.5 / sqrt(0.19661) = 1.1276
    assert strengths == pytest.approx([0.4987, -0.4987], abs=1e-3)
    assert errors == pytest.approx([1.1276, 1.1276], abs=5e-3)


def test_standard_errors_match_the_spread_of_simulated_tournaments() -> None:
    rng = np.random.default_rng(1)
    known = [0.8, 0.1, -0.2, -0.7]
    fits = []
    for _ in range(300):  # 50 games a pair
        games = [
            (i, j, float(rng.random() < p)) for i, j, p in outcomes_of(known) for _ in range(50)
        ]
        fits.append(fit_strengths(4, games))
    spread = np.std([strengths for strengths, _ in fits], axis=0)
    reported = np.mean([errors for _, errors in fits], axis=0)
    assert reported == pytest.approx(spread, rel=0.15)


def test_a_candidate_that_wins_everything_stays_finite() -> None:
    ranked = rank_candidates(3, [(0, 1, 1.0), (0, 2, 1.0), (1, 2, 1.0)])
    assert [c.index for c in ranked] == [0, 1, 2]
    assert all(math.isfinite(c.strength) and math.isfinite(c.standard_error) for c in ranked)


def test_equal_strengths_share_a_rank() -> None:
    ranked = rank_candidates(3, [(0, 1, 0.5), (0, 2, 0.8), (1, 2, 0.8)])
    assert [(c.index, c.rank) for c in ranked] == [(0, 1), (1, 1), (2, 3)]


def test_a_candidate_without_an_outcome_is_not_ranked() -> None:
    ranked = rank_candidates(3, [(0, 2, 0.3)])
    assert [c.index for c in ranked] == [2, 0]
    assert rank_candidates(3, []) == ()


def test_of_unconnected_groups_the_larger_is_ranked() -> None:
    ranked = rank_candidates(5, [(0, 1, 0.9), (2, 3, 0.6), (3, 4, 0.6)])
    assert [c.index for c in ranked] == [2, 3, 4]


def test_up_to_eight_candidates_meet_all_others() -> None:
    assert len(design_pairs(8, 0)) == 28


@pytest.mark.parametrize("candidates", [9, 10, 16, 17, 64])
def test_the_sparse_design_is_connected_and_each_meets_enough(candidates: int) -> None:
    pairs = design_pairs(candidates, 3)
    assert len(set(pairs)) == len(pairs)
    assert all(i < j for i, j in pairs)
    meets = [sum(c in pair for pair in pairs) for c in range(candidates)]
    assert min(meets) >= math.ceil(math.log2(candidates)) + 1
    assert len(rank_candidates(candidates, [(i, j, 0.5) for i, j in pairs])) == candidates
    assert pairs == design_pairs(candidates, 3)
    assert pairs != design_pairs(candidates, 4)
    if candidates > 10:
        assert len(pairs) < candidates * (candidates - 1) / 2
