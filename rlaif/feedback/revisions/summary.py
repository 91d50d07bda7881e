"""The counts of a revised set of samples, as a file and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from rlaif.data.records import Prompt, write_json
from rlaif.evaluation.rules.refusals import HARMFUL

BORDERLINE = "borderline"
"""The `kind` of prompts that sound harmful and should be answered."""

MANY_REFUSALS = 0.5


class KindCounts(BaseModel):
    """Of one kind of prompts."""

    model_config = ConfigDict(frozen=True)

    samples: int
    lessons: int


class Refusals(BaseModel):
    """Lessons on borderline prompts that refuse, and how many of their originals did (by rule)."""

    model_config = ConfigDict(frozen=True)

    lessons: int
    refusing: int
    originals_refusing: int


class RevisionSummary(BaseModel):
    """The content of revisions.summary.json.

    mean_prob_better: P(revision is better) of those compared; None without any. borderline: None
    without lessons on borderline prompts. asked: rounds written by the last run. principles: id →
    revisions made by it. judge, constitution: who wrote and compared, by what.
    """

    model_config = ConfigDict(frozen=True)

    samples: int
    lessons: int
    refused_by_reason: dict[str, int]
    by_kind: dict[str, KindCounts]
    gate: float | None
    mean_prob_better: float | None
    borderline: Refusals | None
    asked: int
    principles: dict[str, int]
    judge: str
    constitution: str

    @classmethod
    def load(cls, path: Path) -> RevisionSummary:
        """Read a saved one. Raises OSError or ValueError."""
        return cls.model_validate_json(path.read_bytes())

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, self.model_dump(mode="json"))

    def sentences(self) -> list[str]:
        """What a person should know, most important first."""
        refused = ", ".join(f"{n} {reason}" for reason, n in self.refused_by_reason.items())
        lines = [f"{self.lessons} of {self.samples} revisions are lessons; refused: "
                 f"{refused or 'none'}"]  # fmt: skip
        if any(self.by_kind):
            kinds = ", ".join(
                f"{kind or 'of no kind'} {counts.lessons} of {counts.samples}"
                for kind, counts in self.by_kind.items()
            )
            lines.append(f"lessons by kind of prompt: {kinds}")
        if self.mean_prob_better is not None:
            lines.append(
                f"the judge finds a revision better than its original with "
                f"{self.mean_prob_better:.2f} on average (gate {self.gate:g})"
            )
        if self.borderline is not None:
            lines.append(_refusing(self.borderline))
        return lines


def _refusing(found: Refusals) -> str:
    line = (
        f"{found.refusing} of {found.lessons} lessons on borderline prompts refuse, by rule "
        f"(of their originals {found.originals_refusing})"
    )
    if found.refusing > MANY_REFUSALS * found.lessons:
        line += "; they teach to refuse what should be answered: change principles or judge"
    return line


def one_kind_only(prompts: Sequence[Prompt]) -> str:
    """A warning for prompts of one named kind; "" for others.

    A policy that sees revisions of harmful prompts only learns to refuse everything.
    """
    kinds = Counter(prompt.kind for prompt in prompts)
    if set(kinds) == {HARMFUL}:
        return (
            f"all {len(prompts)} prompts are {HARMFUL}: a policy that sees only such prompts "
            f"learns to refuse everything; add {BORDERLINE} ones, and helpful answers to SFT"
        )
    if len(kinds) == 1 and (kind := next(iter(kinds))):
        return (
            f"all {len(prompts)} prompts are of kind {kind!r}: what the lessons do to other kinds "
            f"is not known; critique and revision are for {HARMFUL} and {BORDERLINE} prompts"
        )
    return ""
