"""One reading: the log-probabilities of labels become a probability and a label mass. Pure.

    prob_first = softmax(l_first, l_second)[0] = 1 / (1 + exp(l_second - l_first))
    label_mass = sum over the labels of exp(l)

The l (nats) are of the full-vocabulary softmax, before any mask. The mass says how much the judge
wanted to give a label at all; under a caller's minimum the read is void.

Ways of reading (protocols), from a principle's reads to P(response A is better):

    pairwise    both responses in one prompt, labels "A" and "B", once in each order
                P(A) = mean over the orders of P(the label that names A)
    pointwise   one response in a prompt, labels "Yes" and "No"; order AB stands for response A
                P(A) = sigmoid(m_A - m_B)          m = l_yes - l_no of the response

Rating of one response (arXiv 2309.00267, section 2.2.3), with the labels "1" ... "9":

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
"""How far above 1 the mass may be by rounding (bfloat16 logits); more is no distribution."""


def prob_first(logprob_first: float, logprob_second: float) -> float:
    """P(the first label), between the two. Both must be finite.

    >>> prob_first(-1.0, -1.0)
    0.5
    """
    margin = logprob_first - logprob_second
    if margin >= 0:
        return 1.0 / (1.0 + math.exp(-margin))
    return math.exp(margin) / (1.0 + math.exp(margin))


def label_mass(logprobs: Sequence[float]) -> float:
    """The probability of all labels together, in [0, 1]."""
    return min(1.0, math.fsum(map(math.exp, logprobs)))


def is_usable(logprobs: Sequence[float]) -> bool:
    """False when a label is not finite (NaN, or -inf: the engine did not score it), or the labels
    hold more than the whole probability."""
    if not all(map(math.isfinite, logprobs)) or max(logprobs) > _MASS_ROUNDING:
        return False
    return math.fsum(map(math.exp, logprobs)) <= 1.0 + _MASS_ROUNDING


def interpret(
    answer: LabelLogprobs, order: Order, prompt_sha256: str, rationale: str = ""
) -> Read | None:
    """The reading of one answer of the engine, or None when it holds no usable number."""
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
    """What the judge thinks of one response: P(rating i), lowest first, and their expectation."""

    probs: tuple[float, ...]
    score: float  # in [-1, 1]
    label_mass: float


def rate(logprobs: Sequence[float]) -> Rating | None:
    """The expected rating over equally spaced ratings; None when it holds no usable number.

    >>> rate([math.log(0.5), math.log(0.25), math.log(0.25)]).score
    -0.25
    """
    if not is_usable(logprobs):
        return None
    highest = max(logprobs)
    weights = [math.exp(logprob - highest) for logprob in logprobs]
    whole = math.fsum(weights)
    probs = tuple(weight / whole for weight in weights)
    middle = (len(probs) - 1) / 2
    expected = math.fsum(i * prob for i, prob in enumerate(probs))
    return Rating(probs, (expected - middle) / middle, label_mass(logprobs))


def prob_a(read: Read) -> float:
    """P(response A is better) by one pairwise read, whichever stood first."""
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
"""A principle's valid reads, one or more -> P(response A is better); None when one is lacking."""

PROTOCOLS: Mapping[str, Combine] = {"pairwise": _pairwise, "pointwise": _pointwise}
DEFAULT_PROTOCOL = "pairwise"
