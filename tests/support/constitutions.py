"""Small constitutions without findings, which each linter test breaks in one way."""

from __future__ import annotations

from typing import Any

from constitution import Constitution
from constitution.lint import lint


def example(preferred: str = "B", **changes: Any) -> dict[str, Any]:
    """An example whose shorter response wins by default; give a second one another prompt."""
    texts = {"prompt": "Hi", "response_a": "A longer greeting.", "response_b": "Hello."}
    return {**texts, "preferred": preferred, **changes}


def principle(name: str = "calm", **changes: Any) -> dict[str, Any]:
    return {
        "id": name,
        "trait": "kind",
        "compare": f"Prefer the reply whose greeting is {name}.",
        "critique": "Find what is missing.",
        "revise": "Add it.",
        "examples": [example(), example("A", prompt=f"Good morning, {name} one")],
        **changes,
    }


def constitution(*principles: dict[str, Any], **changes: Any) -> Constitution:
    return Constitution.model_validate(
        {
            "name": "small",
            "version": "1.0.0",
            "traits": {"kind": {"description": "Kindness."}},
            "principles": principles or [principle()],
            **changes,
        }
    )


def comparing(*texts: str, **changes: Any) -> Constitution:
    """A constitution of principles with these compare texts."""
    names = [f"rule-{chr(ord('a') + number)}" for number in range(len(texts))]
    pairs = zip(names, texts, strict=True)
    return constitution(*(principle(name, compare=text, **changes) for name, text in pairs))


def rules(target: Constitution) -> list[str]:
    """The rule ids of the findings, in order and with duplicates."""
    return [finding.rule for finding in lint(target)]
