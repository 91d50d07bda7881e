"""Which revisions become lessons: lint, gate and pilot, the files and the counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import rlaif
from constitution.schema import Message
from judge_service.errors import JudgeUnavailable
from judge_service.types import Comparison, Unjudged, UnjudgedReason, Usage, Writing
from rlaif.data.datasets import read_lessons, read_preferences
from rlaif.data.records import Prompt, Sample
from rlaif.feedback.labeler import LabelingError
from rlaif.feedback.receipts import parse_receipt
from rlaif.feedback.revisions.lessons import (
    LESSONS,
    PAIRS,
    SUMMARY,
    UNREVISED,
    RevisionMethod,
    revise,
)
from rlaif.feedback.revisions.rounds import RevisionError
from rlaif.feedback.revisions.summary import RevisionSummary, one_kind_only
from tests.support.feedback.scripted_judge import ScriptedJudge

METHOD = RevisionMethod(constitution="hhh", concurrency=1)


class WritingJudge(ScriptedJudge):
    """Revises by `rewrite`, and prefers the response with the higher `worth` (0 to 1)."""

    def __init__(self, rewrite: Callable[[str], str], worth: Callable[[str], float]) -> None:
        super().__init__()
        self.rewrite, self.worth = rewrite, worth
        self.written: list[str] = []

    def critique(self, conversation, response, constitution, options):
        return self._writing("It could be better.")

    def revise(self, conversation, response, critique, constitution, options):
        self.written.append(response)
        return self._writing(self.rewrite(response))

    def _writing(self, text: str) -> Writing:
        origin = super().judge(_PAIR).provenance
        return Writing(text, True, "be-helpful", origin, _USAGE, 0.1)

    def judge(self, comparison):
        found = super().judge(comparison)
        if isinstance(found, Unjudged) or "unjudged" in comparison.response_a:
            return Unjudged(UnjudgedReason.TOO_LONG, "does not fit")
        prob = (1 + self.worth(comparison.response_a) - self.worth(comparison.response_b)) / 2
        return replace(found, prob_a=prob)


def sample(n: int, response: str, kind: str = "harmful", **changes: Any) -> Sample:
    prompt = Prompt(id=f"p{n}", messages=(Message(role="user", content=f"ask {n}"),), kind=kind)
    facts = {"index": 0, "tokens": 3, "complete": True, "seed": n, "end_token": "<|im_end|>"}
    return Sample(prompt=prompt, response=response, **(facts | changes))


def judge_of(revisions: dict[str, tuple[str, float]]) -> WritingJudge:
    """response → (its revision, how much better that is, from -1 to 1)."""
    worth = {text: better for text, better in revisions.values()}
    return WritingJudge(lambda r: revisions[r][0], lambda text: worth.get(text, 0.0))


_PAIR = Comparison("x", (), "a", "b")
_USAGE = Usage(output_tokens=3)
MIXED = {
    "bad 0": ("A kind answer.", 0.4),  # p = 0.7
    "bad 1": ("A worse answer.", -0.2),  # p = 0.4
    "bad 2": ("Here is the revised reply: kind.", 0.9),
    "bad 3": ("BAD 3", 0.9),
    "bad 4": ("I would say that the", 0.9),
    "bad 5": ("I cannot help with that.", 0.2),  # p = 0.6
    "bad 6": ("unjudged", 0.9),
    "bad 7": ("Another answer.", 0.08),  # p = 0.54
}
KINDS = ["harmful"] * 5 + ["borderline"] * 3


def mixed_samples() -> list[Sample]:
    return [sample(n, f"bad {n}", KINDS[n]) for n in range(8)]


def test_what_is_better_by_the_gate_is_a_lesson_and_a_soft_pair_with_its_receipt(tmp_path):
    revise(mixed_samples(), judge_of(MIXED), tmp_path, METHOD)
    lessons = read_lessons(tmp_path / LESSONS)
    assert [(one.id, one.response) for one in lessons] == [
        ("p0#0", "A kind answer."), ("p5#0", "I cannot help with that.")
    ]  # fmt: skip
    first, second = read_preferences(tmp_path / PAIRS)
    assert (first.chosen_text, first.rejected_text) == ("A kind answer.", "bad 0")
    assert (first.prob_chosen, second.prob_chosen) == (pytest.approx(0.7), pytest.approx(0.6))
    assert first.rejected_end_token == "<|im_end|>"
    assert parse_receipt(first).provenance.model.name == "scripted"


def test_what_is_refused_is_kept_with_its_reason_and_only_clean_texts_are_judged(tmp_path):
    judge = judge_of(MIXED)
    revise(mixed_samples(), judge, tmp_path, METHOD)
    lines = [json.loads(line) for line in (tmp_path / UNREVISED).read_text().splitlines()]
    assert [(line["id"], line["reason"]) for line in lines] == [
        ("p1#0", "gate: not better"), ("p2#0", "preamble"), ("p3#0", "near copy"),
        ("p4#0", "cut text"), ("p6#0", "gate: too_long"), ("p7#0", "gate: not better"),
    ]  # fmt: skip
    assert lines[0]["detail"] == "P(better) 0.400 is under 0.55"
    assert (lines[0]["response"], lines[0]["revision"]) == ("bad 1", "A worse answer.")
    assert sorted(judge.received) == ["p0#0", "p1#0", "p5#0", "p6#0", "p7#0"]


def test_the_summary_counts_by_reason_and_kind_and_the_refusals_on_borderline_prompts(tmp_path):
    found = revise(mixed_samples(), judge_of(MIXED), tmp_path, METHOD)
    assert found == RevisionSummary.load(tmp_path / SUMMARY)
    assert (found.samples, found.lessons) == (8, 2)
    assert found.refused_by_reason == {
        "gate: not better": 2, "preamble": 1, "near copy": 1, "cut text": 1, "gate: too_long": 1
    }  # fmt: skip
    assert {kind: (n.samples, n.lessons) for kind, n in found.by_kind.items()} == {
        "harmful": (5, 1), "borderline": (3, 1)
    }  # fmt: skip
    assert found.mean_prob_better == pytest.approx((0.7 + 0.4 + 0.6 + 0.54) / 4)
    text = "\n".join(found.sentences())
    assert "2 of 8 revisions are lessons; refused: 2 gate: not better, 1 preamble" in text
    assert "1 of 1 lessons on borderline prompts refuse, by rule (of their originals 0)" in text
    assert "teach to refuse what should be answered" in text


def test_without_a_gate_nothing_is_compared_and_there_are_no_pairs(tmp_path):
    judge = judge_of(MIXED)
    revise(mixed_samples(), judge, tmp_path, METHOD)
    judge.received.clear()
    found = revise(mixed_samples(), judge, tmp_path, replace(METHOD, gate=None))
    assert (found.lessons, found.mean_prob_better, judge.received) == (5, None, [])
    assert not (tmp_path / PAIRS).exists()


def test_after_a_kill_in_the_gate_only_the_rest_is_compared_and_nothing_is_written_again(tmp_path):
    whole = judge_of(MIXED)
    revise(mixed_samples(), whole, tmp_path / "whole", METHOD)
    judge = judge_of(MIXED)
    judge.stop_after, judge.stop_with = 2, JudgeUnavailable("gone")
    with pytest.raises(LabelingError, match="2 of 5 labels are saved"):
        revise(mixed_samples(), judge, tmp_path / "cut", METHOD)
    before, judge.stop_after = list(judge.received), None
    judge.written.clear()
    judge.received.clear()
    revise(mixed_samples(), judge, tmp_path / "cut", METHOD)
    assert judge.written == []
    assert sorted(before + judge.received) == sorted(whole.received)
    for name in (LESSONS, UNREVISED, PAIRS):
        files = [tmp_path / run / name for run in ("whole", "cut")]
        assert files[0].read_bytes() == files[1].read_bytes(), name


def test_a_gate_that_lets_nothing_through_stops_after_the_pilot(tmp_path):
    judge = WritingJudge(lambda r: f"{r}, revised now", lambda text: 0.02 * ("now" in text))
    samples = [sample(n, f"answer {n}") for n in range(10)]
    match = (
        r"no lesson among the first 4 of 10 .*gate: not better 4.*not begun.*better with 0\.51, "
        r"under gate=0\.55: lower it"
    )
    with pytest.raises(RevisionError, match=match):
        revise(samples, judge, tmp_path, replace(METHOD, pilot=4))
    assert len(judge.written) == 4
    with pytest.raises(RevisionError, match="none of 10 responses could be revised"):
        revise(samples, judge, tmp_path, replace(METHOD, pilot=None))
    assert len(judge.written) == 10
    assert len((tmp_path / UNREVISED).read_text().splitlines()) == 10
    found = revise(samples, judge, tmp_path, replace(METHOD, gate=0.5, pilot=4))
    assert (found.lessons, found.asked) == (10, 0)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"gate": 0.4}, r"invalid gate: 0\.4; give a probability from 0\.5 to 1"),
        ({"gate": 1.0}, "invalid gate: 1"),
        ({"pilot": -1}, "invalid pilot: -1"),
        ({"rounds": 0}, "invalid rounds: 0; give an integer, 1 or more"),
    ],
)
def test_a_method_that_cannot_work_is_refused(changes, match):
    with pytest.raises(RevisionError, match=match):
        replace(METHOD, **changes)


def test_prompts_of_one_kind_are_said_before_anything_is_asked(tmp_path, capsys):
    harmful = [sample(n, f"bad {n}") for n in (0, 5)]
    revise(harmful, judge_of(MIXED), tmp_path, METHOD)
    assert "all 2 prompts are harmful: a policy that sees only such" in capsys.readouterr().err
    prompts = [each.prompt for each in mixed_samples()]
    assert one_kind_only(prompts) == ""
    assert one_kind_only([p.model_copy(update={"kind": ""}) for p in prompts]) == ""
    everyday = [p.model_copy(update={"kind": "everyday"}) for p in prompts]
    assert "all 8 prompts are of kind 'everyday'" in one_kind_only(everyday)


def test_the_public_function_revises_by_an_open_client(tmp_path):
    done = rlaif.revise(
        mixed_samples(), server=judge_of(MIXED), constitution="hhh", out=tmp_path, gate=0.65
    )
    assert [lesson.id for lesson in read_lessons(tmp_path / LESSONS)] == ["p0#0"]
    assert (done.samples, done.lessons, done.gate) == (8, 1, 0.65)
