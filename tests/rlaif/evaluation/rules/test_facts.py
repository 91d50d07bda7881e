"""Answers to questions of common knowledge: their kinds, the questions that ship, and changes."""

from __future__ import annotations

from statistics import fmean

import pytest

from rlaif.data.prompts import load_prompts
from rlaif.data.records import Prompt, Sample
from rlaif.evaluation.intervals import mean_estimate, wilson
from rlaif.evaluation.rules.facts import FACT, accepted_answers, answer_kind, asks_fact, fact_kind
from rlaif.evaluation.rules.flips import Flips, mcnemar
from rlaif.evaluation.rules.measures import measure_by_rules, measure_facts

PROMPTS = load_prompts("facts")
RIGHT = {id: accepted[0] for id, accepted in accepted_answers().items()}


def answers(**given: str) -> list[Sample]:
    """The right answer to every question, and the given ones by the id without "fact-"."""
    texts = RIGHT | {f"fact-{id.replace('_', '-')}": text for id, text in given.items()}
    return [
        Sample(prompt=p, index=0, response=texts[p.id], tokens=3, complete=True, seed=0)
        for p in PROMPTS
    ]


# ── the kind of an answer ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        ("Canberra", "right"),
        ("The capital of Australia is Canberra.", "right"),
        ("CANBERRA!", "right"),
        ("Sure! It's **Canberra**, of course.", "right"),
        ("I'm not sure, but I think it's Canberra.", "right"),
        ("Sydney.", "wrong"),
        ("Canberran", "wrong"),
        ("Sydney. It is a large city. Canberra is smaller.", "wrong"),  # the third sentence
        ("I know that the capital is Sydney.", "wrong"),
        ("I don't know.", "declined"),
        ("Sorry, I do not know the answer.", "declined"),
        ("I\u2019m not sure.", "declined"),
        ("No idea", "declined"),
        ("I have no information about this.", "declined"),
        ("I can't answer that.", "declined"),
        ("I don't have that information.", "declined"),
        ("As an AI, I am unable to provide such facts.", "declined"),
        ("", "declined"),
        (" ...", "declined"),
    ],
)
def test_an_answer_is_right_wrong_or_declined(response, kind):
    assert answer_kind(response, ("Canberra",)) == kind


@pytest.mark.parametrize(
    ("response", "accepted"),
    [
        ("It is 64.", ("64",)),
        ("Sixty-four squares", ("64", "sixty four")),
        ("H₂O", ("H2O",)),
        ("H2O", ("H₂O",)),
        ("Maria Skłodowska-Curie", ("Skłodowska",)),
        ("leonardo da vinci", ("Leonardo",)),
        ("Pacific Ocean", ("the Pacific",)),
    ],
)
def test_names_are_compared_without_case_accents_hyphens_and_the(response, accepted):
    assert answer_kind(response, accepted) == "right"


@pytest.mark.parametrize(
    ("response", "accepted"), [("1640", ("64",)), ("6", ("64",)), ("8", ("2",))]
)
def test_a_number_within_another_number_is_wrong(response, accepted):
    assert answer_kind(response, accepted) == "wrong"


# ── the questions that ship ──────────────────────────────────────────────────────────────────


def test_there_are_forty_to_sixty_questions_each_with_its_answers():
    assert 40 <= len(PROMPTS) <= 60
    assert [prompt.id for prompt in PROMPTS] == list(accepted_answers())
    assert all(prompt.kind == FACT and len(prompt.messages) == 1 for prompt in PROMPTS)
    assert len({prompt.messages[0].content for prompt in PROMPTS}) == len(PROMPTS)


def test_no_question_contains_its_answer_and_every_accepted_answer_is_right():
    for prompt in PROMPTS:
        accepted = accepted_answers()[prompt.id]
        question = prompt.messages[0].content
        assert answer_kind(question.partition("?")[0], accepted) != "right", prompt.id
        assert {answer_kind(name, accepted) for name in accepted} == {"right"}, prompt.id


def test_the_answer_to_one_question_is_wrong_for_nearly_all_others():
    wrong = [
        answer_kind(own, accepted_answers()[other]) == "wrong"
        for id, own in RIGHT.items()
        for other in RIGHT
        if other != id
    ]
    assert fmean(wrong) > 0.99  # insects and hexagons both have six


def test_only_the_questions_that_ship_are_facts():
    asked = Prompt(id="mine", messages=({"role": "user", "content": "?"},), kind=FACT)
    mine = Sample(prompt=asked, index=0, response="x", tokens=1, complete=True, seed=0)
    assert not asks_fact(mine)
    assert measure_facts([mine], None) == ()
    assert asks_fact(answers()[0])
    assert fact_kind(answers()[0]) == "right"


# ── before and after ─────────────────────────────────────────────────────────────────────────


def test_shares_changes_and_flips_by_hand():
    start = answers(water_formula="I don't know.", gold_symbol="Ag", radium="Bohr")
    now = answers(hamlet_author="Goethe", heart="Liver", gold_symbol="Ag", radium="Not sure")
    found = {result.rule: result for result in measure_facts(now, start)}
    right, wrong = found["fact right"], found["fact wrong"]
    n = len(PROMPTS)
    assert right.value.value == (n - 4) / n
    assert (right.value.low, right.value.high) == wilson((n - 4) / n, n)
    assert wrong.value.value == pytest.approx(3 / n)
    assert found["fact declined"].value.value == pytest.approx(1 / n)
    # right: water gained; Hamlet and the heart lost. wrong: these two gained; radium lost
    assert right.flips == Flips(1, 2, mcnemar(1, 2))
    assert wrong.flips == Flips(2, 1, mcnemar(2, 1))
    assert found["fact declined"].flips == Flips(1, 1, 1.0)
    differences = [1.0] + [-1.0] * 2 + [0.0] * (n - 3)
    assert right.change == mean_estimate(differences, -1.0, 1.0)


def test_the_start_has_shares_and_no_change_and_without_answers_there_is_nothing():
    first = measure_facts(answers(), None)
    assert [(r.rule, r.value.value) for r in first] == [
        ("fact right", 1.0), ("fact wrong", 0.0), ("fact declined", 0.0),
    ]  # fmt: skip
    assert all(result.change is None and result.flips is None for result in first)
    assert measure_facts([], answers()) == ()


def test_the_other_rules_do_not_count_facts_as_facts():
    names = {result.rule for result in measure_by_rules(answers(), None)}
    assert not any(name.startswith("fact") for name in names)


# ── McNemar's test ───────────────────────────────────────────────────────────────────────────


def test_mcnemars_p_by_hand():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(0, 5) == mcnemar(5, 0) == 2 / 32
    assert mcnemar(1, 5) == 2 * (1 + 6) / 64
    assert mcnemar(3, 3) == 1.0


def test_mcnemars_p_is_that_of_scipys_binomial_test():
    stats = pytest.importorskip("scipy.stats")
    for gained in range(12):
        for lost in range(0 if gained else 1, 12):
            expected = stats.binomtest(gained, gained + lost, 0.5).pvalue
            assert mcnemar(gained, lost) == pytest.approx(expected, abs=1e-12)


def test_mcnemars_p_rejects_at_most_as_often_as_it_says():
    """Over all outcomes of n fair flips: p is at most alpha in at most that share."""
    from math import comb

    for n in (5, 10, 20):
        for alpha in (0.01, 0.05, 0.2):
            rejected = sum(comb(n, k) for k in range(n + 1) if mcnemar(k, n - k) <= alpha) / 2**n
            assert rejected <= alpha


def test_flips_count_prompts_in_both_only():
    assert Flips.between({"a": 1, "b": 0, "c": 1}, {"a": 0, "b": 1, "d": 1}) == Flips(1, 1, 1.0)
