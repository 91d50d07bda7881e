"""The outcome of regression tests as JUnit XML, one suite per family; no text of any prompt."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from rlaif.redteam.regressions.check import CheckedRegression


def junit_xml(model: str, outcomes: Sequence[CheckedRegression]) -> str:
    """The XML document. model: what was tested."""
    root = ET.Element("testsuites", _counts(model, outcomes))
    for family in dict.fromkeys(each.test.family for each in outcomes):
        members = [each for each in outcomes if each.test.family == family]
        suite = ET.SubElement(root, "testsuite", _counts(family, members))
        for each in members:
            name, place = _clean(each.test.id), _clean(f"redteam.{family}")
            case = ET.SubElement(suite, "testcase", classname=place, name=name)
            if not each.passed:
                ET.SubElement(case, "failure", message=each.why)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _counts(name: str, outcomes: Sequence[CheckedRegression]) -> dict[str, str]:
    failures = sum(not each.passed for each in outcomes)
    counts = {"tests": len(outcomes), "failures": failures, "errors": 0}
    return {"name": _clean(name)} | {key: str(value) for key, value in counts.items()}


def _clean(text: str) -> str:
    """The text without characters that XML cannot contain."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
