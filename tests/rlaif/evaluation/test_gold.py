"""Gold figures: exact where the truth is known, and named after the planted judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from constitution.schema import Message
from rlaif.data.records import Preference, Prompt, Sample
from rlaif.evaluation.comparison import JudgedPair
from rlaif.evaluation.gold import (
    GoldEvaluation,
    GoldLabels,
    gold_evaluation,
    gold_labels,
    gold_policy,
    reward_accuracy,
)
from rlaif.evaluation.intervals import Estimate
from rlaif.evaluation.policies import EvaluationResult, PolicyRun, evaluate


def truth(conversation: Sequence[Message], response: str) -> float:
    """The share of x among the first ten letters."""
    return response[:10].count("x") / 10


def label(prompt: str, chosen: str, rejected: str) -> Preference:
    said = (Message(role="user", content=prompt),)
    answers = [(Message(role="assistant", content=text),) for text in (chosen, rejected)]
    return Preference(
        id=f"{prompt}-{chosen}", prompt=said, chosen=answers[0], rejected=answers[1],
        prob_chosen=0.9,
    )  # fmt: skip


def samples(*responses: str, index: int = 0) -> list[Sample]:
    """One response to each of the prompts p0, p1, …"""
    return [
        Sample(
            prompt=Prompt(id=f"p{i}", messages=(Message(role="user", content=f"q{i}"),)),
            index=index, response=text, tokens=3, complete=True, seed=0,
        )
        for i, text in enumerate(responses)
    ]  # fmt: skip


LABELS = [label("p", "xx", "x"), label("p", "a", "x"), label("q", "xxx", ""), label("r", "a", "b")]


def test_label_accuracy_leaves_out_ties_and_is_a_mean_over_prompts() -> None:
    found = gold_labels("planted:j", LABELS, truth)
    assert found.accuracy is not None
    assert found.accuracy.value == pytest.approx((0.5 + 1.0) / 2)
    assert found.accuracy.n == 2
    assert (found.pairs, found.ties) == (4, 1)


def test_labels_that_are_all_ties_have_no_accuracy() -> None:
    assert gold_labels("planted:j", LABELS[3:], truth) == GoldLabels("planted:j", None, 1, 1)


def test_reward_accuracy_compares_the_sign_of_the_margin_with_the_truth() -> None:
    found = reward_accuracy(LABELS, [1.0, -2.0, 0.0, 5.0], truth)
    assert found is not None
    assert found.value == pytest.approx((1.0 + 0.5) / 2)
    assert reward_accuracy(LABELS[3:], [1.0], truth) is None


def test_policy_gold_is_the_mean_and_its_gain_is_by_prompt() -> None:
    start = samples("x", "xx", "xxx")
    found = gold_policy("dpo", samples("xxx", "xx", "xxxx"), start, truth)
    assert found.gold.value == pytest.approx(0.3)
    assert found.gain is not None
    assert found.gain.value == pytest.approx(0.1)
    assert gold_policy("start", start, None, truth).gain is None


def test_overoptimized_means_liked_by_the_judge_and_truly_worse() -> None:
    start, worse = samples("xxxx", "xxx", "xxxx"), samples("x", "x", "x")
    liked, unsure = Estimate(0.8, 0.7, 0.9, 3), Estimate(0.6, 0.4, 0.8, 3)
    assert gold_policy("ppo", worse, start, truth, liked).overoptimized
    assert not gold_policy("ppo", worse, start, truth, unsure).overoptimized
    assert not gold_policy("ppo", worse, start, truth).overoptimized
    assert not gold_policy("ppo", start, worse, truth, liked).overoptimized


def test_an_evaluation_has_the_start_and_every_policy_and_survives_saving(tmp_path: Path) -> None:
    start, better = samples("x", "x", "xx"), samples("xx", "xx", "xx")
    result = evaluate(
        PolicyRun("start", start),
        [PolicyRun("dpo", better)],
        lambda questions: {id: JudgedPair(0.9) for id, *_ in questions},
    )
    found = gold_evaluation(
        "planted:j", [("start", start), ("dpo", better)], result.judges[0], truth
    )
    assert [policy.name for policy in found.policies] == ["start", "dpo"]
    assert found.policies[1].gain is not None
    assert found.policies[1].gain.value == pytest.approx(0.2 / 3)
    found.save(tmp_path / "gold.json")
    assert GoldEvaluation.load(tmp_path / "gold.json") == found
    assert isinstance(result, EvaluationResult)
    labels = gold_labels("planted:j", LABELS, truth)
    labels.save(tmp_path / "labels.json")
    assert GoldLabels.load(tmp_path / "labels.json") == labels
