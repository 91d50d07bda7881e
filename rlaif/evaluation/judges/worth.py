"""What a judge is known to be worth: how often it names the better response of gold pairs.

    {"judge": "qwen2.5-coder-1.5b", "weights_sha256": "...", "constitution": "overall 1.0.0",
     "gold": "hhh_221.jsonl", "date": "2026-11-29", "n": 36,
     "accuracy": 0.75, "low": 0.59, "high": 0.86, "longer": 0.69, "longer_chosen": 0.6}

A file holds one such object, a list of them, or {"worth": [...]}, as the bench.json that `rlaif
judge bench` writes; other keys are ignored.

Figures count for a judge with the same weights (by name where the file has no digest) and the same
constitution (where the file names one). A judge is above chance where its interval is over ½, and
above its floor where the interval is over the share that the longer response is right on.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from constitution.errors import UserError
from constitution.validation import field_problems
from rlaif.evaluation.comparison import EvaluatorModel


class WorthError(UserError):
    """A file of judges' figures on gold that cannot be used; the message names the field."""


class JudgeWorth(BaseModel):
    """A judge's accuracy on one file of gold pairs, with its 95 % interval and its floor."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    judge: str = Field(min_length=1)
    weights_sha256: str = ""  # of the judge's model; "": whichever has its name
    constitution: str = ""  # name and version that it judged by; "": any
    gold: str = Field(min_length=1)  # name of the file
    gold_sha256: str = ""
    date: str = ""
    n: int = Field(ge=1)  # pairs that were judged
    accuracy: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    longer: float = Field(ge=0, le=1)  # accuracy of naming the longer response
    longer_chosen: float | None = Field(default=None, ge=0, le=1)  # how often it named that one

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low <= self.accuracy <= self.high:
            raise ValueError("accuracy lies outside of [low, high]")
        return self

    @property
    def above_chance(self) -> bool:
        """Whether the whole interval is over ½."""
        return self.low > 0.5

    @property
    def above_floor(self) -> bool:
        """Whether the whole interval is over what naming the longer response gives."""
        return self.low > self.longer


_FILE = TypeAdapter(tuple[JudgeWorth, ...])


def read_worth(path: Path) -> tuple[JudgeWorth, ...]:
    """The figures in a file. Raises WorthError, naming the file, the field and the remedy."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise WorthError(f"{path}: cannot be read: {error.strerror or error}") from error
    return _parsed(text, str(path))


@cache
def shipped_worth() -> tuple[JudgeWorth, ...]:
    """The figures of the judges that ship (docs/log.md has the commands)."""
    file = resources.files("rlaif.evaluation.judges") / "shipped.json"
    return _parsed(file.read_bytes(), "shipped.json")


def worth_of(evaluator: EvaluatorModel, known: Sequence[JudgeWorth]) -> tuple[JudgeWorth, ...]:
    """What is known of this judge by this constitution: of each file of gold the last one given."""
    found: dict[str, JudgeWorth] = {}
    for worth in known:
        same = (
            worth.weights_sha256 == evaluator.weights_sha256
            if worth.weights_sha256
            else worth.judge == evaluator.name
        )
        if same and worth.constitution in ("", evaluator.constitution):
            found[worth.gold] = worth
    return tuple(found.values())


def require_taking_part(
    path: Path, figures: Sequence[JudgeWorth], judges: Sequence[EvaluatorModel]
) -> None:
    """Raises WorthError where none of a file's figures is of a judge that evaluates.

    judges: weights_sha256 is "" where it is not known; then the name decides.
    """
    for judge in judges:
        known = figures
        if not judge.weights_sha256:
            known = [worth.model_copy(update={"weights_sha256": ""}) for worth in figures]
        if worth_of(judge, known):
            return
    given = dict.fromkeys(
        f"{worth.judge}, {worth.constitution}" if worth.constitution else worth.judge
        for worth in figures
    )
    taking_part = "; ".join(f"{judge.name}, {judge.constitution}" for judge in judges)
    raise WorthError(
        f"{path}: figures of judges that do not take part: {'; '.join(given) or 'none'} (those "
        f"that do: {taking_part}); give their figures, or remove this file"
    )


def _parsed(text: bytes, name: str) -> tuple[JudgeWorth, ...]:
    try:
        return _FILE.validate_python(_listed(TypeAdapter(Any).validate_json(text)))
    except ValidationError as error:
        problem = field_problems(error, noun="field")[0]
        where = f"{problem.field}: " if problem.field else ""
        raise WorthError(
            f"{name}: {where}{problem.message}; expected a judge's figures on gold: judge, gold, "
            "n, accuracy, low, high, longer"
        ) from error


def _listed(content: Any) -> Any:
    """The list of figures in any of the forms."""
    return content.get("worth", [content]) if isinstance(content, dict) else content
