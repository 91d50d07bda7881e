"""One-line builders of constitutions, judgments and labels. Probabilities are given as (AB, BA)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from constitution.schema import Constitution, Example, Message, Principle, Trait
from judge_service.judge import aggregation
from judge_service.types import Comparison, Judgment, ModelIdentity, Order, Provenance, Read, Usage
from rlaif.data.records import Preference
from rlaif.feedback.receipts import preference

MODEL = ModelIdentity("fake", "0" * 64, "1" * 64, "float32", "fake")
Probs = Mapping[str, tuple[float, float]]


def example(
    preferred: str = "A", prompt: str = "Hello?", a: str = "one", b: str = "two"
) -> Example:
    return Example(prompt=prompt, response_a=a, response_b=b, preferred=preferred)


def principle(id: str, *examples: Example, trait: str = "helpful", **values: Any) -> Principle:
    texts = {"compare": f"Prefer by {id}.", "critique": "What is wrong?", "revise": "Fix it."}
    return Principle(id=id, trait=trait, examples=examples, **{**texts, **values})


def make_constitution(*principles: Principle, **trait_weights: float) -> Constitution:
    traits = {p.trait: Trait(weight=trait_weights.get(p.trait, 1.0)) for p in principles}
    return Constitution(name="made", version="1.0.0", traits=traits, principles=principles)


def pair(id: str = "pair", prompt: str = "Hello?", a: str = "one", b: str = "two") -> Comparison:
    return Comparison(id, (Message(role="user", content=prompt),), a, b)


def judged(by: Constitution, probs: Probs) -> Judgment:
    """The judgment from reads with these P(A); principles without a probability do not vote."""
    voting = [p for p in by.principles if p.id in probs]
    votes = tuple(v for p in voting if (v := aggregation.vote(p, _reads(*probs[p.id]), 0.1)))
    prob_a = aggregation.weighted_prob(votes, by.trait_weights)
    consistent, gap = aggregation.compare_orders(votes, by.trait_weights)
    return Judgment(
        verdict=aggregation.verdict(prob_a, 0.0),
        prob_a=prob_a,
        trait_probs=aggregation.trait_probs(votes),
        votes=votes,
        position_consistent=consistent,
        order_gap=gap,
        provenance=Provenance(
            by.name, by.version, by.digest, MODEL, "test/1", tuple(p.id for p in voting),
            (Order.AB, Order.BA), 0,
        ),
        usage=Usage(reads=2 * len(voting)),
        seconds=0.0,
    )  # fmt: skip


def _reads(ab: float, ba: float) -> Sequence[Read]:
    return [
        Read(order, math.log(p), math.log(1 - p), p, 1.0, 10, 0, "f" * 64)
        for order, p in ((Order.AB, ab), (Order.BA, 1 - ba))
    ]


def label(pair: Comparison, by: Constitution, probs: Probs) -> Preference:
    return preference(pair, judged(by, probs))
