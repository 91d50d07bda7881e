"""How a planted judge errs: equations from gold to log-odds. Pure.

A pair of responses to one conversation, read by principle k with response 1 shown first:

    l_k = F * (g_k(1) - g_k(2)) * sum_j s_j * logit(r_j) + b * ln(n_1 / n_2) + c
    P(response 1 is better) = sigmoid(l_k)

    g_k        gold of the principle, 0 or 1 (gold.py)
    j          the annotators of this pair: `votes` of them, drawn from `annotators`
    r_j        annotator j's reliability, which the judge knows; counted as at most CERTAINTY
    s_j        +1 if annotator j sees the pair right (probability r_j), else -1
    F          -1 if the pair is seen the wrong way round (probability `flip`), else +1; the judge
               does not know it: `flip` makes labels wrong without making them less certain
    b          `length_bias`: log-odds per unit of ln(length of 1 / length of 2), in characters
    c          `position_bias`: log-odds for the response that is shown first

s_j and F are drawn once per pair, alike for all principles and both orders. So without length bias
the label of the whole constitution is right with exactly the probability with which F * (the sign
of the sum over j) is +1, whatever the weights: with one annotator of reliability r,

    accuracy = r (1 - flip) + (1 - r) flip

and with flip = 0 the stated probability is exact (naive Bayes over the annotators). c cancels in
the mean over both orders: (sigmoid(l + c) + sigmoid(l - c)) / 2 is antisymmetric in l.

One response alone (protocol pointwise, ratings): m_k is the log-odds of "good", with draws of its
own, and a rating i of 1 to 9 has the probability of i - 1 successes in 8 trials of sigmoid(m_k):

    m_k = F * (2 g_k - 1) / 2 * sum_j s_j * logit(r_j) + b * ln(n / 100)

Every draw is a hash of the seed, the conversation and the responses in sorted order: the same
content always gets the same answer, in any process, and swapping the responses changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from constitution.schema import Message

CERTAINTY = 0.99
"""The highest reliability that a vote counts with: beyond it, log-odds would be infinite."""

REFERENCE_LENGTH = 100  # characters at which length bias leaves the rating of a response alone


@dataclass(frozen=True, slots=True)
class Errors:
    """The settings of the equations above. annotators: their reliabilities, at least one."""

    seed: int
    flip: float
    length_bias: float
    position_bias: float
    annotators: tuple[float, ...]
    votes: int


def pair_logit(
    errors: Errors,
    conversation: Sequence[Message],
    shown: tuple[str, str],
    gold: tuple[bool, bool],
) -> float:
    """l_k: log-odds that the first shown response is better. gold: g_k of both, as shown."""
    difference = int(gold[0]) - int(gold[1])
    evidence = difference * seen(errors, conversation, shown) if difference else 0.0
    length = math.log(max(len(shown[0]), 1) / max(len(shown[1]), 1))
    return evidence + errors.length_bias * length + errors.position_bias


def single_logit(
    errors: Errors, conversation: Sequence[Message], response: str, gold: bool
) -> float:
    """m_k: log-odds that a response shown alone is good by the principle."""
    evidence = (int(gold) - 0.5) * seen(errors, conversation, (response,))
    return evidence + errors.length_bias * math.log(max(len(response), 1) / REFERENCE_LENGTH)


def seen(errors: Errors, conversation: Sequence[Message], responses: Sequence[str]) -> float:
    """F * sum_j s_j logit(r_j): the evidence in log-odds, below 0 where it is wrong."""
    content = _digest(errors.seed, conversation, responses)
    drawn = sorted(
        range(len(errors.annotators)), key=lambda j: (_uniform(content, f"annotator {j}"), j)
    )[: errors.votes]
    evidence = 0.0
    for j in drawn:
        reliability = errors.annotators[j]
        right = _uniform(content, f"vote {j}") < reliability
        evidence += (1 if right else -1) * _logit(min(reliability, CERTAINTY))
    return -evidence if _uniform(content, "flip") < errors.flip else evidence


def draw(seed: int, conversation: Sequence[Message], responses: Sequence[str], name: str) -> float:
    """A number in [0, 1) for this content, of the draw of that name."""
    return _uniform(_digest(seed, conversation, responses), name)


def log_sigmoid(logit: float) -> float:
    """log(1 / (1 + e^-x)), without overflow.

    >>> round(log_sigmoid(0.0), 4)
    -0.6931
    """
    return min(logit, 0.0) - math.log1p(math.exp(-abs(logit)))


def rating_logprobs(logit: float, ratings: int) -> list[float]:
    """Log-probabilities of the ratings, lowest first: binomial with sigmoid(logit).

    >>> [round(math.exp(p), 2) for p in rating_logprobs(0.0, 3)]
    [0.25, 0.5, 0.25]
    """
    trials = ratings - 1
    good, bad = log_sigmoid(logit), log_sigmoid(-logit)
    return [math.log(math.comb(trials, i)) + i * good + (trials - i) * bad for i in range(ratings)]


def _logit(probability: float) -> float:
    return math.log(probability / (1.0 - probability))


def _digest(seed: int, conversation: Sequence[Message], responses: Sequence[str]) -> bytes:
    content = [seed, [[m.role, m.content] for m in conversation], sorted(responses)]
    return hashlib.sha256(json.dumps(content).encode()).digest()


def _uniform(content: bytes, draw: str) -> float:
    """A number in [0, 1) that depends on the content and the name of the draw alone."""
    digest = hashlib.sha256(content + draw.encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
