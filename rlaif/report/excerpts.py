"""Which records of a long file the page shows, and how much of a long text.

A page embeds at most MOST_ROWS records of a list, so that it opens in a browser whatever the size
of the run. What is left out is counted on the page.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

MOST_ROWS = 500
EXTREMES = 100  # of the rows: the least certain labels, and as many of the most certain ones
MOST_CHARACTERS = 2000  # of one text


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The beginning of a text, and how many characters were left out."""

    text: str
    left_out: int


def excerpt(text: str, most: int = MOST_CHARACTERS) -> Excerpt:
    """The text, or its first `most` characters."""
    return Excerpt(text[:most], max(0, len(text) - most))


def evenly_spaced(count: int, most: int) -> list[int]:
    """Places of at most `most` of `count` records, in equal steps from the first one."""
    shown = min(count, max(0, most))
    return [place * count // shown for place in range(shown)]


def chosen_labels(probs: Sequence[float]) -> list[int]:
    """Places of the labels to show, in order: all, or evenly spaced ones and both extremes.

    The extremes are those whose probability is nearest to ½, and farthest from it.
    """
    if len(probs) <= MOST_ROWS:
        return list(range(len(probs)))
    certainty = [abs(prob - 0.5) for prob in probs]
    places = range(len(probs))
    picked = set(heapq.nsmallest(EXTREMES, places, key=certainty.__getitem__))
    picked |= set(heapq.nlargest(EXTREMES, places, key=certainty.__getitem__))
    picked |= set(evenly_spaced(len(probs), MOST_ROWS - 2 * EXTREMES))
    return sorted(picked)


def prompts_that_fit(prompts: int, responses_each: int) -> list[int]:
    """Places of the prompts to show, evenly spaced, so that their responses fit in MOST_ROWS."""
    return evenly_spaced(prompts, math.floor(MOST_ROWS / max(1, responses_each)) or 1)
