"""Does a policy say the same everywhere? Statistics of words, over the responses of one policy.

distinct-n     different n-grams / all n-grams (Li et al., arXiv:1510.03055); falls under collapse
self-BLEU      mean over responses of BLEU-4 with all the other responses as references (Texygen,
               arXiv:1802.01886); rises under collapse, 1 when every response says the same

    BLEU = min(1, e^(1 - r/c)) · (Π_n p_n)^(1/N),  n = 1 … N = min(4, c)      Papineni et al. 2002
    p_n  = (n-grams also in a reference, each as often as in one at most) / (all n-grams)
    c, r   words of the response, and of the reference nearest to it in length
    For n > 1, one is added above and below, so that short texts are not all 0 (Lin, Och 2004).

Words are what white space separates, case folded. Both depend on the number of responses: compare
policies on the same prompts only.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

ORDERS = 4

Gram = tuple[str, ...]


def distinct_n(texts: Iterable[str], n: int) -> float | None:
    """Different n-grams of words over all n-grams; None without any."""
    total = 0
    seen: set[Gram] = set()
    for text in texts:
        grams = _grams(_words(text), n)
        total += len(grams)
        seen.update(grams)
    return len(seen) / total if total else None


def self_bleu(texts: Sequence[str]) -> list[float | None]:
    """Each text's BLEU-4 with the others as references, in [0, 1]; None for one without words.

    All None when fewer than two have words.
    """
    words = [_words(text) for text in texts]
    counts = [
        [Counter(_grams(said, n)) for n in range(1, min(ORDERS, len(said)) + 1)] for said in words
    ]
    most = _most_in_one_text(counts)
    lengths = [len(said) for said in words]
    found: list[float | None] = []
    for place, own in enumerate(counts):
        others = [c for i, c in enumerate(lengths) if i != place and c]
        if not own or not others:
            found.append(None)
            continue
        nearest = min(others, key=lambda r: (abs(r - lengths[place]), r))
        penalty = min(1.0, math.exp(1 - nearest / lengths[place]))
        precisions = [_precision(grams, most, place, n) for n, grams in enumerate(own, start=1)]
        found.append(penalty * math.prod(precisions) ** (1 / len(precisions)))
    return found


def _precision(grams: Counter[Gram], most: dict[Gram, list[_Held]], place: int, n: int) -> float:
    matched = 0
    for gram, count in grams.items():
        elsewhere = next((held for held, text in most[gram] if text != place), 0)
        matched += min(count, elsewhere)
    smoothing = int(n > 1)
    return (matched + smoothing) / (grams.total() + smoothing)


_Held = tuple[int, int]  # (how often, in which text)


def _most_in_one_text(counts: Sequence[Sequence[Counter[Gram]]]) -> dict[Gram, list[_Held]]:
    """For each n-gram the two texts that have it most often: the most of all others but one."""
    most: dict[Gram, list[_Held]] = {}
    for place, own in enumerate(counts):
        for grams in own:
            for gram, count in grams.items():
                held = [*most.get(gram, ()), (count, place)]
                most[gram] = sorted(held, reverse=True)[:2]
    return most


def _words(text: str) -> list[str]:
    return text.casefold().split()


def _grams(words: Sequence[str], n: int) -> list[Gram]:
    return list(zip(*(words[i:] for i in range(n)), strict=False))
