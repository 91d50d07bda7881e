"""One reading: the log-probabilities of two labels become a probability and a label mass. Pure.

    prob_first = softmax(l_first, l_second)[0] = 1 / (1 + exp(l_second - l_first))
    label_mass = exp(l_first) + exp(l_second)

l_first and l_second (nats) are of the full-vocabulary softmax, before any mask. The mass says how
much the judge wanted to give a label at all; under a caller's minimum the read is void.
"""

from __future__ import annotations

import math

from judge_service.engine import LabelLogprobs
from judge_service.judgment import Order, Read

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


def label_mass(logprob_first: float, logprob_second: float) -> float:
    """The probability of both labels together, in [0, 1]."""
    return min(1.0, math.exp(logprob_first) + math.exp(logprob_second))


def interpret(logprobs: LabelLogprobs, order: Order, prompt_sha256: str) -> Read | None:
    """The reading of one answer of the engine, or None when it holds no usable number.

    Unusable: a label that is not finite (NaN, or -inf: the engine did not score it) or log-probs
    of more than the whole probability.
    """
    first, second = logprobs.logprobs
    if not (math.isfinite(first) and math.isfinite(second)):
        return None
    if max(first, second) > _MASS_ROUNDING:
        return None
    if math.exp(first) + math.exp(second) > 1.0 + _MASS_ROUNDING:
        return None
    return Read(
        order=order,
        logprob_first=first,
        logprob_second=second,
        prob_first=prob_first(first, second),
        label_mass=label_mass(first, second),
        prompt_tokens=logprobs.prompt_tokens,
        cached_tokens=logprobs.cached_tokens,
        prompt_sha256=prompt_sha256,
    )


def prob_a(read: Read) -> float:
    """P(response A is better), whichever stood first."""
    return read.prob_first if read.order is Order.AB else 1.0 - read.prob_first
