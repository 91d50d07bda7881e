"""Constitutions of many principles, FOR UNIT TESTS ONLY, and edits of them."""

import hashlib
import math
from collections.abc import Sequence

from constitution.schema import Constitution, Principle, Trait
from judge_service.types import Comparison
from tests.support.fakes import Answer, FakeEngine, FakeTokenizer
from tests.support.service.serving import comparison


def law(*principles: Principle, **traits: float) -> Constitution:
    """Traits that are not given weigh 1."""
    named = {p.trait: Trait(weight=traits.get(p.trait, 1.0)) for p in principles}
    return Constitution(name="law", version="1.0.0", traits=named, principles=principles)


def principle(number: int, trait: str = "helpful", **changes: object) -> Principle:
    fields: dict[str, object] = {
        "id": f"p{number}",
        "trait": trait,
        "compare": f"Which is better by rule {number}?",
        "critique": "How not?",
        "revise": "Mend it.",
    }
    return Principle.model_validate(fields | changes)


def edited(found: Constitution, number: int, **changes: object) -> Constitution:
    """The constitution with one principle edited."""
    principles = list(found.principles)
    principles[number] = principles[number].model_copy(update=changes)
    return Constitution(
        name=found.name, version="1.1.0", traits=found.traits, principles=tuple(principles)
    )


_WORDS = FakeTokenizer()


def engine(answer: Answer | None = None, kind: type[FakeEngine] = FakeEngine) -> FakeEngine:
    """An engine by `by_rule`; all of them give one word one token id, as one model does."""
    found = kind(answer or by_rule)
    found._tokenizer = _WORDS
    return found


def by_rule(prompt: str) -> tuple[float, float]:
    """An answer of a FakeEngine that hangs on the principle, the replies and their places."""
    seed = int(hashlib.sha256(prompt.encode()).hexdigest()[:8], 16) / 2**32
    first = 0.05 + 0.9 * seed
    return math.log(0.98 * first), math.log(0.98 * (1 - first))


def pairs(count: int) -> Sequence[Comparison]:
    return [comparison(f"q{n}", f"one answer {n}", f"another answer {n}") for n in range(count)]
