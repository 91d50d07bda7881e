"""JUnit XML: suites, failures and errors; well-formed for any text."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from rlaif.constitution_tools.examples import ExampleOutcome, ExampleResult
from rlaif.constitution_tools.junit import junit_xml

OUTCOMES = [
    ExampleOutcome("p", 1, "A", ExampleResult.PASSED, 0.8, 0.9, 0.7),
    ExampleOutcome("p", 2, "B", ExampleResult.FAILED, 0.4, 0.5, 0.3),
    ExampleOutcome("q", 1, "TIE", ExampleResult.WEAK, 0.5, 0.9, 0.1),
    ExampleOutcome("q", 2, "A", ExampleResult.UNJUDGED, reason="too_long: \x00 <&> \x1b[31m"),
]


def test_every_principle_is_a_suite_with_its_failures_and_errors() -> None:
    root = ET.fromstring(junit_xml("shop", OUTCOMES))
    assert [(s.get("name"), s.get("failures"), s.get("errors")) for s in root] == [
        ("p", "1", "0"),
        ("q", "0", "1"),
    ]
    failure = root.find("testsuite/testcase/failure")
    assert failure is not None
    assert failure.get("message") == "P(B is better): P 0.400, A first 0.500, B first 0.300"
    case = root.find("testsuite/testcase")
    assert case is not None
    assert (case.get("classname"), case.get("name")) == ("shop.p", "example 1 prefers A")
    assert "weak" in (root[1].findtext("testcase/system-out") or "")


@given(st.text(st.characters(codec=None)))
def test_any_text_makes_well_formed_xml(reason: str) -> None:
    outcome = ExampleOutcome("p", 1, "A", ExampleResult.UNJUDGED, reason=reason)
    written = junit_xml("shop", [outcome]).encode("utf-8")
    assert ET.fromstring(written).get("errors") == "1"
