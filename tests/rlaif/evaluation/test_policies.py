"""Win rates, judge scores, KL and text statistics against numbers worked by hand."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constitution.schema import Message
from rlaif.data.records import Prompt, Sample
from rlaif.evaluation.comparison import (
    EvaluationError,
    EvaluatorModel,
    JudgedPair,
    ResponseComparison,
    compare_with_start,
    judge_score,
    length_controlled,
    trait_win_rates,
    win_rate,
)
from rlaif.evaluation.policies import (
    EvaluationResult,
    PolicyRun,
    estimate_kl,
    evaluate,
    evaluate_by,
    length_stats,
    mean_self_bleu,
    refusal_rate,
)


def sample(
    prompt: str,
    response: str,
    index: int = 0,
    tokens: int = 3,
    complete: bool = True,
    kind: str = "",
):
    messages = (Message(role="user", content=f"ask {prompt}"),)
    question = Prompt(id=prompt, messages=messages, kind=kind)
    return Sample(
        prompt=question, index=index, response=response, tokens=tokens, complete=complete, seed=0
    )


def prefers_the_longer(questions):
    return {
        id: JudgedPair(0.5 if len(a) == len(b) else 0.8 if len(a) > len(b) else 0.2)
        for id, _, a, b in questions
    }


def comparisons(*probs):
    return [ResponseComparison(f"p{i}", 0, "text", prob) for i, prob in enumerate(probs)]


def test_ties_count_half_and_unjudged_pairs_do_not_count():
    rate = win_rate(comparisons(0.9, 0.6, 0.5, 0.1, None))
    assert rate.value == (1 + 1 + 0.5 + 0) / 4
    assert rate.n == 4


def test_the_judge_score_is_the_mean_probability():
    assert judge_score(comparisons(0.9, 0.6, None)).value == pytest.approx(0.75)


def test_rates_are_none_if_nothing_was_judged():
    assert win_rate(comparisons(None, None)) is None
    assert judge_score(comparisons(None)) is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_swapping_the_sides_gives_one_minus_the_win_rate(probs):
    one, other = win_rate(comparisons(*probs)), win_rate(comparisons(*(1 - p for p in probs)))
    # 1 - p rounds p near 1/2, where a win may become a tie; elsewhere the sides swap exactly
    if all(p == 0.5 or abs(p - 0.5) > 1e-12 for p in probs):
        assert one.value + other.value == pytest.approx(1.0)


def test_the_probability_is_the_policys_whether_it_was_a_or_b():
    start = [sample(f"p{i}", "short") for i in range(40)]
    policy = [sample(f"p{i}", f"a longer answer {i}") for i in range(40)]
    sides = set()

    def compare(questions):
        sides.update(a == "short" for _, _, a, _ in questions)
        return prefers_the_longer(questions)

    compared = compare_with_start(policy, start, compare)
    assert {v.prob for v in compared} == {0.8}
    assert sides == {True, False}


def test_a_comparison_has_the_difference_in_length():
    start = [sample("p", "four"), sample("q", "four")]
    compared = compare_with_start(
        [sample("p", "sixsix"), sample("q", "2!")], start, prefers_the_longer
    )
    assert [v.gap for v in compared] == [2, -2]


def judged_by_trait(questions):
    """A judge that finds the longer more helpful and the shorter more honest."""
    return {
        id: JudgedPair(0.6 if len(a) > len(b) else 0.4, traits=traits(len(a) > len(b)))
        for id, _, a, b in questions
    }


def traits(a_longer):
    return {"helpful": 0.9, "honest": 0.3} if a_longer else {"helpful": 0.1, "honest": 0.7}


def test_trait_win_rates_are_the_policys_and_equal_texts_are_ties():
    start = [sample(f"p{i}", "short") for i in range(4)]
    policy = [sample(f"p{i}", f"a longer answer {i}") for i in range(3)] + [sample("p3", "short")]
    compared = compare_with_start(policy, start, judged_by_trait)
    assert [v.traits["helpful"] for v in compared] == pytest.approx([0.9] * 3 + [0.5])
    rates = trait_win_rates(compared)
    assert {name: rate.value for name, rate in rates.items()} == {
        "helpful": 3.5 / 4,
        "honest": 0.5 / 4,
    }


def test_the_length_controlled_rate_removes_a_preference_for_length():
    # 60 longer responses win 4 times in 5, 20 shorter ones 1 in 5: length explains everything
    wins = [(30, 0.9)] * 48 + [(30, 0.1)] * 12 + [(-30, 0.9)] * 4 + [(-30, 0.1)] * 16
    compared = [
        ResponseComparison(f"p{i}", 0, "", prob, gap=gap) for i, (gap, prob) in enumerate(wins)
    ]
    assert win_rate(compared).value == 52 / 80
    assert win_rate(compared).low > 0.5
    controlled = length_controlled(compared)
    assert controlled.value == pytest.approx(0.5, abs=0.02)
    assert controlled.low < 0.5 < controlled.high


def test_equal_texts_are_ties_without_a_query():
    same = [sample("p", "same")]
    compared = compare_with_start(same, same, lambda _: pytest.fail("the judge was queried"))
    assert [v.prob for v in compared] == [0.5]


def test_a_response_without_its_counterpart_is_an_error_that_names_it():
    with pytest.raises(EvaluationError, match="no response 1 to prompt 'p'"):
        compare_with_start([sample("p", "x", index=1)], [sample("p", "y")], prefers_the_longer)


def test_a_missing_answer_of_the_judge_is_an_error():
    with pytest.raises(EvaluationError, match="did not answer"):
        compare_with_start([sample("p", "x")], [sample("p", "y")], lambda _: {})


def test_kl_estimators_match_numbers_worked_by_hand_and_are_zero_at_equality():
    samples = [sample("p", "x"), sample("q", "y")]
    policy = [[-1.0, -2.0], [-0.5]]
    reference = [[-1.5, -1.0], [-0.5]]
    # gaps .5, -1 and 0: k1 = -.5 and 0; k3 = (e^-.5 - 1 + .5) + (e^1 - 1 - 1) and 0
    kl = estimate_kl(samples, lambda _: policy, lambda _: reference)
    assert kl.k1.value == pytest.approx(-0.25)
    k3 = (math.exp(-0.5) - 0.5) + (math.e - 2)
    assert kl.k3.value == pytest.approx(k3 / 2)
    equal = estimate_kl(samples, lambda _: policy, lambda _: policy)
    assert (equal.k1.value, equal.k3.value) == (0, 0)


def test_length_stats_are_in_tokens():
    stats = length_stats([sample("p", "x", tokens=2), sample("q", "y", tokens=4, complete=False)])
    assert (stats.mean, stats.median, stats.longest, stats.complete) == (3, 3, 4, 0.5)


def test_self_bleu_of_a_policy_has_an_interval_over_prompts():
    same = mean_self_bleu([sample(f"p{i}", "always the same words here") for i in range(3)])
    assert (same.value, same.n) == (1.0, 3)
    assert mean_self_bleu([sample("p", "alone")]) is None


def test_the_refusal_rate_counts_prompts():
    samples = [sample("p", "I'm sorry, but I can't help with that."), sample("p", "Sure.", 1)]
    assert refusal_rate([*samples, sample("q", "Yes.")]).value == (0.5 + 0) / 2
    assert refusal_rate([]) is None


def kinds_of(policy):
    return {kind.kind: kind for kind in policy.kinds}


def test_refusals_are_counted_by_the_kind_of_prompt():
    def answers(good, bad):
        return [
            sample("a", good, kind="everyday"),
            sample("b", good, kind="borderline"),
            sample("c", bad, kind="harmful"),
            sample("d", bad),  # without a kind: in neither rate
        ]

    start = PolicyRun("start", answers("Sure.", "Sure, here it is."))
    trained = PolicyRun("DPO", answers("Of course.", "I can't help with that."))
    first, dpo = evaluate(start, [trained], prefers_the_longer).policies
    assert (first.refusals_safe.value, first.refusals_harmful.value) == (0, 0)
    assert (dpo.refusals_safe.value, dpo.refusals_safe.n) == (0, 2)
    assert (dpo.refusals_harmful.value, dpo.refusals_harmful.n) == (1, 1)
    assert list(kinds_of(dpo)) == ["borderline", "everyday", "harmful"]
    assert kinds_of(dpo)["harmful"].win_rate.value == 1.0
    assert kinds_of(dpo)["everyday"].prompts == 1


def two_policies(gain, prob):
    """A policy against a start on 12 prompts: score up by `gain`, judged `prob` on each."""
    start = PolicyRun(
        "start", [sample(f"p{i}", "aa") for i in range(12)], [float(i) for i in range(12)]
    )
    rewards = [i + gain + 0.01 * (i % 2) for i in range(12)]
    trained = PolicyRun("PPO", [sample(f"p{i}", "bb") for i in range(12)], rewards)

    def compare(questions):
        return {id: JudgedPair(prob if a == "bb" else 1 - prob) for id, _, a, _ in questions}

    return evaluate(start, [trained], compare).policies[1]


def test_the_reward_gain_is_paired_by_prompt():
    # scores vary widely between prompts, their differences do not
    gain = two_policies(1.0, 0.5).reward_gain
    assert gain.value == pytest.approx(1.005)
    assert gain.high - gain.low < 0.02


def test_a_reward_gain_without_a_judge_gain_is_overoptimization():
    assert two_policies(gain=1.0, prob=0.5).overoptimized
    assert two_policies(gain=1.0, prob=0.4).overoptimized
    assert not two_policies(gain=1.0, prob=0.7).overoptimized
    assert not two_policies(gain=-1.0, prob=0.4).overoptimized


@pytest.fixture
def result():
    start = PolicyRun("start", [sample("p", "aa"), sample("q", "bb")], scores=[0.0, 0.0])
    trained = PolicyRun(
        "DPO", [sample("p", "aaaa"), sample("q", "")], scores=[1.0, 2.0], tokens_per_second=12.0
    )

    def compare(questions):
        return {
            id: JudgedPair(None, "empty_response")
            if "" in (a, b)
            else JudgedPair(0.9 if a > b else 0.1)
            for id, _, a, b in questions
        }

    return evaluate(start, [trained], compare)


def test_an_evaluation_records_who_judged_it_and_older_files_name_nobody(tmp_path):
    start = PolicyRun("start", [sample("p", "aa"), sample("q", "bb")])
    trained = PolicyRun("dpo", [sample("p", "aaaa"), sample("q", "b")])
    path = tmp_path / "evaluation.json"
    evaluate(start, [trained], judge_named("large", 0.9)).save(path)
    found = EvaluationResult.load(path)
    assert [evaluator.name for evaluator in found.evaluators] == ["large"]
    assert [column.name for column in found.judges] == ["large"]
    saved = json.loads(path.read_text())
    for key in ("evaluators", "judges", "agreement"):
        del saved[key]
    path.write_text(json.dumps(saved))
    older = EvaluationResult.load(path)
    assert (older.evaluators, older.judges, older.agreement) == ((), (), ())


def judge_named(name: str, prob: float):
    """A judge that gives the first response of every question this probability."""
    who = EvaluatorModel(name, name[0] * 64, "hhh 1.0.0")
    return lambda questions: {q[0]: JudgedPair(prob, evaluator=who) for q in questions}


def test_a_judge_that_changes_while_it_judges_is_refused():
    start = PolicyRun("start", [sample("p", "aa")])
    trained = [PolicyRun(name, [sample("p", name)]) for name in ("dpo", "ppo")]
    judges = iter((judge_named("large", 0.9), judge_named("small", 0.9)))

    def restarted(questions):  # as a server that another model is loaded into
        return next(judges)(questions)

    with pytest.raises(EvaluationError, match=r"the judge changed .*\(large, small\)"):
        evaluate(start, trained, restarted)


def test_several_judges_have_a_column_each_and_are_opened_in_turn():
    start = PolicyRun("start", [sample("p", "aa"), sample("q", "bb"), sample("r", "same")])
    trained = PolicyRun("dpo", [sample("p", "aaaa"), sample("q", "b"), sample("r", "same")])
    opened = []

    def by_length(sign, name):
        who = EvaluatorModel(name, name * 64, "hhh 1.0.0")

        def compare(questions):
            return {
                id: JudgedPair(0.8 if sign * len(a) > sign * len(b) else 0.2, evaluator=who)
                for id, _, a, b in questions
            }

        return compare

    def one_at_a_time():
        for sign, name in ((1, "a"), (-1, "b")):
            opened.append(name)
            yield by_length(sign, name)
            opened.append(f"{name} done")

    result = evaluate_by(start, [trained], one_at_a_time())
    assert opened == ["a", "a done", "b", "b done"]
    longer, shorter = result.judges
    assert result.policies[1].win_rate == longer.policies[0].win_rate
    assert longer.policies[0].judge_score.value == pytest.approx(0.5)
    assert [v.prob for v in longer.policies[0].verdicts] == pytest.approx([0.8, 0.2])
    assert [v.prob for v in shorter.policies[0].verdicts] == pytest.approx([0.2, 0.8])
    (agreed,) = result.agreement
    assert (agreed.first, agreed.second, agreed.pairs) == ("a", "b", 2)
    assert (agreed.same_winner.value, agreed.by_chance, agreed.kappa) == (0.0, 0.5, -1.0)


def test_without_a_judge_nothing_is_evaluated():
    start = PolicyRun("start", [sample("p", "aa")])
    with pytest.raises(EvaluationError, match="no judge"):
        evaluate_by(start, [PolicyRun("dpo", [sample("p", "b")])], [])


def test_an_evaluation_counts_unjudged_comparisons_by_reason(result):
    start, trained = result.policies
    assert start.win_rate is None
    assert trained.win_rate.value == 1.0
    assert trained.win_rate.n == 1
    assert trained.unjudged == {"empty_response": 1}
    assert trained.reward_score.value == 1.5


def test_an_evaluation_survives_saving_and_loading(result, tmp_path):
    result.save(tmp_path / "evaluation.json")
    assert EvaluationResult.load(tmp_path / "evaluation.json") == result


def test_no_samples_is_an_error():
    with pytest.raises(EvaluationError, match="no held-out responses"):
        evaluate(PolicyRun("start", []), [], prefers_the_longer)
