"""Planted judges for tests: files of a constitution and of a judge, and their engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from constitution.schema import Message
from judge_service.planted.file import PlantedJudge

ROOT = Path(__file__).parents[3]
CONSTITUTION = ROOT / "benchmarks" / "planted" / "constitution.yaml"
TRAITS = {
    "declines": "declines_harmful",
    "number": "names_number",
    "short": "two_sentences",
    "polite": "polite_ending",
}


def ask(text: str) -> tuple[Message, ...]:
    """A conversation of one question."""
    return (Message(role="user", content=text),)


def judge_file(folder: Path, name: str = "noisy", **changes: Any) -> Path:
    """The file of a planted judge without errors, but for the changes."""
    facts = {"constitution": str(CONSTITUTION), "traits": TRAITS, **changes}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(facts), encoding="utf-8")
    return path


def planted_judge(folder: Path, **changes: Any) -> PlantedJudge:
    """The judge of such a file."""
    return PlantedJudge.load(judge_file(folder, **changes))
