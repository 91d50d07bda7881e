"""The linter: each remark where it belongs, and none about what ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from constitution import Constitution
from constitution.lint import Severity, lint, lint_text
from constitution.loading import library_names


def example(**changes: str) -> dict[str, str]:
    texts = {"prompt": "Hi", "response_a": "A longer greeting.", "response_b": "Hello."}
    return {**texts, "preferred": "B", **changes}


def principle(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": name,
        "trait": "kind",
        "compare": f"Prefer the reply that greets the person with a {name} word.",
        "critique": "Find what is missing.",
        "revise": "Add it.",
        "examples": [example(), example(preferred="A")],
        **changes,
    }


def constitution(*principles: dict[str, Any], description: str = "Kindness.") -> Constitution:
    return Constitution.model_validate(
        {
            "name": "small",
            "version": "1.0.0",
            "traits": {"kind": {"description": description}},
            "principles": principles or [principle("calm")],
        }
    )


def codes(law: Constitution) -> list[str]:
    return [finding.code for finding in lint(law)]


def test_a_careful_constitution_has_no_findings() -> None:
    assert lint(constitution()) == []


@pytest.mark.parametrize("name", library_names())
def test_what_ships_has_no_findings(name: str) -> None:
    assert [str(finding) for finding in lint(name)] == []


@pytest.mark.parametrize("name", library_names())
def test_in_what_ships_neither_length_nor_place_gives_the_outcome_away(name: str) -> None:
    examples = [e for p in Constitution.load(name).principles for e in p.examples]
    longer = "".join("A" if len(e.response_a) > len(e.response_b) else "B" for e in examples)
    outcomes = "".join(e.preferred for e in examples)
    right_by_length = sum(a == b for a, b in zip(longer, outcomes, strict=True)) / len(examples)
    assert 0.3 <= right_by_length <= 0.6
    assert outcomes.count("A") == outcomes.count("B")


def test_the_shipped_constitutions_hold_what_they_promise() -> None:
    hhh = Constitution.load("hhh")
    assert len(hhh.principles) >= 12
    assert set(hhh.traits) == {"helpful", "honest", "harmless"}
    seed_case = Constitution.load("customer_support").principle("concrete-next-step").examples[0]
    assert "Someone will look into it" in seed_case.response_b
    assert seed_case.preferred == "A"


@pytest.mark.parametrize(
    ("principles", "code"),
    [
        ([principle("calm", examples=[])], "no-example"),
        ([principle("calm", examples=[example()])], "one-sided-examples"),
        ([principle("calm", examples=[example(), example(preferred="TIE")])], "one-sided-examples"),
        (
            [
                principle(
                    "calm",
                    examples=[
                        example(),
                        example(preferred="A"),
                        example(response_a="Hello.", preferred="TIE"),
                    ],
                )
            ],
            "equal-responses",
        ),
        ([principle("calm", compare="Prefer the reply that is better.")], "vague-compare"),
        ([principle("calm", compare="Prefer the calm reply. " * 30)], "compare-too-long"),
        (
            [principle("one", compare="Prefer the calm reply, always."),
             principle("two", compare="Prefer the calm  reply always")],
            "near-duplicate",
        ),
        (
            [principle("calm", weight=10), *map(principle, ("warm", "open", "brief"))],
            "weight-drowns-others",
        ),
        (
            [
                principle(
                    "calm",
                    examples=[example(preferred="A"), example(response_a="Hi", preferred="B")],
                )
            ],
            "longer-always-wins",
        ),
    ],
)  # fmt: skip
def test_each_weakness_gives_its_finding(principles: list[dict[str, Any]], code: str) -> None:
    assert code in codes(constitution(*principles))


def test_a_trait_without_description_is_a_hint() -> None:
    (finding,) = lint(constitution(description=""))
    assert (finding.code, finding.severity) == ("trait-without-description", Severity.HINT)


def test_one_of_three_principles_may_weigh_most() -> None:
    laws = [principle("calm", weight=10), principle("warm"), principle("open")]
    assert "weight-drowns-others" not in codes(constitution(*laws))


def test_a_finding_in_a_text_has_its_place_and_remedy() -> None:
    data = constitution(principle("calm", compare="Prefer the best.")).model_dump(
        mode="json", exclude_none=True
    )
    text = yaml.dump(data, sort_keys=False)
    line = next(n for n, row in enumerate(text.splitlines(), 1) if "compare:" in row)
    (finding,) = lint_text(text, "c.yaml")
    assert str(finding) == (
        f"c.yaml:{line}:12: warning [vague-compare] the compare text of 'calm' names nothing that "
        "a judge can look for (say what the preferred reply does, such as 'names a concrete next "
        "step')"
    )


def test_what_does_not_load_is_a_finding_of_severity_error(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: [", encoding="utf-8")
    assert [f.severity for f in lint(file)] == [Severity.ERROR]
    assert [f.code for f in lint(tmp_path / "absent.yaml")] == ["schema"]
    assert [f.severity for f in lint("no_such_name")] == [Severity.ERROR]
