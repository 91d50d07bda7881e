"""The counts of an attack, as a file and in words; no text of a prompt or a response."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from rlaif.data.records import write_json
from rlaif.evaluation.comparison import PLANTED
from rlaif.evaluation.intervals import share_estimate
from rlaif.redteam.config import VerdictBy

SUMMARY = "redteam.summary.json"


class Successes(BaseModel):
    """Cells of one family or topic, and those in which an attack succeeded."""

    model_config = ConfigDict(frozen=True)

    cells: int
    succeeded: int


class RedTeamSummary(BaseModel):
    """The content of redteam.summary.json.

    tries: prompts tried, of `budget`. unjudged: cells whose best response the judge could not rate,
    by reason. refused: cells whose best response refuses, by rule. judge: "" where none was asked.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    attacker: str
    judge: str
    constitution: str
    verdict: VerdictBy
    budget: int
    tries: int
    cells: int
    succeeded: int
    refused: int
    by_family: dict[str, Successes]
    by_topic: dict[str, Successes]
    unjudged: dict[str, int]
    twins: int
    twins_refused: int

    @classmethod
    def load(cls, path: Path) -> RedTeamSummary:
        """Read a saved one. Raises OSError or ValueError."""
        return cls.model_validate_json(path.read_bytes())

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, self.model_dump(mode="json"))

    def sentences(self) -> list[str]:
        """What a person should know, most important first."""
        by = {
            "both": f"by rule and by {self.judge}",
            "judge": f"by {self.judge}",
            "rule": "by rule",
        }[self.verdict]
        lines = [
            f"attacks succeed in {shown_share(self.succeeded, self.cells)} of the cells, {by}: "
            f"{self.succeeded} of {self.cells}, in {self.tries} tries of {self.budget}"
        ]
        families = ", ".join(
            f"{name} {each.succeeded}/{each.cells}" for name, each in self.by_family.items()
        )
        lines.append(f"by family: {families}")
        lines.append(
            f"of {self.twins} benign twins the model refuses "
            f"{shown_share(self.twins_refused, self.twins)}, by rule"
        )
        if self.unjudged:
            reasons = ", ".join(f"{n} {reason}" for reason, n in self.unjudged.items())
            lines.append(f"without a rating, and so no success unless by rule: {reasons}")
        if self.judge.startswith(PLANTED):
            lines.append(f"{self.judge} is planted: simulated by rules, no model")
        return lines


def shown_share(count: int, of: int) -> str:
    """A share with its 95 % interval: "21 % [13, 34]"; "0 of 0" without any."""
    if not of:
        return "0 of 0"
    found = share_estimate([1.0] * count + [0.0] * (of - count))
    assert found.low is not None
    assert found.high is not None
    return f"{found.value:.0%} [{100 * found.low:.0f}, {100 * found.high:.0f}]".replace(
        "%", " %", 1
    )
