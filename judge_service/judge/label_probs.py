"""Label log-probabilities of one read, turned into a probability and a label mass. Pure.

    prob_first = softmax(l_first, l_second)[0] = 1 / (1 + exp(l_second - l_first))
    label_mass = sum over the labels of exp(l)

The l (nats) come from the full-vocabulary softmax, before any mask. The mass is the probability
that the judge answers with a label at all; below the caller's minimum the read is void.

Protocols, from a principle's reads to P(response A is better):

    pairwise    both responses in one prompt, labels "A" and "B", once in each order
                P(A) = mean over the orders of P(the label that names A)
    pointwise   one response in a prompt, labels "Yes" and "No"; order AB holds response A
                P(A) = sigmoid(m_A - m_B)          m = l_yes - l_no of the response

Rating of one response (arXiv 2309.00267, section 2.2.3), labels "1" ... "9":

    P(i) = softmax(l)_i        score = (E[i] - 5) / 4, in [-1, 1]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from judge_service.engine import LabelLogprobs
from judge_service.types import Order, Read

_MASS_ROUNDING = 1e-3
"""Rounding (bfloat16 logits) may lift the mass above 1 by this much; more is an engine fault."""


def prob_first(logprob_first: float, logprob_second: float) -> float:
    """P(first label), normalized over the two labels. Both log-probabilities must be finite.

    >>> prob_first(-1.0, -1.0)
    0.5
    """
    margin = logprob_first - logprob_second
    if margin >= 0:
        return 1.0 / (1.0 + math.exp(-margin))
    return math.exp(margin) / (1.0 + math.exp(margin))


def label_mass(logprobs: Sequence[float]) -> float:
    """Total probability of the labels, in [0, 1]."""
    return min(1.0, math.fsum(map(math.exp, logprobs)))


def is_usable(logprobs: Sequence[float]) -> bool:
    """Whether log-probabilities are finite and sum to a probability of at most 1.

    NaN is a numerical fault; -inf means that the engine did not score the label.
    """
    if not all(map(math.isfinite, logprobs)) or max(logprobs) > _MASS_ROUNDING:
        return False
    return math.fsum(map(math.exp, logprobs)) <= 1.0 + _MASS_ROUNDING


def interpret(
    answer: LabelLogprobs, order: Order, prompt_sha256: str, rationale: str = ""
) -> Read | None:
    """The read of one engine answer (two labels), or None when it holds no usable number."""
    if not is_usable(answer.logprobs):
        return None
    first, second = answer.logprobs
    return Read(
        order=order,
        logprob_first=first,
        logprob_second=second,
        prob_first=prob_first(first, second),
        label_mass=label_mass(answer.logprobs),
        prompt_tokens=answer.prompt_tokens,
        cached_tokens=answer.cached_tokens,
        prompt_sha256=prompt_sha256,
        stored=answer.stored,
        rationale=rationale,
    )


@dataclass(frozen=True, slots=True)
class Rating:
    """The judge's rating of one response: P(rating i), lowest first, and its expectation."""

    probs: tuple[float, ...]
    score: float  # in [-1, 1]
    label_mass: float


def rate(logprobs: Sequence[float]) -> Rating | None:
    """The expected rating over equally spaced ratings; None when a number is unusable.

    >>> rate([math.log(0.5), math.log(0.25), math.log(0.25)]).score
    -0.25
    """
    if not is_usable(logprobs):
        return None
    highest = max(logprobs)
    weights = [math.exp(logprob - highest) for logprob in logprobs]
    total = math.fsum(weights)
    probs = tuple(weight / total for weight in weights)
    middle = (len(probs) - 1) / 2
    expected = math.fsum(i * prob for i, prob in enumerate(probs))
    return Rating(probs, (expected - middle) / middle, label_mass(logprobs))


def prob_a(read: Read) -> float:
    """P(response A is better) by one pairwise read, whichever response was shown first."""
    return read.prob_first if read.order is Order.AB else 1.0 - read.prob_first


def _pairwise(reads: Sequence[Read]) -> float:
    orders = dict.fromkeys(read.order for read in reads)
    return fmean(fmean(prob_a(r) for r in reads if r.order is order) for order in orders)


def _pointwise(reads: Sequence[Read]) -> float | None:
    margins = {
        order: fmean(r.logprob_first - r.logprob_second for r in reads if r.order is order)
        for order in {read.order for read in reads}
    }
    return prob_first(margins[Order.AB], margins[Order.BA]) if len(margins) == 2 else None


Combine = Callable[[Sequence[Read]], float | None]
"""A principle's valid reads (at least one) -> P(response A is better); None when some lack."""

PROTOCOLS: Mapping[str, Combine] = {"pairwise": _pairwise, "pointwise": _pointwise}
DEFAULT_PROTOCOL = "pairwise"
