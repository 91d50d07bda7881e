"""Constitutions of many principles, FOR UNIT TESTS ONLY, and edits of them."""

import hashlib
import math
from collections.abc import Sequence

from constitution.schema import Constitution, Principle, Trait
from judge_service.types import Comparison
from tests.support.fakes import Answer, FakeEngine, FakeTokenizer
from tests.support.service.serving import comparison


def make_constitution(*principles: Principle, **traits: float) -> Constitution:
    """Trait weights not given are 1."""
    named = {p.trait: Trait(weight=traits.get(p.trait, 1.0)) for p in principles}
    return Constitution(name="small", version="1.0.0", traits=named, principles=principles)


def principle(number: int, trait: str = "helpful", **changes: object) -> Principle:
    fields: dict[str, object] = {
        "id": f"p{number}",
        "trait": trait,
        "compare": f"Which is better by rule {number}?",
        "critique": "How not?",
        "revise": "Fix it.",
    }
    return Principle.model_validate(fields | changes)


def edited(old: Constitution, number: int, **changes: object) -> Constitution:
    """The constitution with one principle edited."""
    principles = list(old.principles)
    principles[number] = principles[number].model_copy(update=changes)
    return Constitution(
        name=old.name, version="1.1.0", traits=old.traits, principles=tuple(principles)
    )


_WORDS = FakeTokenizer()


def engine(answer: Answer | None = None, kind: type[FakeEngine] = FakeEngine) -> FakeEngine:
    """An engine that answers by `by_rule`; all share a tokenizer, as engines of one model do."""
    fake = kind(answer or by_rule)
    fake._tokenizer = _WORDS
    return fake


def by_rule(prompt: str) -> tuple[float, float]:
    """A FakeEngine answer that depends on the principle, the replies and their order."""
    seed = int(hashlib.sha256(prompt.encode()).hexdigest()[:8], 16) / 2**32
    first = 0.05 + 0.9 * seed
    return math.log(0.98 * first), math.log(0.98 * (1 - first))


def pairs(count: int) -> Sequence[Comparison]:
    return [comparison(f"q{n}", f"one answer {n}", f"another answer {n}") for n in range(count)]
