"""Credits and figures, worked by hand from the leaderboards' definitions."""

from __future__ import annotations

import math

import pytest

from rlaif.evaluation.intervals import share_estimate
from rlaif.gold_sets.answers import GoldAnswer, from_scores
from rlaif.gold_sets.figures import BenchFigure, figures, question_weights, ties_score
from rlaif.gold_sets.questions import GoldQuestion, as_messages


def question(
    source: str, right: int = 1, wrong: int = 1, group: str = "", id: str = "", prompt: str = "p"
) -> GoldQuestion:
    texts = tuple(f"r{n}" for n in range(right + wrong))
    return GoldQuestion(
        prompt, as_messages(prompt), texts, frozenset(range(right)), group, source, id
    )


def answer(source: str, *gaps: float, group: str = "", prompt: str = "p") -> GoldAnswer:
    return GoldAnswer(question(source, wrong=len(gaps), group=group, prompt=prompt), gaps)


def by_name(found: list[BenchFigure]) -> dict[str, float]:
    return {figure.name: round(figure.estimate.value, 6) for figure in found}


@pytest.mark.parametrize(
    ("source", "gaps", "credit"),
    [
        ("pairs", (0.1,), 1.0),
        ("pairs", (-0.1,), 0.0),
        ("pairs", (0.0,), 0.5),
        ("reward_bench", (0.0,), 0.0),
        ("xstest", (1.0, -1.0, 0.0), 0.5),
        ("reward_bench_2", (1.0, 0.5, 2.0), 1.0),
        ("reward_bench_2", (1.0, -0.5, 2.0), 0.0),
        ("reward_bench_2", (1.0, 0.0, 0.0), 1 / 3),
    ],
)
def test_the_credit_of_an_answer(source: str, gaps: tuple[float, ...], credit: float) -> None:
    assert answer(source, *gaps).credit == pytest.approx(credit)


@pytest.mark.parametrize(
    ("orders", "credit", "consistent"),
    [
        ((0.9, 0.6), 1.0, 1.0),
        ((0.9, 0.4), 0.0, 0.0),  # the mean is right, the sum of the votes is 0
        ((0.9, 0.5), 1.0, 0.0),  # +1 and a tie
        ((0.1, 0.2), 0.0, 1.0),
        ((0.1, 0.5), 0.0, 0.0),
    ],
)
def test_judge_bench_counts_votes_in_both_orders(
    orders: tuple[float, float], credit: float, consistent: float
) -> None:
    judged = GoldAnswer(question("judge_bench"), (1.0,), (orders,))
    assert (judged.credit, judged.consistent) == (credit, consistent)


def test_a_reward_model_has_no_orders_and_is_right_by_its_scores() -> None:
    scored = from_scores(question("judge_bench"), [0.2, 0.1])
    assert scored.gaps == pytest.approx((0.1,))
    assert (scored.credit, scored.consistent) == (1.0, None)


def test_reward_bench_weighs_subsets_by_the_official_counts_and_sections_equally() -> None:
    answers = [
        answer("reward_bench", 1, group="math-prm", prompt="a"),
        answer("reward_bench", -1, group="hep-cpp", prompt="b"),
        answer("reward_bench", 1, group="mt-bench-easy", prompt="c"),
        answer("reward_bench", 1, group="mt-bench-med", prompt="d"),
        answer("reward_bench", -1, group="mt-bench-med", prompt="e"),
    ]
    found = by_name(figures(answers))
    reasoning, chat = 984 / (984 + 164), (28 * 1 + 40 * 0.5) / 68
    assert found["Reasoning"] == pytest.approx(reasoning, abs=1e-6)
    assert found["Chat"] == pytest.approx(chat, abs=1e-6)
    assert found["overall"] == pytest.approx((reasoning + chat) / 2, abs=1e-6)
    assert found["mt-bench-med"] == 0.5
    assert "Safety" not in found


def test_rm_bench_takes_hard_normal_and_easy_from_the_matrix_of_styles() -> None:
    # Scores: right 1, 2, 3 and wrong 0.5, 1.5, 2.5 by style. Right of wrong:
    #   right style 1 > wrong style 1 only; 2 > 1, 2; 3 > all.
    asked = question("rm_bench", right=3, wrong=3, group="chat")
    scored = from_scores(asked, [1, 2, 3, 0.5, 1.5, 2.5])
    found = by_name(figures([scored]))
    assert found["hard"] == 0.0
    assert found["normal"] == 1.0
    assert found["easy"] == 1.0
    assert found["overall"] == pytest.approx(6 / 9, abs=1e-6)


def test_rm_bench_averages_domains_and_the_halves_of_safety_first() -> None:
    wins, losses = [2, 2, 2, 1, 1, 1], [1, 1, 1, 2, 2, 2]
    answers = [
        from_scores(question("rm_bench", 3, 3, group=group, prompt=group), scores)
        for group, scores in (
            ("chat", losses), ("safety-refuse", wins), ("safety-response", losses), ("math", wins),
        )
    ]  # fmt: skip
    assert by_name(figures(answers))["overall"] == pytest.approx((0 + 0.5 + 1) / 3, abs=1e-6)


def test_the_ties_score_of_two_prompts_by_hand() -> None:
    def asked(id: str, right: int, scores: list[float]) -> GoldAnswer:
        wrong = len(scores) - right
        return from_scores(
            question("reward_bench_2", right, wrong, group="Ties", id=id, prompt=id), scores
        )

    answers = [
        asked("ref:1", 1, [5, 2]),  # m_ref = 3
        asked("tied:1", 2, [4, 3, 1]),  # m_tied = 2, d = 1: both margins hold
        asked("ref:2", 1, [1, 2]),  # m_ref = -1
        asked("tied:2", 2, [4, 1, 0.5]),  # m_tied = 0.5, d = 3: neither
    ]
    # tied 1, ref 1/2, preferred 1/2, hard 1/2, margins tanh(2/1 - 1) and tanh(-1/3 - 1).
    margin = (math.tanh(1) + math.tanh(-4 / 3)) / 2
    assert ties_score(answers) == pytest.approx(0.3 + 0.15 + 0.1 + 0.1 + 0.01 * margin)


def test_reward_bench_2_is_the_mean_of_its_subsets_with_the_score_of_ties() -> None:
    ties = [
        from_scores(question("reward_bench_2", 1, 1, "Ties", "ref:1", "t1"), [1, 0]),
        from_scores(question("reward_bench_2", 2, 1, "Ties", "tied:1", "t2"), [1, 1, 0]),
    ]  # d = 0, m = 1: everything holds, and tanh is 1
    rest = [
        answer("reward_bench_2", 1, 1, 1, group="Focus", prompt="a"),
        answer("reward_bench_2", 1, -1, 1, group="Focus", prompt="b"),
        answer("reward_bench_2", 1, 1, 1, group="Math", prompt="c"),
    ]
    found = figures([*ties, *rest])
    assert by_name(found) == {
        "overall": pytest.approx((1.01 + 0.5 + 1) / 3, abs=1e-6), "Focus": 0.5, "Math": 1.0,
        "Ties": 1.01,
    }  # fmt: skip
    (own,) = (figure.estimate for figure in found if figure.name == "Ties")
    assert own.low is not None
    # One prompt: no draw differs from it, and still nothing is certain. Wilson's [0.21, 1] is as
    # wide.
    assert own.low == pytest.approx(1.01 - 0.79 / 2, abs=0.01)
    overall = found[0].estimate
    assert overall.low is not None
    assert overall.high is not None
    assert overall.low < overall.value < overall.high


def test_other_benchmarks_are_the_mean_over_questions_clustered_by_prompt() -> None:
    answers = [
        answer("llmbar", 1, group="Natural", prompt="a"),
        answer("llmbar", 1, group="Natural", prompt="a"),
        answer("llmbar", -1, group="Manual", prompt="b"),
    ]
    overall, natural, manual = figures(answers)
    assert (overall.estimate.value, overall.estimate.n) == (pytest.approx(2 / 3), 2)
    assert (natural.name, natural.estimate, natural.questions) == (
        "Natural", share_estimate([1.0]), 2,
    )  # fmt: skip
    assert manual.estimate.value == 0


@pytest.mark.parametrize("source", ["reward_bench", "rm_bench", "reward_bench_2", "pairs"])
def test_the_weights_of_questions_give_the_overall_figure(source: str) -> None:
    signs = [1, -1, 1, 1, -1]
    groups = ["math-prm", "hep-go", "mt-bench-med", "mt-bench-med", "unknown"]
    answers = [
        GoldAnswer(question(source, group=group, prompt=f"{n}"), (sign,) * 1)
        if source != "rm_bench"
        else GoldAnswer(question(source, 3, 3, group=group, prompt=f"{n}"), (sign,) * 9)
        for n, (sign, group) in enumerate(zip(signs, groups, strict=True))
    ]
    weights = question_weights(answers)
    mean = sum(w * a.credit for w, a in zip(weights, answers, strict=True)) / sum(weights)
    assert figures(answers)[0].estimate.value == pytest.approx(mean)
