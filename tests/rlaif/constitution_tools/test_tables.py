"""What people read in a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from rlaif.constitution_tools.examples import ExampleOutcome, ExampleResult, summarize
from rlaif.constitution_tools.tables import one_line, print_outcomes
from tests.support.feedback.builders import example, law, principle


def test_a_text_is_shown_on_one_line_without_control_characters() -> None:
    assert one_line("two\n lines\t\x1b[31mred", 100) == "two lines  [31mred"
    assert one_line("abcdef", 4) == "abc…"


def test_failures_weak_passes_and_principles_without_examples_are_named() -> None:
    of = law(principle("p", example(), example()), principle("bare"))
    outcomes = [
        ExampleOutcome("p", 1, "A", ExampleResult.WEAK, 0.6, 0.9, 0.3),
        ExampleOutcome("p", 2, "A", ExampleResult.UNJUDGED, reason="too_long: [9000] tokens"),
    ]
    out = io.StringIO()
    print_outcomes(outcomes, summarize(outcomes, of), Console(file=out, width=120))
    told = out.getvalue()
    assert "p, example 2: too_long: [9000] tokens" in told
    assert "p: 1 of 2 passed, 50% [9%, 91%]" in told
    assert "1 weak: not by each order alone" in told
    assert "without examples: bare;" in told
