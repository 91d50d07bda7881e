"""Win rates, judge scores, KL and text statistics, by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from constitution.schema import Message
from rlaif.evaluation import (
    EvaluationError,
    EvaluationResult,
    Outcome,
    PolicyRun,
    Verdict,
    compare_with_start,
    distinct_n,
    estimate_kl,
    evaluate,
    judge_score,
    length_stats,
    print_table,
    win_rate,
)
from rlaif.records import Prompt, Sample


def sample(prompt: str, response: str, index: int = 0, tokens: int = 3, complete: bool = True):
    question = Prompt(id=prompt, messages=(Message(role="user", content=f"ask {prompt}"),))
    return Sample(
        prompt=question, index=index, response=response, tokens=tokens, complete=complete, seed=0
    )


def prefers_the_longer(questions):
    return {
        id: Outcome(0.5 if len(a) == len(b) else 0.8 if len(a) > len(b) else 0.2)
        for id, _, a, b in questions
    }


def verdicts(*probs):
    return [Verdict(f"p{i}", 0, "text", prob) for i, prob in enumerate(probs)]


def test_ties_count_half_and_the_unjudged_not_at_all():
    found = win_rate(verdicts(0.9, 0.6, 0.5, 0.1, None))
    assert found.value == (1 + 1 + 0.5 + 0) / 4
    assert found.n == 4


def test_the_judge_score_is_the_mean_probability():
    assert judge_score(verdicts(0.9, 0.6, None)).value == pytest.approx(0.75)


def test_nothing_judged_is_no_number():
    assert win_rate(verdicts(None, None)) is None
    assert judge_score(verdicts(None)) is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_swapping_the_sides_gives_one_minus_the_win_rate(probs):
    one, other = win_rate(verdicts(*probs)), win_rate(verdicts(*(1 - p for p in probs)))
    # 1 - p rounds tiny p to 1, which wins as before: the sides swap exactly but at 1/2
    if all(p == 0.5 or abs(p - 0.5) > 1e-12 for p in probs):
        assert one.value + other.value == pytest.approx(1.0)


def test_the_probability_is_the_policys_whichever_side_it_stood_on():
    start = [sample(f"p{i}", "short") for i in range(40)]
    policy = [sample(f"p{i}", f"a longer answer {i}") for i in range(40)]
    sides = set()

    def compare(questions):
        sides.update(a == "short" for _, _, a, _ in questions)
        return prefers_the_longer(questions)

    found = compare_with_start(policy, start, compare)
    assert {v.prob for v in found} == {0.8}
    assert sides == {True, False}


def test_equal_texts_are_ties_without_asking():
    same = [sample("p", "same")]
    found = compare_with_start(same, same, lambda _: pytest.fail("the judge was asked"))
    assert [v.prob for v in found] == [0.5]


def test_a_response_without_its_counterpart_is_an_error_that_names_it():
    with pytest.raises(EvaluationError, match="no response 1 to prompt 'p'"):
        compare_with_start([sample("p", "x", index=1)], [sample("p", "y")], prefers_the_longer)


def test_an_answer_that_is_missing_is_an_error():
    with pytest.raises(EvaluationError, match="did not answer"):
        compare_with_start([sample("p", "x")], [sample("p", "y")], lambda _: {})


def test_kl_estimators_are_those_worked_by_hand_and_nothing_at_equality():
    samples = [sample("p", "x"), sample("q", "y")]
    policy = [[-1.0, -2.0], [-0.5]]
    reference = [[-1.5, -1.0], [-0.5]]
    # gaps .5, -1 and 0: k1 = -.5 and 0; k3 = (e^-.5 - 1 + .5) + (e^1 - 1 - 1) and 0
    found = estimate_kl(samples, lambda _: policy, lambda _: reference)
    assert found.k1.value == pytest.approx(-0.25)
    k3 = (math.exp(-0.5) - 0.5) + (math.e - 2)
    assert found.k3.value == pytest.approx(k3 / 2)
    equal = estimate_kl(samples, lambda _: policy, lambda _: policy)
    assert (equal.k1.value, equal.k3.value) == (0, 0)


def test_distinct_n_counts_different_over_all():
    assert distinct_n(["a b a", "A b"], 1) == 2 / 5
    assert distinct_n(["a b a", "a b"], 2) == 2 / 3
    assert distinct_n(["one"], 2) is None


def test_length_stats_are_in_tokens():
    found = length_stats([sample("p", "x", tokens=2), sample("q", "y", tokens=4, complete=False)])
    assert (found.mean, found.median, found.longest, found.complete) == (3, 3, 4, 0.5)


@pytest.fixture
def result():
    start = PolicyRun("start", [sample("p", "aa"), sample("q", "bb")], rewards=[0.0, 0.0])
    trained = PolicyRun(
        "DPO", [sample("p", "aaaa"), sample("q", "")], rewards=[1.0, 2.0], tokens_per_second=12.0
    )

    def compare(questions):
        return {
            id: Outcome(None, "empty_response") if "" in (a, b) else Outcome(0.9 if a > b else 0.1)
            for id, _, a, b in questions
        }

    return evaluate(start, [trained], compare)


def test_an_evaluation_counts_what_was_not_judged(result):
    start, trained = result.policies
    assert start.win_rate is None
    assert trained.win_rate.value == 1.0
    assert trained.win_rate.n == 1
    assert trained.unjudged == {"empty_response": 1}
    assert trained.reward_score.value == 1.5


def test_an_evaluation_comes_back_from_disk_as_it_was(result, tmp_path):
    result.save(tmp_path / "evaluation.json")
    assert EvaluationResult.load(tmp_path / "evaluation.json") == result


def test_the_table_shows_the_start_without_a_win_rate(result):
    console = Console(width=160, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        print_table(result, console)
    text = console.export_text()
    assert "100 %" in text
    assert next(line for line in text.splitlines() if "start " in line).count("—") >= 2


def test_no_samples_is_an_error():
    with pytest.raises(EvaluationError, match="no held-out responses"):
        evaluate(PolicyRun("start", []), [], prefers_the_longer)
