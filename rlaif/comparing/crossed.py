"""Intervals of means over seeds and prompts, both of which are a sample.

x (S, P): one value for every seed s of a method and prompt p, on the same prompts for all seeds;
m the mean of all, m_s of seed s, m_p of prompt p.

    V_s = Σ_s (m_s - m)² / (S(S-1))            bootstrap by seed: S - 1 of them drawn
    V_p = Σ_p (m_p - m)² / (P(P-1))            bootstrap by prompt: P - 1 of them drawn
    V_e = Σ (x - m_s - m_p + m)² / ((S-1)(P-1)·S·P)
    V   = max(V_s + V_p - V_e, V_s, V_p)
    d   = V² / (V_s²/(S-1) + V_p²/(P-1))       degrees of freedom (Satterthwaite 1946)
    m ± t_d·√V

A mean's bootstrap variance has a closed form, so nothing is drawn (the ideal bootstrap: Efron and
Tibshirani 1993, section 6.2); drawing one less than there are makes it unbiased (Rao and Wu 1988).
Seeds and prompts are crossed, and either bootstrap counts the noise of the single values: V takes
it off once (two-way clustering: Cameron, Gelbach and Miller 2011; V_e by analysis of variance, as
their third term is off by a third with three seeds). With S = 3 a normal quantile or percentiles
would be far too narrow where seeds differ, hence t. In the simulations of test_crossed.py the
intervals hold the truth in 94 to 99 % of cases, with two seeds in 92 %. With one seed
V = V_p, and the interval says nothing about another seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from rlaif.evaluation.intervals import Z95, Estimate, student_t, wilson

Values = Sequence[Sequence[float]]


def crossed_mean(
    values: Values, low: float = -math.inf, high: float = math.inf, *, comparisons: int = 1
) -> Estimate:
    """Mean over seeds and prompts with its 95 % interval, clipped to [low, high].

    values (S, P), S and P at least 1. n is P; no bounds for one prompt. comparisons: as many
    intervals hold together at 95 % (Bonferroni).
    """
    x = np.array(values, dtype=float)
    mean, variance, degrees = _moments(x)
    if x.shape[1] < 2:
        return Estimate(mean, None, None, 1)
    half = t_quantile(degrees, 1 - 0.025 / comparisons) * math.sqrt(variance)
    return Estimate(mean, max(low, mean - half), min(high, mean + half), x.shape[1])


def crossed_share(values: Values, *, comparisons: int = 1) -> Estimate:
    """The same of values in [0, 1], by Wilson's interval: it stays in [0, 1] and keeps its width
    where all values are equal.

    Its size is the number of independent values that would have the variance V and this quantile:
    n* = m(1-m)/V · (z/t_d)². Where m is 0 or 1, V says nothing, and n* is P.
    """
    x = np.array(values, dtype=float)
    mean, variance, degrees = _moments(x)
    prompts = x.shape[1]
    quantile = t_quantile(degrees, 1 - 0.025 / comparisons) if prompts > 1 else Z95
    effective = float(prompts)
    if variance > 0 and 0 < mean < 1:
        effective = min(mean * (1 - mean) / variance, float(x.size)) * (Z95 / quantile) ** 2
    elif comparisons > 1:
        effective *= (Z95 / t_quantile(10**6, 1 - 0.025 / comparisons)) ** 2
    return Estimate(mean, *wilson(mean, effective), n=prompts)


def over_seeds(
    estimates: Sequence[Estimate], low: float = -math.inf, high: float = math.inf
) -> Estimate:
    """The mean of one figure of S seeds, each with its interval over the same prompts:

        half² = mean(half_s)² + (t_{S-1}·d/√S)²    d the standard deviation between seeds

    clipped to [low, high]. On the safe side, since d has a part of the uncertainty over prompts in
    it, too. No bounds where a seed has none.
    """
    value, prompts = fmean(e.value for e in estimates), min(e.n for e in estimates)
    halves = [(e.high - e.low) / 2 for e in estimates if e.low is not None and e.high is not None]
    if len(halves) < len(estimates):
        return Estimate(value, None, None, prompts)
    between = 0.0
    if (seeds := len(estimates)) > 1:
        between = student_t(seeds - 1) * stdev(e.value for e in estimates) / math.sqrt(seeds)
    half = math.hypot(fmean(halves), between)
    return Estimate(value, max(low, value - half), min(high, value + half), prompts)


def _moments(x: NDArray[np.float64]) -> tuple[float, float, float]:
    """(m, V, d) of the module's equations."""
    seeds, prompts = x.shape
    mean = float(x.mean())
    by_seed, by_prompt = x.mean(axis=1), x.mean(axis=0)  # (S,), (P,)
    of_prompts = float(by_prompt.var(ddof=1)) / prompts if prompts > 1 else 0.0
    if seeds == 1:
        return mean, of_prompts, max(1.0, prompts - 1)
    of_seeds = float(by_seed.var(ddof=1)) / seeds
    if prompts == 1:
        return mean, of_seeds, seeds - 1
    rest = x - by_seed[:, None] - by_prompt + mean
    of_values = float((rest**2).sum()) / ((seeds - 1) * (prompts - 1) * x.size)
    total = max(of_seeds + of_prompts - of_values, of_seeds, of_prompts)
    spread = of_seeds**2 / (seeds - 1) + of_prompts**2 / (prompts - 1)
    return mean, total, total**2 / spread if spread > 0 else float(prompts - 1)


def t_quantile(degrees: float, prob: float) -> float:
    """The quantile of Student's t at `prob` over ½, exact for whole degrees of freedom, to which
    they are rounded down: Abramowitz and Stegun 26.7.3 and 26.7.4, solved by bisection."""
    return _t_quantile(max(1, math.floor(degrees)), prob)


@lru_cache(maxsize=1024)
def _t_quantile(whole: int, prob: float) -> float:
    if whole > 200:
        return student_t(whole, prob)
    low, high = 0.0, 1.0
    while _t_cdf(high, whole) < prob:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_cdf(middle, whole) < prob else (low, middle)
    return high


def _t_cdf(t: float, degrees: int) -> float:
    """P(T ≤ t) for t ≥ 0."""
    angle = math.atan(t / math.sqrt(degrees))
    square = math.cos(angle) ** 2
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range(1 + odd, degrees, 2):
        total += term
        term *= square * k / (k + 1)
    within = math.sin(angle) * total
    if odd:
        within = 2 / math.pi * (angle + within)
    return 0.5 + within / 2
