"""The first screen: who judged, how much was labeled, and which policy is better."""

import re

import pytest

from tests.rlaif.report.pages import edit_evaluation, render, text_of


def first_screen(html: str) -> str:
    return text_of(html.split('<dl class="facts">')[0].split('<div class="glance">')[1])


def test_the_first_screen_says_who_judged_how_much_and_what_came_out(graph_page):
    screen = first_screen(graph_page)
    assert "scripted (constitution hhh 1.0.0) labeled the training pairs and judged" in screen
    assert "23 labeled pairs (labels_helpful)" in screen
    assert "24 held-out prompts (compare_again)" in screen
    assert re.search(
        r"dpo_soft: \w[\w ]+ the start ; it wins on \d+ % of 23 prompts \(95 % interval", screen
    )


def test_a_judge_that_labels_and_evaluates_is_pointed_out(whole_page):
    assert "The judge that evaluates also labeled the training data (scripted)." in first_screen(
        whole_page
    )


def test_another_judge_of_the_evaluation_is_named(copy):
    edit_evaluation(copy, lambda saved: saved["evaluators"][0].update(name="b", weights_sha256="1"))
    screen = first_screen(render(copy))
    assert "b (constitution hhh 1.0.0) judged the evaluation." in screen
    assert "The model that evaluated is not the one that labeled." in screen
    assert "also labeled the training data" not in screen


def test_of_several_judges_the_one_that_labeled_is_pointed_out(copy):
    def second(saved):
        other = dict(saved["evaluators"][0], name="b", weights_sha256="1")
        saved["evaluators"].append(other)

    edit_evaluation(copy, second)
    screen = first_screen(render(copy))
    assert "Of the judges that evaluate, scripted also labeled the training data." in screen
    assert "The judge that evaluates also" not in screen


def test_a_renamed_copy_of_the_labeler_is_the_same_model(copy):
    edit_evaluation(copy, lambda saved: saved["evaluators"][0].update(name="renamed"))
    assert "The judge that evaluates also labeled the training data (renamed)." in first_screen(
        render(copy)
    )


def test_an_evaluation_that_does_not_record_its_judge_claims_nothing(copy):
    edit_evaluation(copy, lambda saved: saved.pop("evaluators"))
    screen = first_screen(render(copy))
    assert "Who judged is not recorded in evaluation." in screen
    assert "also labeled the training data" not in screen


@pytest.mark.parametrize(
    ("low", "high", "finding"),
    [
        (0.51, 0.9, "better than the start"),
        (0.2, 0.49, "worse than the start"),
        (0.4, 0.6, "no significant difference from the start"),
    ],
)
def test_the_finding_claims_no_more_than_the_interval_allows(copy, low, high, finding):
    rate = {"value": (low + high) / 2, "low": low, "high": high, "n": 24}
    edit_evaluation(copy, lambda saved: saved["policies"][2].update(win_rate=rate))
    assert f"dpo: {finding} ;" in first_screen(render(copy))
