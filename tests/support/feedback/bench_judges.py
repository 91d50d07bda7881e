"""Judges with a known habit for benches, FOR UNIT TESTS ONLY: answers of a FakeEngine."""

from __future__ import annotations

import math

from tests.support.fakes import like_longer, parse

SURE = (math.log(0.9), math.log(0.09))


def knows_right(prompt: str) -> tuple[float, ...]:
    """Prefers the reply with "right" in it, by a principle of "less helpful" the other."""
    if "[Reply A" not in prompt:
        return like_longer(prompt)
    parts = parse(prompt)
    first = "right" in parts.first
    if "less helpful" in parts.principle:
        first = not first
    return SURE if first else SURE[::-1]


def knows_right_only(prompt: str) -> tuple[float, ...]:
    """Prefers the reply with "right" in it, whatever the principle asks."""
    return SURE if "right" in parse(prompt).first else SURE[::-1]


def first_shown(prompt: str) -> tuple[float, ...]:
    """Always prefers the reply that is shown first, a little more surely if it is right."""
    sure = 0.9 if "right" in parse(prompt).first else 0.8
    return (math.log(0.99 * sure), math.log(0.99 * (1 - sure)))
