"""Checks of pairs of principles: near-duplicates, contradictions and confusable ids.

A compare text becomes the set G of character trigrams of its content words (lower case, without
filler such as "prefer the reply that" and without negations), and

    likeness(a, b) = |G_a ∩ G_b| / √(|G_a| |G_b|)          the cosine of the two 0/1 vectors

From ALIKE on, two texts are considered the same: near-duplicates when both or neither contain a
negation, opposites when only one does ("gives advice", "does not give advice"). Two texts also
oppose each other when they want opposite ends of one axis ("concise", "more detail") and say little
else, or when one prefers X over Y and the other Y over X.

Each set is an integer used as a bit set, so 1000 principles are compared in well under a second.
Synonyms are not recognized: "polite" and "courteous" look different here. `rlaif constitution
ablate` finds principles that always vote alike.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from constitution.lint.finding import Remark, Severity
from constitution.schema import Constitution, Principle
from constitution.strict_yaml import Path

# Within one shipped constitution, the most similar principles reach 0.38. Two that say the same
# reach 1.0; two that differ in one noun ("keeps every fact/name of the source") reach 0.80.
ALIKE = 0.85
ALIKE_SQUARED = ALIKE * ALIKE
ALIKE_AROUND_AXIS = 0.75  # of the words besides the axis words; lower, since these are few
READ_CHARACTERS = 1000  # of each text; longer ones get a remark of their own

_WORD = re.compile(r"[^\W_]+")
_INSTEAD = re.compile(r"\b(?:over|rather than|instead of)\b")
_NOT_A_NEGATION = re.compile(r"\b(?:not only|no longer|nothing but|no matter)\b")
_NEGATION = re.compile(
    r"\b(?:avoid|avoids|avoiding|cannot|fewer|lack|lacks|least|less|neither|never|no|not|without)\b"
)
_CONDITION = re.compile(r"\W*(?:when|if|where|on|for|in)\b[^,]*,")
_FILLER = re.compile(  # says nothing about what is preferred
    r"\b(?:a|about|also|always|an|and|answer|answers|any|are|as|asked|asks|at|be|being|both"
    r"|but|by|choose|comment|comments|contain|contains|do|does|each|for|from|give|gives"
    r"|giving|has|have|having|i|if|in|is|it|its|language|manner|more|most|much|nor|of|on"
    r"|one|ones|or|other|pick|prefer|preferred|replies|reply|response|responses|say|says"
    r"|select|sounds|stays|style|text|that|the|their|them|they|this|to|tone|two|use|uses"
    r"|using|very|way|when|where|which|who|whose|with|word|words|written)\b"
)
_AXES: tuple[tuple[str, str, str], ...] = (
    (
        "length",
        "detail detailed details elaborate exhaustive lengthy long longer longest thorough verbose",
        "brevity brief briefer briefly concise short shorter shortest succinct terse",
    ),
    ("formality", "formal formally", "casual casually chatty colloquial informal informally"),
    ("plainness", "complex jargon technical", "lay plain simple simpler simply"),
    ("warmth", "friendly friendlier warm warmer warmly", "cold colder distant stern"),
    ("humour", "funny humorous humour joke jokes joking playful", "serious seriously sober"),
    ("certainty", "assertive confident confidently", "hedged hesitant tentative"),
    ("compliance", "complies comply helps obeys", "declines refuse refuses refusing"),
    ("directness", "blunt bluntly direct directly", "diplomatic indirect tactful"),
    ("agreement", "agree agrees flatters", "challenges contradicts disagree disagrees"),
    ("detail-kind", "concrete specific", "abstract general generic vague"),
    ("caution", "careful cautious caution", "bold boldly daring"),
)
_AXIS_OF = {
    word: (axis, sign)
    for axis, *ends in _AXES
    for sign, end in zip((1, -1), ends, strict=True)
    for word in end.split()
}


def remarks(constitution: Constitution) -> Iterator[Remark]:
    """Remarks on pairs of principles, each located at the later of the two."""
    yield from _confusable_ids(constitution)
    principles, contents = constitution.principles, _contents(constitution)
    for second, later in enumerate(contents):
        for first, earlier in enumerate(contents[:second]):
            # The texts come first: most pairs differ there, and need no look at their scopes.
            if earlier.condition_negated != later.condition_negated:
                continue  # they are about different conversations
            why = _opposed(earlier, later)  # how they contradict; "" if they do not
            if not why and not _copies(earlier, later):
                continue
            one, other = principles[first], principles[second]
            path: Path = ("principles", second, "compare")
            if why and not _may_meet(one, other):
                continue
            if why:
                yield Remark(
                    Severity.WARNING,
                    "contradiction",
                    path,
                    f"'{other.id}' asks for the opposite of '{one.id}': {why}",
                    "delete one, or give each a scope or a 'When …,' that says where it holds",
                )
            else:
                yield Remark(
                    Severity.WARNING,
                    "near-duplicate",
                    path,
                    f"'{other.id}' says nearly the same as '{one.id}', so that idea counts twice",
                    "merge the two, or reword them to say how they differ",
                )
            break  # one remark per principle, however many others it resembles


def _confusable_ids(constitution: Constitution) -> Iterator[Remark]:
    known: dict[str, str] = {}
    for index, principle in enumerate(constitution.principles):
        words = re.split("[-_]", principle.id)
        form = "".join(word.removesuffix("s") if len(word) > 3 else word for word in words)
        first = known.setdefault(form, principle.id)
        if first != principle.id:
            yield Remark(
                Severity.WARNING,
                "confusable-id",
                ("principles", index, "id"),
                f"the id '{principle.id}' is easily confused with '{first}'",
                "rename one: receipts and reports identify principles by id only",
            )


@dataclass(frozen=True, slots=True)
class _Side:
    """The content of one part of a compare text: trigram bit sets, negation and axis ends."""

    grams: int
    size: int  # of grams
    around: int  # trigrams of the words other than axis words
    negated: bool
    axes: dict[str, tuple[int, str]]  # axis -> (+1, -1, or 0 for both ends; the word found)


@dataclass(frozen=True, slots=True)
class _Content:
    """A compare text, split at its condition and at "over", "rather than" or "instead of"."""

    preferred: _Side
    instead: _Side | None  # what follows "over", "rather than" or "instead of"
    condition_negated: bool  # "When the customer is not …,"


def _contents(constitution: Constitution) -> list[_Content]:
    bits: dict[str, int] = {}
    contents = []
    for principle in constitution.principles:
        text = unicodedata.normalize("NFKC", principle.compare[:READ_CHARACTERS]).casefold()
        text = _NOT_A_NEGATION.sub(" ", re.sub("(?:ca)?n['\u2019]t\\b", " not", text))
        match = _CONDITION.match(text)
        condition, rest = (match[0], text[match.end() :]) if match else ("", text)
        preferred, *instead = _INSTEAD.split(rest, maxsplit=1)
        sides = [_side(part, condition, bits) for part in (preferred, *instead)]
        contents.append(_Content(sides[0], sides[1] if instead else None, _negates(condition)))
    return contents


def _side(text: str, condition: str, bits: dict[str, int]) -> _Side:
    negated = _negates(text)
    content = _WORD.findall(_FILLER.sub(" ", _NEGATION.sub(" ", f"{condition} {text}")))
    axes: dict[str, tuple[int, str]] = {}
    for word in content:
        if word in _AXIS_OF:
            axis, sign = _AXIS_OF[word]
            sign = -sign if negated else sign
            axes[axis] = (sign if axes.get(axis, (sign,))[0] == sign else 0, word)
    around = [word for word in content if word not in _AXIS_OF]
    grams = _grams(content, bits)
    return _Side(grams, grams.bit_count(), _grams(around, bits), negated, axes)


def _negates(text: str) -> bool:
    return len(_NEGATION.findall(text)) % 2 == 1


def _grams(words: list[str], bits: dict[str, int]) -> int:
    """The trigrams of the words (without plural s, a space around each) as a bit set."""
    padded = {f" {word.removesuffix('s') if len(word) > 3 else word} " for word in words}
    grams = {word[at : at + 3] for word in padded for at in range(len(word) - 2)}
    numbers = [bits.setdefault(gram, len(bits)) for gram in sorted(grams)]
    bit_set = bytearray(max(numbers, default=0) // 8 + 1)
    for number in numbers:
        bit_set[number // 8] |= 1 << number % 8
    return int.from_bytes(bit_set, "little")


def likeness(a: int, b: int) -> float:
    """The cosine of two bit sets, in [0, 1]; 1 for two empty sets."""
    if not a or not b:
        return float(a == b)
    return (a & b).bit_count() / math.sqrt(a.bit_count() * b.bit_count())


def _alike(a: _Side, b: _Side) -> bool:
    """Whether both have content words and these are nearly the same, negations aside."""
    both = a.size * b.size
    return both > 0 and (a.grams & b.grams).bit_count() ** 2 >= ALIKE_SQUARED * both


def _copies(a: _Content, b: _Content) -> bool:
    if a.preferred.negated != b.preferred.negated or not _alike(a.preferred, b.preferred):
        return False
    return a.instead is None or b.instead is None or _alike(a.instead, b.instead)


def _opposed(a: _Content, b: _Content) -> str:
    """Why the two texts contradict each other; "" if they do not."""
    if a.preferred.negated != b.preferred.negated and _alike(a.preferred, b.preferred):
        return "the same words, with and without a negation"
    if a.instead is not None and b.instead is not None and _swapped(a, b):
        return "what one prefers, the other ranks lower"
    if a.preferred.axes and b.preferred.axes:
        return _other_end(a.preferred, b.preferred)
    return ""


def _swapped(a: _Content, b: _Content) -> bool:
    if a.instead is None or b.instead is None or _alike(a.preferred, b.preferred):
        return False
    crossed = ((a.preferred, b.instead), (a.instead, b.preferred))
    return all(_alike(x, y) and x.negated == y.negated for x, y in crossed)


def _other_end(a: _Side, b: _Side) -> str:
    for axis, (sign, word) in a.axes.items():
        other_sign, other_word = b.axes.get(axis, (0, ""))
        if sign * other_sign < 0 and likeness(a.around, b.around) >= ALIKE_AROUND_AXIS:
            return f"'{word}' against '{other_word}'"
    return ""


def _may_meet(a: Principle, b: Principle) -> bool:
    """Whether one conversation can be in both scopes, judging by the words of the scopes."""
    if a.scope is None or b.scope is None:
        return True
    wanted = [{word.casefold() for word in p.scope.mentions} for p in (a, b) if p.scope]
    refused = [{word.casefold() for word in p.scope.excludes} for p in (a, b) if p.scope]
    if wanted[0] and wanted[1] and not wanted[0] & wanted[1]:
        return False
    return not any(w and w <= r for w, r in ((wanted[0], refused[1]), (wanted[1], refused[0])))
