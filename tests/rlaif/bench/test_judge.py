"""Judges with a known habit on questions with known answers, over a real server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from constitution import Constitution
from judge_service.client.sync import JudgeClient
from rlaif.bench.judge import JudgeBench
from rlaif.bench.obedience import ALL, inverse_of
from rlaif.bench.plan import comparisons, count_reads, drawn_places
from rlaif.bench.result import Answered
from rlaif.gold_sets.length import length_bias
from rlaif.gold_sets.questions import GoldQuestion, as_messages
from tests.support.fakes import Answer, FakeEngine
from tests.support.feedback.bench_judges import first_shown, knows_right, knows_right_only
from tests.support.service.thread_server import serving_in_thread

OVERALL = Constitution.load("overall")
PAIRS = [
    GoldQuestion.pair(f"question {n}", f"a right one {'.' * (n % 4)}", f"another one {'.' * n}")
    for n in range(12)
]


@contextmanager
def bench(
    answer: Answer, folder: Path, inline: bool = True, **values: Any
) -> Iterator[tuple[JudgeBench, FakeEngine]]:
    engine = FakeEngine(answer)
    served: dict[str, Any] = {"constitutions": ("overall",), "allow_inline_constitutions": inline}
    with (
        serving_in_thread(engine, **served) as (address, _),
        JudgeClient(address) as client,
    ):
        yield JudgeBench(client, folder, **{"constitution": OVERALL, **values}), engine


def answered(
    answer: Answer, folder: Path, questions: list[GoldQuestion], **values: Any
) -> Answered:
    with bench(answer, folder, **values) as (judge, _):
        return judge.answer(questions)


def test_a_judge_that_knows_the_answers_and_follows_its_principle(tmp_path: Path) -> None:
    found = answered(
        knows_right, tmp_path, PAIRS, inverted=inverse_of(OVERALL), obedience_questions=5
    )
    assert [answer.credit for answer in found.answers] == [1.0] * 12
    assert [answer.question for answer in found.answers] == PAIRS
    assert {answer.consistent for answer in found.answers} == {1.0}
    first, second = found.answers[0].in_orders[0]
    assert (first, second) == pytest.approx((0.909, 0.909), abs=1e-3)
    (obeyed,) = found.obedience
    assert (obeyed.pairs, obeyed.accuracy.value) == (5, 1.0)
    assert (obeyed.inverted.value, obeyed.turned.value) == (0.0, 1.0)
    assert (found.cost.reads, found.notes) == (24, [])


def test_a_judge_that_does_not_read_its_principle_is_found_out(tmp_path: Path) -> None:
    found = answered(
        knows_right_only, tmp_path, PAIRS, inverted=inverse_of(OVERALL), obedience_questions=99
    )
    (obeyed,) = found.obedience
    assert (obeyed.pairs, obeyed.inverted.value, obeyed.turned.value) == (12, 1.0, 0.0)


def test_obedience_lists_principles_in_the_order_of_the_constitution(tmp_path: Path) -> None:
    rules = Constitution.load("customer_support")
    found = answered(
        knows_right, tmp_path, PAIRS[:2], constitution=rules, inverted=inverse_of(rules),
        obedience_questions=2,
    )  # fmt: skip
    asked = [p.id for p in rules.principles if p.applies_to(PAIRS[0].messages)]
    assert len(asked) > 3
    assert [each.principle for each in found.obedience] == [ALL, *asked]


def test_a_judge_of_length_has_a_slope_and_follows_the_longer(tmp_path: Path) -> None:
    questions = [
        GoldQuestion.pair(f"q{n}", "a" * (5 + n % 3), "b" * (3 + n % 7)) for n in range(24)
    ]
    found = length_bias(answered(FakeEngine().answer, tmp_path, questions).answers)
    assert found.longer_chosen is not None
    assert found.longer_chosen.value == 1.0
    assert found.slope is not None
    assert found.slope.low is not None
    assert found.slope.low > 0
    assert found.correlation is not None
    assert found.correlation > 0.8


def test_a_judge_of_positions_is_never_consistent_and_judge_bench_calls_it_wrong(
    tmp_path: Path,
) -> None:
    questions = [replace(question, source="judge_bench") for question in PAIRS]
    found = answered(first_shown, tmp_path, questions)
    assert {answer.consistent for answer in found.answers} == {0.0}
    assert {answer.credit for answer in found.answers} == {0.0}
    # The label itself is right, since both orders average to more than a half.
    assert all(answer.gaps[0] > 0 for answer in found.answers)
    first, second = found.answers[0].in_orders[0]
    assert (first, second) == pytest.approx((0.9, 0.2), abs=1e-6)


def test_nothing_that_was_answered_is_read_again(tmp_path: Path) -> None:
    with bench(knows_right, tmp_path) as (judge, engine):
        judge.answer(PAIRS[:8])
        before = len(engine.prompts)
        again = judge.answer(PAIRS)
        assert len(engine.prompts) == before + 8
        assert (again.cost.reads, again.cost.seconds) == (24, None)
        assert [answer.credit for answer in again.answers] == [1.0] * 12


def best_of_four(prompt: str, right: int = 1, group: str = "Math", id: str = "") -> GoldQuestion:
    texts = tuple("a right one" if n < right else f"wrong number {n}" for n in range(4))
    if group == "Ties":  # the scores of a FakeEngine are high from 20 characters on
        texts = tuple(f"a right one, longer {n}" if n < right else f"wrong {n}" for n in range(4))
    messages = as_messages(prompt)
    return GoldQuestion(
        prompt, messages, texts, frozenset(range(right)), group, "reward_bench_2", id
    )


def test_the_best_of_four_is_compared_with_each_and_ties_are_scored(tmp_path: Path) -> None:
    questions = [
        best_of_four("one"), best_of_four("two", 2, "Ties", "tied:1"),
        best_of_four("three", 1, "Ties", "ref:1"), best_of_four("four"),
    ]  # fmt: skip
    with bench(knows_right, tmp_path) as (judge, engine):
        found = judge.answer(questions)
        assert len(engine.prompts) == found.cost.reads == 2 * 6 + 2 * 4
        assert count_reads(questions, OVERALL, by_scores=False) == 20
        assert [answer.question for answer in found.answers] == questions
        assert [answer.credit for answer in found.answers] == [1.0] * 4
        assert [len(answer.in_orders) for answer in found.answers] == [3, 0, 0, 3]
        assert judge.answer(questions).cost.seconds is None
        assert len(engine.prompts) == 20


def test_scores_can_answer_every_question(tmp_path: Path) -> None:
    questions = [
        GoldQuestion.pair(f"q{n}", "long enough for a high score", "short") for n in range(3)
    ]
    found = answered(knows_right, tmp_path, questions, by_scores=True)
    assert [answer.credit for answer in found.answers] == [1.0] * 3
    assert found.answers[0].gaps[0] > 0.5
    assert (found.cost.reads, found.answers[0].consistent) == (6, None)


def test_a_question_that_cannot_be_judged_is_counted_by_its_reason(tmp_path: Path) -> None:
    long = GoldQuestion.pair("q", "a right one", "word " * 6000)
    for by_scores in (False, True):
        found = answered(
            knows_right, tmp_path / f"{by_scores}", [PAIRS[0], long], by_scores=by_scores
        )
        assert [answer.question for answer in found.answers] == [PAIRS[0]]
        assert found.unanswered == {"too_long": 1}


def test_a_server_without_inline_constitutions_leaves_obedience_out_and_says_so(
    tmp_path: Path,
) -> None:
    found = answered(
        knows_right, tmp_path, PAIRS, inline=False, inverted=inverse_of(OVERALL),
        obedience_questions=5,
    )  # fmt: skip
    assert len(found.answers) == 12
    assert not found.obedience
    assert "start it with --allow-inline" in found.notes[0]


def test_which_response_is_a_does_not_depend_on_which_is_right() -> None:
    question = PAIRS[3]
    swapped = replace(question, right=frozenset({1}))
    (one,), (other,) = comparisons(question, "0"), comparisons(swapped, "0")
    assert (one.response_a, one.response_b) == (other.response_a, other.response_b)


def test_places_are_drawn_by_the_seed_in_order() -> None:
    assert drawn_places(3, 5, 0) == [0, 1, 2]
    drawn = drawn_places(100, 10, 1)
    assert drawn == sorted(drawn) == drawn_places(100, 10, 1) != drawn_places(100, 10, 2)
    assert len(set(drawn)) == 10
