"""Tests of examples: when they pass, when they are weak, and which are judged again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from constitution.errors import UserError
from constitution.schema import Constitution, Scope
from judge_service.types import Comparison, Judgment, Unjudged, UnjudgedReason
from rlaif.constitution_tools.examples import (
    Answer,
    ExampleOutcome,
    ExampleResult,
    cases,
    judge_cases,
    summarize,
)
from tests.support.feedback.builders import example, judged, make_constitution, principle


class ExamplesJudge:
    """Reads every comparison as `probs`, or gives `answer`; records what it received."""

    def __init__(self, *probs: float, answer: Unjudged | None = None) -> None:
        self.probs = probs
        self.answer = answer
        self.received: list[tuple[Comparison, Constitution]] = []

    def __call__(
        self, pairs: Sequence[Comparison], by: Constitution
    ) -> Iterator[tuple[str, Judgment | Unjudged]]:
        for pair in pairs:
            self.received.append((pair, by))
            yield pair.id, self.answer or judged(by, {by.principles[0].id: self.probs})


def run(
    of: Constitution, judge: ExamplesJudge, memory: dict[str, Answer] | None = None
) -> list[ExampleOutcome]:
    return list(judge_cases(cases(of), of, judge, {} if memory is None else memory))


@pytest.mark.parametrize(
    ("preferred", "probs", "result", "seen"),
    [  # P(A) in each order → the result, and P(preferred)
        ("A", (0.9, 0.7), ExampleResult.PASSED, 0.8),
        ("A", (0.9, 0.3), ExampleResult.WEAK, 0.6),
        ("A", (0.6, 0.2), ExampleResult.FAILED, 0.4),
        ("A", (0.5, 0.5), ExampleResult.FAILED, 0.5),
        ("B", (0.1, 0.3), ExampleResult.PASSED, 0.8),
        ("B", (0.55, 0.05), ExampleResult.WEAK, 0.7),
        ("B", (0.9, 0.7), ExampleResult.FAILED, 0.2),
        ("TIE", (0.45, 0.55), ExampleResult.PASSED, 0.5),
        ("TIE", (0.95, 0.05), ExampleResult.WEAK, 0.5),
        ("TIE", (0.7, 0.7), ExampleResult.FAILED, 0.7),
    ],
)
def test_an_example_passes_by_the_mean_of_both_orders_and_is_weak_if_one_fails(
    preferred: str, probs: tuple[float, float], result: ExampleResult, seen: float
) -> None:
    (found,) = run(make_constitution(principle("p", example(preferred))), ExamplesJudge(*probs))
    assert found.result is result
    assert found.prob == pytest.approx(seen)
    assert found.spread == pytest.approx(abs(probs[0] - probs[1]))
    assert (found.prob_ab + found.prob_ba) / 2 == pytest.approx(seen)


def test_every_example_is_judged_by_its_own_principle_alone() -> None:
    judge = ExamplesJudge(0.9, 0.9)
    constitution = make_constitution(
        principle("kind", example(prompt="one"), trait="kind"),
        principle("true", example(prompt="two"), trait="honest"),
        kind=2.0,
    )
    run(constitution, judge)
    used = [([p.id for p in by.principles], dict(by.trait_weights)) for _, by in judge.received]
    assert used == [(["kind"], {"kind": 2.0}), (["true"], {"honest": 1.0})]


def test_an_example_outside_its_scope_fails_without_being_judged() -> None:
    judge = ExamplesJudge(0.9, 0.9)
    scope = Scope(mentions=("refund",))
    constitution = make_constitution(
        principle("p", example(), example(prompt="A refund?"), scope=scope)
    )
    outside, inside = run(constitution, judge)
    assert outside.result is ExampleResult.UNJUDGED
    assert "scope" in outside.reason
    assert inside.passed
    assert len(judge.received) == 1


def test_an_example_without_a_judgment_fails_with_the_reason() -> None:
    judge = ExamplesJudge(answer=Unjudged(UnjudgedReason.TOO_LONG, "9000 tokens, 4096 fit"))
    (found,) = run(make_constitution(principle("p", example())), judge)
    assert not found.passed
    assert found.reason == "too_long: 9000 tokens, 4096 fit"


def test_a_missing_answer_is_unjudged() -> None:
    (found,) = judge_cases(
        cases(constitution := make_constitution(principle("p", example()))),
        constitution,
        lambda pairs, by: iter(()),
        {},
    )
    assert found.result is ExampleResult.UNJUDGED


def test_only_what_changed_is_judged_again() -> None:
    memory: dict[str, Answer] = {}
    first = ExamplesJudge(0.9, 0.9)
    run(
        make_constitution(principle("p", example(), example("B")), principle("q", example())),
        first,
        memory,
    )
    assert len(first.received) == 2  # the two examples of p have equal texts

    second = ExamplesJudge(0.9, 0.9)
    edited = make_constitution(
        principle("p", example("B"), example(b="three"), weight=3.0),
        principle("q", example(), compare="Prefer otherwise."),
    )
    found = run(edited, second, memory)
    assert [outcome.remembered for outcome in found] == [True, False, False]
    assert len(second.received) == 2
    assert found[0].result is ExampleResult.FAILED  # the same reads, seen from the other side


def test_a_transient_failure_is_judged_again() -> None:
    memory: dict[str, Answer] = {}
    constitution = make_constitution(principle("p", example()))
    run(
        constitution,
        ExamplesJudge(answer=Unjudged(UnjudgedReason.ENGINE_FAILED, "it died")),
        memory,
    )
    (found,) = run(constitution, judge := ExamplesJudge(0.9, 0.9), memory)
    assert found.passed
    assert len(judge.received) == 1


def test_progress_ends_at_the_number_of_examples() -> None:
    constitution = make_constitution(
        principle("p", example(), example()), principle("q", example()), principle("r")
    )
    counts: list[int] = []
    judge_cases(
        cases(constitution), constitution, ExamplesJudge(0.9, 0.9), {}, report=counts.append
    )
    assert counts[-1] == 3
    assert counts == sorted(counts)


def test_principles_are_selected_by_name_and_an_unknown_name_suggests_the_nearest() -> None:
    constitution = make_constitution(principle("polite", example()), principle("brief", example()))
    assert [case.principle.id for case in cases(constitution, ["brief"])] == ["brief"]
    with pytest.raises(UserError, match="did you mean 'polite'"):
        cases(constitution, ["polit"])


def test_the_summary_counts_by_principle_with_wilsons_interval() -> None:
    constitution = make_constitution(
        principle("p", example(), example("B")),
        principle("q", example(prompt="other")),
        principle("r"),
    )
    found = summarize(run(constitution, ExamplesJudge(0.9, 0.4)), constitution)
    assert found.total is not None
    assert (found.total.value, found.total.n) == (pytest.approx(2 / 3), 3)
    assert (found.total.low, found.total.high) == pytest.approx((0.2077, 0.9385), abs=1e-4)
    assert {name: share.value for name, share in found.by_principle.items()} == {"p": 0.5, "q": 1.0}
    assert found.weak == 2
    assert found.without_examples == ("r",)
