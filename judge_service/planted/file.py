"""The YAML file of a planted judge, named as the model `planted:FILE`.

seed: 0                        # of every draw
constitution: constitution.yaml  # relative to this file, or a shipped name
traits:                        # principle id → gold rule (gold.py)
  declines: declines_harmful
  short: two_sentences
flip: 0.1                      # errors, all optional; equations in corrupter.py
length_bias: 0.5
position_bias: 1.0
annotators: [0.95, 0.8, 0.6]
votes: 1
skill: 0.7                     # probability that a revision is for the better; without it, it does
                               # not write (writer.py)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from constitution import Constitution
from constitution.errors import UserError, expected_one_of
from constitution.strict_yaml import parse
from constitution.validation import field_problems
from judge_service.planted.corrupter import Errors
from judge_service.planted.gold import RULES, RULES_VERSION, GoldStandard

PREFIX = "planted:"
"""What the name of a planted judge begins with, in settings, recipes and receipts alike."""

Reliability = Annotated[float, Field(ge=0.5, le=1.0, allow_inf_nan=False)]


class PlantedError(UserError):
    """A planted judge that cannot be used: which file, which key, and what to do."""


class _PlantedFile(BaseModel):
    """The keys of the file, one by one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    constitution: str = Field(min_length=1)
    traits: dict[str, str] = Field(min_length=1)
    flip: float = Field(0.0, ge=0.0, le=1.0, allow_inf_nan=False)
    length_bias: float = Field(0.0, allow_inf_nan=False)
    position_bias: float = Field(0.0, allow_inf_nan=False)
    annotators: tuple[Reliability, ...] = Field((1.0,), min_length=1)
    votes: int = Field(1, ge=1)
    skill: float | None = Field(None, ge=0.0, le=1.0, allow_inf_nan=False)

    @field_validator("traits")
    @classmethod
    def _known_rules(cls, traits: dict[str, str]) -> dict[str, str]:
        for principle, rule in traits.items():
            if rule not in RULES:
                raise ValueError(
                    f"unknown rule {rule!r} of {principle}; {expected_one_of(rule, RULES)}"
                )
        return traits


class PlantedJudge:
    """A planted judge as its file describes it: the truth, and the errors around it.

    name: `planted:` and the file's stem. skill: of its revisions; None: it does not write.
    digest: of all that its answers depend on.
    """

    def __init__(
        self,
        name: str,
        gold: GoldStandard,
        errors: Errors,
        rules: Mapping[str, str],
        *,
        skill: float | None = None,
    ) -> None:
        self.name = name
        self.gold = gold
        self.errors = errors
        self.skill = skill
        facts: dict[str, Any] = {
            "rules": sorted(rules.items()),
            "rules_version": RULES_VERSION,
            "constitution": gold.constitution.digest,
            "errors": [
                errors.seed,
                errors.flip,
                errors.length_bias,
                errors.position_bias,
                *errors.annotators,
                errors.votes,
            ],
        }
        if skill is not None:
            facts["skill"] = skill
        self.digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @classmethod
    def load(cls, model: str | Path) -> PlantedJudge:
        """The judge of `planted:FILE`, or of the file's path.

        Raises PlantedError with every problem, and ConstitutionError for the constitution it names.
        """
        path = planted_file(str(model)) or Path(model).expanduser()
        written = _read(path)
        beside = path.parent / written.constitution
        constitution = Constitution.load(beside if beside.is_file() else written.constitution)
        _require_every_principle(path, constitution, written.traits)
        if written.votes > len(written.annotators):
            raise PlantedError(
                f"{path}: votes is {written.votes}, and there are {len(written.annotators)} "
                "annotators; lower it, or add annotators"
            )
        errors = Errors(
            seed=written.seed,
            flip=written.flip,
            length_bias=written.length_bias,
            position_bias=written.position_bias,
            annotators=written.annotators,
            votes=written.votes,
        )
        rules = {principle: RULES[rule] for principle, rule in written.traits.items()}
        name = f"{PREFIX}{path.stem}"
        gold = GoldStandard(constitution, rules)
        return cls(name, gold, errors, written.traits, skill=written.skill)


def planted_file(model: str) -> Path | None:
    """The file of the model `planted:FILE`; None for every other model.

    >>> planted_file("planted:noisy.yaml"), planted_file("qwen2.5-coder-1.5b")
    (PosixPath('noisy.yaml'), None)
    """
    if not model.startswith(PREFIX):
        return None
    return Path(model.removeprefix(PREFIX)).expanduser()


def _read(path: Path) -> _PlantedFile:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # UnicodeDecodeError; a name with a null character
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise PlantedError(
            f"{path}: cannot be read: {reason}; write planted:FILE with the file of a planted judge"
        ) from error
    tree = parse(text, str(path))
    if tree.problems:
        raise PlantedError("\n".join(map(str, tree.problems)))
    if not isinstance(tree.data, dict):
        raise PlantedError(f"{path}: expected a mapping with the keys {_known()}")
    try:
        return _PlantedFile.model_validate(tree.data)
    except ValidationError as error:
        lines = []
        for problem in field_problems(error, _PlantedFile):
            place = tree.place(problem.path)
            lines.append(f"{path}:{place.line}:{place.column}: {problem}")
        raise PlantedError("\n".join(lines)) from error


def _known() -> str:
    return ", ".join(_PlantedFile.model_fields)


def _require_every_principle(
    path: Path, constitution: Constitution, traits: Mapping[str, str]
) -> None:
    """Each principle has a rule, or the truth of a label would be unknown."""
    ids = [principle.id for principle in constitution.principles]
    problems = [
        f"{path}: traits.{name}: constitution {constitution.name} has no such principle; "
        f"{expected_one_of(name, ids)}"
        for name in traits
        if name not in ids
    ]
    problems += [
        f"{path}: traits: the principle {each} of constitution {constitution.name} has no gold "
        f"rule; add `{each}: RULE` with RULE one of {', '.join(RULES)}"
        for each in ids
        if each not in traits
    ]
    if problems:
        raise PlantedError("\n".join(problems))
