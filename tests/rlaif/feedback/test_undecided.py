"""Labels that hardly prefer a response are counted, and reported with figures."""

from __future__ import annotations

import pytest

import rlaif
from rlaif.api.pairs import plan_dpo, plan_reward
from rlaif.feedback.undecided import entropy, report_undecided, undecided_in
from tests.support.feedback.constitutions import make_constitution, principle
from tests.support.training.pairs import preference


@pytest.mark.parametrize(
    ("prob", "bits"),
    # H(1/4) = 2/4 + 3/4·(2 - log₂ 3)
    [(0.5, 1.0), (1.0, 0.0), (0.0, 0.0), (0.75, 0.8112781), (0.25, 0.8112781)],
)
def test_the_entropy_of_a_label_by_hand(prob, bits):
    assert entropy(prob) == pytest.approx(bits, abs=1e-7)


def test_four_undecided_labels_of_five_are_reported_with_share_and_entropy():
    line = undecided_in([0.5, 0.5, 0.5, 0.55, 1.0])
    # (1 + 1 + 1 + H(.55) + 0) / 5 = (3 + 0.992774) / 5
    assert line.startswith("4 of 5 labels hardly prefer a response: prob_chosen is within 0.05 of")
    assert "mean entropy 0.799 of 1 bit" in line
    assert "a stronger judge" in line


@pytest.mark.parametrize("probs", [[], [0.5, 0.5, 0.5, 0.56, 1.0], [1.0] * 10, [0.7] * 10])
def test_others_are_not(probs):
    assert undecided_in(probs) == ""


def test_a_label_that_chose_the_less_probable_response_counts_the_same():
    assert undecided_in([0.46, 0.47]).startswith("2 of 2 labels")


def test_of_several_processes_one_says_it(monkeypatch, capsys):
    report_undecided("")
    monkeypatch.setenv("RANK", "1")
    report_undecided("said")
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("RANK", "0")
    report_undecided("said")
    assert capsys.readouterr().err == "said\n"


def test_trainers_and_their_dry_run_say_it(tiny_model, monkeypatch, tmp_path, capsys):
    pairs = [preference(i, "Yes.", f"No {i}.", prob_chosen=0.51) for i in range(4)]
    sure = [preference(i, "Yes.", f"No {i}.") for i in range(4)]
    settings = {"model": tiny_model, "max_tokens": 200}
    rules = make_constitution(principle(0, trait="manners"))
    for name, plan, more in (
        ("dpo", plan_dpo, {}),
        ("reward", plan_reward, {"constitution": rules}),
    ):
        (note,) = plan(pairs, **settings, **more).notes
        assert note.startswith("4 of 4 labels hardly prefer")
        assert plan(sure, **settings, **more).notes == []
        monkeypatch.setattr(f"rlaif.algorithms.{name}.train.train", lambda *given: tmp_path)
        train = getattr(rlaif, f"train_{name}")
        train(pairs, **settings, **more)
        assert "4 of 4 labels hardly prefer" in capsys.readouterr().err
