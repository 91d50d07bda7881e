"""Responses that break a principle are dropped, counted, and rated once."""

from __future__ import annotations

import json
import threading

import pytest

import rlaif
from constitution.errors import UserError
from constitution.schema import Message
from judge_service.errors import JudgeUnavailable
from judge_service.types import Comparison, PrincipleScore, Score, Unjudged, UnjudgedReason, Usage
from rlaif.data.records import Prompt, Sample
from rlaif.feedback.earlier_labels import EarlierLabelsError
from rlaif.feedback.filter import FILTERED, broken_principle, filter_samples
from rlaif.feedback.labeler import LabelingError
from tests.support.feedback.scripted_judge import ScriptedJudge

_PAIR = Comparison("x", (), "a", "bb")


def score_of(*scores: float) -> Score:
    """A score whose principles p0, p1, … have these ratings."""
    found = ScriptedJudge().judge(_PAIR)
    by = tuple(PrincipleScore(f"p{i}", "t", 1.0, s, (), 1.0, "d") for i, s in enumerate(scores))
    return Score(sum(scores) / len(scores), {}, by, found.provenance, Usage(), 0.1)


class Rater(ScriptedJudge):
    """Rates a response by the numbers in its text; "?" cannot be rated."""

    def __init__(self) -> None:
        super().__init__()
        self.rated: list[str] = []
        self.lock = threading.Lock()
        self.down = ""

    def score(self, conversation, response, constitution, options, *, timeout):
        with self.lock:
            self.rated.append(response)
        if response == self.down:
            raise JudgeUnavailable("gone")
        if response == "?":
            return Unjudged(UnjudgedReason.TOO_LONG, "does not fit")
        return score_of(*map(float, response.split()))


def samples(*responses: str) -> list[Sample]:
    prompt = Prompt(id="p", messages=(Message(role="user", content="ask"),))
    return [
        Sample(prompt=prompt, index=i, response=r, tokens=1, complete=True, seed=0)
        for i, r in enumerate(responses)
    ]


def test_the_worst_principle_under_the_margin_is_the_reason():
    assert broken_principle(score_of(0.9, -0.3, -0.5), 0.25) == "p2"
    assert broken_principle(score_of(0.9, -0.25), 0.25) == ""  # by more than the margin
    assert broken_principle(score_of(-0.1), 0.0) == "p0"
    assert broken_principle(Unjudged(UnjudgedReason.TOO_LONG, ""), 0.25) == ""


def test_what_breaks_a_principle_is_dropped_counted_and_listed(tmp_path):
    given = samples("0.5 0.5", "0.9 -0.8", "-0.6 0.9", "?", "0.9 -0.7", "0.2 -0.1")
    found = filter_samples(given, Rater(), tmp_path, margin=0.25, constitution="hhh")
    assert [each.index for each in found.kept] == [0, 3, 5]
    assert (found.broken, found.unrated) == ({"p1": 2, "p0": 1}, 1)
    lines = [json.loads(line) for line in (tmp_path / FILTERED).read_text().splitlines()]
    assert [(line["id"], line["principle"]) for line in lines] == [
        ("p#1", "p1"), ("p#2", "p0"), ("p#4", "p1")
    ]  # fmt: skip


def test_after_the_judge_went_only_the_rest_is_rated(tmp_path):
    given, judge = samples("0.5", "-0.5", "0.1"), Rater()
    judge.down = "0.1"
    with pytest.raises(LabelingError, match="ratings so far are saved"):
        filter_samples(given, judge, tmp_path, margin=0.25, constitution="hhh")
    judge.down, before = "", len((tmp_path / "scores.journal.jsonl").read_text().splitlines())
    judge.rated.clear()
    found = filter_samples(given, judge, tmp_path, margin=0.25, constitution="hhh")
    assert len(judge.rated) == 3 - before
    assert [each.index for each in found.kept] == [0, 2]
    judge.rated.clear()
    stricter = filter_samples(given, judge, tmp_path, margin=0.6, constitution="hhh")
    assert (judge.rated, len(stricter.kept)) == ([], 3), "another margin costs no read"


def test_a_margin_outside_the_scale_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"invalid filter: 1\.5; give a margin from 0 to 1"):
        filter_samples(samples("1"), Rater(), tmp_path, margin=1.5)


def test_labeling_counts_what_the_filter_dropped_and_what_it_could_not_rate(tmp_path):
    given = samples("0.5", "0.9", "-0.8", "?")
    found = rlaif.label(given, server=Rater(), out=tmp_path, constitution="hhh", filter_margin=0.25)
    assert (found.filtered, found.unrated, found.pairs) == ({"p0": 1}, 1, 1)
    saved = json.loads((tmp_path / "labels.summary.json").read_text())
    assert (saved["filtered"], saved["unrated"]) == ({"p0": 1}, 1)


def test_labels_made_differently_are_refused_before_anything_is_rated(tmp_path):
    given, judge = samples("0.5", "0.9"), Rater()
    rlaif.label(given, server=judge, out=tmp_path, constitution="hhh")
    with pytest.raises(EarlierLabelsError, match="made differently"):
        rlaif.label(
            given, server=judge, out=tmp_path, constitution="hhh", seed=1, filter_margin=0.25
        )
    assert judge.rated == []
