"""Which responses make a pair, and which of them is called A."""

import pytest

from constitution.errors import UserError
from constitution.schema import Message, Principle, Scope
from rlaif.data.records import Prompt, RecordError, Sample
from rlaif.feedback.pairs import (
    circle_pairs,
    extreme_pairs,
    pairs_from_samples,
    reads_of,
    within_reads,
)


def samples(prompt: str, *responses: str) -> list[Sample]:
    question = Prompt(id=prompt, messages=(Message(role="user", content=f"ask {prompt}"),))
    return [
        Sample(prompt=question, index=i, response=text, tokens=1, complete=True, seed=0)
        for i, text in enumerate(responses)
    ]


def test_the_first_two_distinct_responses_make_the_pair():
    found = pairs_from_samples(samples("p", "one", "one ", "two", "three"))
    assert [c.id for c in found.comparisons] == ["p/0-2"]
    assert found.identical == 1


def test_pairs_per_prompt_none_gives_all_pairs_of_distinct_responses():
    found = pairs_from_samples(samples("p", "a", "b", "c"), pairs_per_prompt=None)
    assert [c.id for c in found.comparisons] == ["p/0-1", "p/0-2", "p/1-2"]


def test_a_prompt_with_identical_responses_gives_no_pair():
    assert pairs_from_samples(samples("p", "same", "same")).comparisons == ()


def test_neither_sample_is_always_response_a():
    many = [s for i in range(200) for s in samples(f"p{i}", "first", "second")]
    found = pairs_from_samples(many).comparisons
    assert 60 < sum(c.response_a == "first" for c in found) < 140
    assert found == pairs_from_samples(many).comparisons
    assert found != pairs_from_samples(many, seed=1).comparisons


def test_one_id_for_two_conversations_is_an_error():
    other = samples("p", "x")[0].model_copy(
        update={"prompt": Prompt(id="p", messages=(Message(role="user", content="other"),))}
    )
    with pytest.raises(RecordError, match="duplicate prompt id 'p', with two different"):
        pairs_from_samples([*samples("p", "a", "b"), other])


def test_the_first_pairs_share_no_response():
    four = samples("p", "a", "b", "c", "d")
    found = pairs_from_samples(four, pairs_per_prompt=2).comparisons
    assert [c.id for c in found] == ["p/0-1", "p/2-3"]
    assert len(pairs_from_samples(four, pairs_per_prompt=None).comparisons) == 6


def test_pairs_of_unequal_length_are_not_drawn_and_are_counted():
    three = samples("p", "a" * 100, "b" * 10, "c" * 120, "  " + "d" * 80 + "  ")
    found = pairs_from_samples(three, max_length_ratio=1.25)
    assert [c.id for c in found.comparisons] == ["p/0-2"]
    assert found.unequal == 4  # three with the short response, and 120 : 80
    every = pairs_from_samples(three, pairs_per_prompt=None, max_length_ratio=1.25)
    assert [c.id for c in every.comparisons] == ["p/0-2", "p/0-3"]
    assert pairs_from_samples(three, pairs_per_prompt=None).unequal == 0


def test_an_empty_response_has_one_character_and_a_ratio_below_one_is_refused():
    assert pairs_from_samples(samples("p", "", "ab"), max_length_ratio=2.0).unequal == 0
    with pytest.raises(UserError, match=r"invalid max_length_ratio: 0.5; give 1"):
        pairs_from_samples([], max_length_ratio=0.5)


def principle(id: str, kind: str = "") -> Principle:
    scope = Scope(mentions=(kind,)) if kind else None
    return Principle(
        id=id, trait="good", compare="Which is better?", critique="?", revise="!", scope=scope
    )


def test_a_budget_of_reads_keeps_as_many_pairs_as_it_pays_for_whatever_their_order():
    many = [s for i in range(50) for s in samples(f"p{i}", "first", "second")]
    pairs = pairs_from_samples(many).comparisons
    rules = [principle("a"), principle("b")]  # four reads a pair
    kept = within_reads(pairs, rules, 43)
    assert len(kept) == 10
    assert [c.id for c in kept] == [c.id for c in pairs if c in kept]  # in their order
    assert set(within_reads(pairs[::-1], rules, 43)) == set(kept)
    assert set(kept) < set(within_reads(pairs, rules, 80))
    assert within_reads(pairs, rules, 200) == pairs
    assert kept != pairs[:10]


def test_reads_of_a_pair_are_two_for_every_principle_that_applies_or_is_sampled():
    question = samples("p", "a")[0].prompt.messages
    rules = [principle("a"), principle("b"), principle("c", "nowhere")]
    assert reads_of(question, rules) == 4
    assert reads_of(question, rules, sample_principles=1) == 2
    assert reads_of(question, rules, sample_principles=9) == 4


def test_a_budget_below_one_pair_is_an_error():
    pairs = pairs_from_samples(samples("p", "a", "b")).comparisons
    with pytest.raises(UserError, match="budget_reads=1 is less than the 2 reads of one pair"):
        within_reads(pairs, [principle("a")], 1)


def test_a_circle_compares_each_distinct_response_with_the_next():
    found = circle_pairs(samples("p", "a", "b", "b ", "c", "d"))
    assert [c.id for c in found.comparisons] == ["p/0-1", "p/1-3", "p/3-4", "p/0-4"]
    assert found.identical == 1
    assert [c.id for c in circle_pairs(samples("p", "a", "b")).comparisons] == ["p/0-1"]
    assert circle_pairs(samples("p", "a", "a")).comparisons == ()


def test_extremes_are_the_best_and_the_worst_by_the_mean_over_both_neighbors():
    four = samples("p", "a", "b", "c", "d")
    first_wins = {"p/0-1": 0.9, "p/1-2": 0.6, "p/2-3": 0.8, "p/0-3": 0.7}
    probs = {}
    for pair in circle_pairs(four).comparisons:
        first = "abcd"[int(pair.id[2])]
        prob = first_wins[pair.id]
        probs[pair.id] = prob if pair.response_a == first else 1 - prob
    # Means: a .8, b .35, c .6, d .25.
    (pair,) = extreme_pairs(four, probs)
    assert pair.id == "p/0-3"
    assert pair in circle_pairs(four).comparisons, "the same question as in the circle"


def test_extremes_of_a_prompt_without_two_judged_responses_are_left_out():
    four = samples("p", "a", "b", "c", "d")
    nothing = {c.id: None for c in circle_pairs(four).comparisons}
    assert extreme_pairs(four, nothing) == ()
    (pair,) = extreme_pairs(four, {**nothing, "p/1-2": 0.5})
    assert pair.id == "p/1-2"
