"""Tables and lines for the terminal."""

from __future__ import annotations

import io

from rich.console import Console

from rlaif.constitution_tools.examples import ExampleOutcome, ExampleResult, summarize
from rlaif.constitution_tools.tables import one_line, print_outcomes
from tests.support.feedback.builders import example, make_constitution, principle


def test_a_text_is_shown_on_one_line_without_control_characters() -> None:
    assert one_line("two\n lines\t\x1b[31mred", 100) == "two lines  [31mred"
    assert one_line("abcdef", 4) == "abc…"


def test_failures_weak_passes_and_principles_without_examples_are_named() -> None:
    constitution = make_constitution(principle("p", example(), example()), principle("bare"))
    outcomes = [
        ExampleOutcome("p", 1, "A", ExampleResult.WEAK, 0.6, 0.9, 0.3),
        ExampleOutcome("p", 2, "A", ExampleResult.UNJUDGED, reason="too_long: [9000] tokens"),
    ]
    out = io.StringIO()
    print_outcomes(outcomes, summarize(outcomes, constitution), Console(file=out, width=120))
    printed = out.getvalue()
    assert "p, example 2: too_long: [9000] tokens" in printed
    assert "p: 1 of 2 passed, 50% [9%, 91%]" in printed
    assert "1 weak (not in each order alone)" in printed
    assert "principles without examples: bare;" in printed
