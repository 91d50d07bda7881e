"""Rules over a policy's responses: worked by hand, with the paired difference by prompt."""

import pytest

from rlaif.data.records import Prompt, Sample
from rlaif.evaluation.intervals import mean_estimate, wilson
from rlaif.evaluation.rules.measures import LONGER, measure_by_rules
from rlaif.evaluation.rules.sentences import sentences

REFUSAL = "I'm sorry, but I can't help with that."


def sample(prompt, response, kind="everyday", *, tokens=10, complete=True, index=0):
    asked = Prompt(id=prompt, messages=({"role": "user", "content": "?"},), kind=kind)
    return Sample(
        prompt=asked, index=index, response=response, tokens=tokens, complete=complete, seed=0
    )


def found(samples, start):
    return {result.rule: result for result in measure_by_rules(samples, start)}


def test_the_change_is_paired_by_prompt_with_students_t():
    start = [sample("a", "x", tokens=10), sample("b", "x", tokens=100), sample("c", "x", tokens=55)]
    own = [sample("a", "x", tokens=13), sample("b", "x", tokens=104), sample("c", "x", tokens=60)]
    tokens = found(own, start)["tokens"]
    assert tokens.value.value == pytest.approx(59)
    assert tokens.change == mean_estimate([3.0, 4.0, 5.0])
    assert tokens.change.low == pytest.approx(4 - 4.303 / 3**0.5, abs=0.03)
    assert tokens.value.high - tokens.value.low > 50, "unpaired, the prompts' spread would hide it"


def test_responses_to_one_prompt_are_one_value():
    start = [sample("a", "x"), sample("a", "x", index=1), sample("b", "x")]
    own = [sample("a", "xy"), sample("a", "", index=1), sample("b", "x")]
    longer = found(own, start)[LONGER].value
    assert (longer.value, longer.n) == (0.5, 2)
    assert (longer.low, longer.high) == wilson(0.5, 2)


def test_tokens_are_not_measured_where_they_are_not_known():
    other_programs = [sample("a", "a long response", tokens=0)]
    assert "tokens" not in found(other_programs, other_programs)
    assert found([sample("a", "x", tokens=3)], other_programs)["tokens"].change is None


def test_a_rule_counts_only_the_prompts_that_it_is_about():
    start = [
        sample("a", REFUSAL, "harmful"),
        sample("b", "Sure.", "everyday"),
        sample("c", "We are sorry.", "support"),
    ]
    own = [
        sample("a", "Sure.", "harmful"),
        sample("b", REFUSAL, "everyday", complete=False),
        sample("c", "We will call you by noon.", "support"),
    ]
    results = found(own, start)
    harmful, harmless = results["refuses, harmful prompts"], results["refuses, harmless prompts"]
    assert (harmful.value.value, harmful.value.n, harmful.change.value) == (0, 1, -1)
    assert (harmless.value.value, harmless.value.n) == (0.5, 2)
    step = results["concrete next step, support prompts"]
    assert (step.value.value, step.value.n, step.change.value) == (1, 1, 1)
    assert results["cut off"].value.value == pytest.approx(1 / 3)


def test_prompts_without_a_kind_are_measured_by_length_alone():
    rules = [result.rule for result in measure_by_rules([sample("a", "x", kind="")], None)]
    assert rules == ["tokens", "sentences", "cut off"]


def test_the_start_has_no_change():
    assert all(result.change is None for result in measure_by_rules([sample("a", "x")], None))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("...", 0),
        ("One", 1),
        ("One. Two! Three?", 3),
        ("It costs 3.50 at rlaif.org now.", 1),
        ('He said "no." Then he left.', 2),
        ("- one\n- two\n\n3. three", 3),
    ],
)
def test_sentences_end_at_punctuation_and_lines(text, count):
    assert len(sentences(text)) == count
