"""Outcomes as JUnit XML for continuous integration, one suite per principle.

XML 1.0 cannot contain most control characters, even escaped (section 2.2): they become U+FFFD.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from xml.etree import ElementTree as ET

from rlaif.constitution_tools.examples import ExampleOutcome, ExampleResult

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(name: str, outcomes: Sequence[ExampleOutcome]) -> str:
    """The XML document; `name` is the constitution's. An unjudged example is an error."""
    root = ET.Element("testsuites", _counts(name, outcomes))
    for principle, group in groupby(outcomes, key=lambda outcome: outcome.principle_id):
        members = list(group)
        suite = ET.SubElement(root, "testsuite", _counts(principle, members))
        for outcome in members:
            case = ET.SubElement(
                suite, "testcase", classname=_clean(f"{name}.{principle}"), name=_title(outcome)
            )
            if outcome.result is ExampleResult.FAILED:
                ET.SubElement(case, "failure", message=_shown(outcome))
            elif outcome.result is ExampleResult.UNJUDGED:
                ET.SubElement(case, "error", message=_clean(outcome.reason))
            else:
                weak = " (weak: not in each order alone)" * (outcome.result is ExampleResult.WEAK)
                ET.SubElement(case, "system-out").text = _shown(outcome) + weak
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _counts(name: str, outcomes: Sequence[ExampleOutcome]) -> dict[str, str]:
    results = [outcome.result for outcome in outcomes]
    return {
        "name": _clean(name),
        "tests": str(len(results)),
        "failures": str(results.count(ExampleResult.FAILED)),
        "errors": str(results.count(ExampleResult.UNJUDGED)),
    }


def _title(outcome: ExampleOutcome) -> str:
    return f"example {outcome.number} prefers {outcome.preferred}"


def _shown(outcome: ExampleOutcome) -> str:
    parts = [("P", outcome.prob), ("A first", outcome.prob_ab), ("B first", outcome.prob_ba)]
    of = "A" if outcome.preferred == "TIE" else outcome.preferred
    read = ", ".join(f"{name} {prob:.3f}" for name, prob in parts if prob is not None)
    return f"P({of} is better): {read}"


def _clean(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
