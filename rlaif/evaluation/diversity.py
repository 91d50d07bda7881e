"""Diversity of a policy's responses: word statistics that show mode collapse.

distinct-n     distinct n-grams / all n-grams (Li et al., arXiv:1510.03055); falls on collapse
self-BLEU      mean over responses of BLEU-4 with all other responses as references (Texygen,
               arXiv:1802.01886); rises on collapse, 1 when all responses are equal

    BLEU = min(1, e^(1 - r/c)) · (Π_n p_n)^(1/N),  n = 1 … N = min(4, c)      Papineni et al. 2002
    p_n  = (n-grams found in a reference, clipped to its count there) / (all n-grams)
    c, r   words of the response, and of the reference closest to it in length
    For n > 1, numerator and denominator get + 1, so that short texts do not all score 0
    (Lin, Och 2004).

Words are separated by white space and case-folded. Both statistics depend on the number of
responses: compare policies on the same prompts only.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

ORDERS = 4

Gram = tuple[str, ...]


def distinct_n(texts: Iterable[str], n: int) -> float | None:
    """Distinct word n-grams over all n-grams, in (0, 1]; None if there are none."""
    total = 0
    seen: set[Gram] = set()
    for text in texts:
        grams = _grams(_words(text), n)
        total += len(grams)
        seen.update(grams)
    return len(seen) / total if total else None


def self_bleu(texts: Sequence[str]) -> list[float | None]:
    """Each text's BLEU-4 with the others as references, in [0, 1]; None for a text without words.

    All None when fewer than two texts have words.
    """
    words = [_words(text) for text in texts]
    lengths = [len(text_words) for text_words in words]
    counts = [
        [Counter(_grams(text_words, n)) for n in range(1, min(ORDERS, len(text_words)) + 1)]
        for text_words in words
    ]
    highest = _highest_counts(counts)
    scores: list[float | None] = []
    for index, own in enumerate(counts):
        references = [c for i, c in enumerate(lengths) if i != index and c]
        if not own or not references:
            scores.append(None)
            continue
        # brevity penalty: against the reference closest in length, the shorter of two
        closest = min(references, key=lambda r: (abs(r - lengths[index]), r))
        penalty = min(1.0, math.exp(1 - closest / lengths[index]))
        precisions = [_precision(grams, highest, index, n) for n, grams in enumerate(own, start=1)]
        scores.append(penalty * math.prod(precisions) ** (1 / len(precisions)))
    return scores


def _precision(
    grams: Counter[Gram], highest: dict[Gram, list[_CountIn]], index: int, n: int
) -> float:
    matched = 0
    for gram, count in grams.items():
        elsewhere = next((most for most, text in highest[gram] if text != index), 0)
        matched += min(count, elsewhere)
    smoothing = int(n > 1)
    return (matched + smoothing) / (grams.total() + smoothing)


_CountIn = tuple[int, int]  # (count of an n-gram, index of the text)


def _highest_counts(counts: Sequence[Sequence[Counter[Gram]]]) -> dict[Gram, list[_CountIn]]:
    """For each n-gram its two highest counts in one text.

    Two suffice: leaving any one text out, the highest count elsewhere is among them.
    """
    highest: dict[Gram, list[_CountIn]] = {}
    for index, own in enumerate(counts):
        for grams in own:
            for gram, count in grams.items():
                candidates = [*highest.get(gram, ()), (count, index)]
                highest[gram] = sorted(candidates, reverse=True)[:2]
    return highest


def _words(text: str) -> list[str]:
    return text.casefold().split()


def _grams(words: Sequence[str], n: int) -> list[Gram]:
    return list(zip(*(words[i:] for i in range(n)), strict=False))
