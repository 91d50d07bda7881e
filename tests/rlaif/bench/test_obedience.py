"""Obedience: figures by hand, and inverted principles."""

from __future__ import annotations

import pytest

from constitution import Constitution
from constitution.errors import UserError
from rlaif.bench.obedience import (
    ALL,
    ObediencePair,
    inverse_of,
    inverted_text,
    obedience,
    require_same_principles,
)


def pairs(*probs: tuple[float, float], principle: str = "kind") -> list[ObediencePair]:
    return [ObediencePair(principle, f"p{n}", p, q) for n, (p, q) in enumerate(probs)]


def test_a_judge_that_follows_the_inversion_is_at_one_minus_its_accuracy() -> None:
    (found,) = obedience(pairs((0.9, 0.1), (0.8, 0.3), (0.7, 0.4), (0.2, 0.9)))
    assert found.accuracy.value == 0.75
    assert found.inverted.value == found.follower == 0.25
    assert found.turned.value == 1.0


def test_a_judge_that_does_not_read_the_principle_never_turns() -> None:
    (found,) = obedience(pairs((0.9, 0.9), (0.8, 0.7), (0.7, 0.6), (0.2, 0.1)))
    assert (found.accuracy.value, found.inverted.value, found.turned.value) == (0.75, 0.75, 0.0)
    assert found.follower == 0.25


def test_half_a_turn_is_a_half_and_every_question_weighs_the_same() -> None:
    (half,) = obedience(pairs((0.9, 0.5)))
    assert half.turned.value == 0.5
    nine = [ObediencePair("kind", "many", 0.9, 0.9, 1 / 9)] * 9
    one = [ObediencePair("kind", "one", 0.9, 0.1)]
    assert obedience([*nine, *one])[0].turned.value == pytest.approx(0.5)


def test_the_label_by_all_principles_comes_first() -> None:
    found = obedience([*pairs((0.9, 0.1)), *pairs((0.9, 0.9), principle=ALL)])
    assert [(each.principle, each.pairs) for each in found] == [(ALL, 1), ("kind", 1)]


@pytest.mark.parametrize(
    ("compare", "opposite"),
    [
        ("Prefer the reply that is more honest.", "Prefer the reply that is less honest."),
        ("Less is better. Prefer it.", "More is better. Prefer it."),
        (
            "Prefer the reply that is more kind and less rude.",
            'Take this rule: "Prefer the reply that is more kind and less rude." Do the opposite: '
            "prefer the reply that the rule would reject.",
        ),
        (
            "Prefer the reply that refuses, furthermore.",
            'Take this rule: "Prefer the reply that refuses, furthermore." Do the opposite: prefer '
            "the reply that the rule would reject.",
        ),
    ],
)
def test_a_principle_is_inverted_by_one_word_or_as_a_quote(compare: str, opposite: str) -> None:
    assert inverted_text(compare) == opposite


def test_an_inverted_constitution_keeps_all_but_the_questions() -> None:
    constitution = Constitution.load("hhh")
    inverse = inverse_of(constitution)
    assert inverse.digest != constitution.digest
    for old, new in zip(constitution.principles, inverse.principles, strict=True):
        assert new.compare == inverted_text(old.compare) != old.compare
        assert (new.id, new.trait, new.weight, new.scope) == (
            old.id, old.trait, old.weight, old.scope,
        )  # fmt: skip


def test_another_constitution_must_have_the_same_principles() -> None:
    overall = Constitution.load("overall")
    require_same_principles(overall, inverse_of(overall), "mine.yaml")
    with pytest.raises(
        UserError, match=r"mine.yaml: other principles than overall: .*, better-on-the"
    ):
        require_same_principles(overall, Constitution.load("harmless"), "mine.yaml")
