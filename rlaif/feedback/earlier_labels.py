"""Earlier labels in a folder: were they made by the same judge, constitution and options?

A label depends on its pair and on the fields of MadeBy. The receipts in preferences.parquet record
these; options that receipts lack come from labels.summary.json, if it exists and describes the same
judge. Labels made differently are never silently overwritten: labeling stops, or keeps the old file
under a name derived from its constitution and content.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from constitution.errors import UserError
from judge_service.judge.label_probs import DEFAULT_PROTOCOL
from judge_service.server_info import ConstitutionSummary
from judge_service.types import JudgeOptions, ModelIdentity
from rlaif.data.datasets import iter_preferences
from rlaif.data.records import RecordError, replacing
from rlaif.evaluation.comparison import EvaluatorModel
from rlaif.feedback.receipts import parse_receipt

_OPTIONS = TypeAdapter(JudgeOptions)
_HEX = 12  # hex digits of a digest in messages


@dataclass(frozen=True, slots=True)
class JudgeIdentity:
    """A judge and its constitution; answers are reused for the same identity only."""

    constitution: ConstitutionSummary
    model: ModelIdentity
    template_version: str
    calibrations: tuple[str, ...] = ()  # digests of those it applies with this constitution

    @property
    def evaluator(self) -> EvaluatorModel:
        """What an evaluation records of it."""
        rules = f"{self.constitution.name} {self.constitution.version}"
        return EvaluatorModel(self.model.name, self.model.weights_sha256, rules)


class EarlierLabelsError(UserError):
    """The folder has labels made differently; the message names both sides and the remedies."""


class Earlier(StrEnum):
    """What to do with labels in the folder that were made differently."""

    REFUSE = "refuse"
    KEEP = "keep"  # rename the old file, see `keep`
    OVERWRITE = "overwrite"


@dataclass(frozen=True, slots=True)
class MadeBy:
    """Everything a label depends on besides its pair.

    calibrations, options: None, or without some keys, when they are not recorded.
    """

    constitution: ConstitutionSummary
    model: ModelIdentity
    template_version: str
    calibrations: tuple[str, ...] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def now(cls, judge: JudgeIdentity, options: JudgeOptions) -> MadeBy:
        """How labels would be made now."""
        calibrations = judge.calibrations if options.calibrated else ()
        return cls(
            judge.constitution,
            judge.model,
            judge.template_version,
            calibrations,
            recorded_options(options),
        )

    def differences(self, now: MadeBy) -> list[str]:
        """The differences from `now`, one line each; unrecorded values count as equal."""
        pairs = [
            ("constitution", _constitution(self.constitution), _constitution(now.constitution)),
            ("judge model", _model(self.model), _model(now.model)),
            ("template", self.template_version, now.template_version),
        ]
        if self.calibrations is not None:
            old, new = self.calibrations, now.calibrations or ()
            pairs.append(("calibration", _digests(old), _digests(new)))
        pairs += [(name, str(self.options[name]), str(now.options[name]))
                  for name in now.options if name in self.options]  # fmt: skip
        return [f"{name}: {then} then, {new} now" for name, then, new in pairs if then != new]


def recorded_options(options: JudgeOptions) -> dict[str, Any]:
    """The options that labels depend on, as labels.summary.json records them."""
    recorded: dict[str, Any] = _OPTIONS.dump_python(
        options, mode="json", exclude={"interactive", "use_store"}
    )
    return recorded | {"protocol": options.protocol or DEFAULT_PROTOCOL}


def made_by(labels: Path, summary: Path) -> MadeBy | None:
    """How the labels of a file were made; None if the file is missing or empty.

    Raises RecordError when this cannot be determined: a broken file, or labels without receipts.
    """
    if not labels.exists():
        return None
    first = next(iter_preferences(labels), None)
    if first is None:
        return None
    origin = parse_receipt(first).provenance
    constitution = ConstitutionSummary(
        origin.constitution_name, origin.constitution_version, origin.constitution_sha256
    )
    options: dict[str, Any] = {
        "seed": origin.seed,
        "orders": [order.value for order in origin.orders],
        "protocol": origin.protocol,
    }
    made = MadeBy(constitution, origin.model, origin.template_version)
    calibrations, more = _read_summary(summary, made)
    return replace(made, calibrations=calibrations, options=more | options)


def _read_summary(summary: Path, made: MadeBy) -> tuple[tuple[str, ...] | None, dict[str, Any]]:
    """(calibrations, options) from labels.summary.json; (None, {}) if it is missing, unreadable,
    older than these fields, or about another judge (left by a failed run)."""
    try:
        content = json.loads(summary.read_text(encoding="utf-8"))
        judge, options = content["judge"], dict(content["options"])
        recorded = (judge["constitution"], judge["model"], judge["template_version"])
        if recorded != (asdict(made.constitution), asdict(made.model), made.template_version):
            return None, {}
        calibrations = tuple(judge["calibrations"]) if options["calibrated"] else ()
    except (OSError, ValueError, KeyError, TypeError):
        return None, {}
    return calibrations, options


def require_same(labels: Path, summary: Path, now: MadeBy) -> None:
    """Raise EarlierLabelsError when the file has labels made differently, or is unreadable."""
    remedies = (
        "choose another folder with --out, or add --replace to label anew and keep the old file "
        "beside the new one, or --update to label again and report what changed"
    )
    try:
        earlier = made_by(labels, summary)
    except RecordError as error:
        raise EarlierLabelsError(
            f"{labels}: cannot determine how these labels were made: {error}\nmove the file away, "
            "choose another folder with --out, or add --replace to label anew and keep it beside "
            "the new one"
        ) from error
    if earlier and (differences := earlier.differences(now)):
        lines = "\n  ".join(differences)
        raise EarlierLabelsError(
            f"{labels}: contains labels that were made differently; they are unchanged\n  {lines}\n"
            f"{remedies}"
        )


def keep(labels: Path, summary: Path, now: MadeBy) -> Path | None:
    """Copy labels made differently to preferences.<constitution>-<version>.<digest>.parquet, or to
    preferences.unreadable.<digest>.parquet, atomically. Returns the copy, or None if there is
    nothing to keep. Equal content gets one name, so repeating this adds no file."""
    try:
        earlier = made_by(labels, summary)
        if earlier is None or not earlier.differences(now):
            return None
        kind = f"{earlier.constitution.name}-{earlier.constitution.version}"
    except RecordError:
        kind = "unreadable"
    try:
        with labels.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()[:8]
        kept = labels.with_name(f"{labels.stem}.{kind}.{digest}{labels.suffix}")
        with replacing(kept) as partial:
            shutil.copyfile(labels, partial)
    except OSError as error:
        raise RecordError(
            f"{labels}: cannot keep the old labels beside the new ones: {error.strerror}; "
            "choose another folder with --out"
        ) from error
    return kept


def _constitution(summary: ConstitutionSummary) -> str:
    return f"{summary.name} {summary.version} (sha256 {summary.sha256[:_HEX]})"


def _model(model: ModelIdentity) -> str:
    weights, tokenizer = model.weights_sha256[:_HEX], model.tokenizer_sha256[:_HEX]
    return f"{model.name} ({model.dtype}, {model.engine}, weights {weights}, tokenizer {tokenizer})"


def _digests(calibrations: tuple[str, ...]) -> str:
    return ", ".join(digest[:_HEX] for digest in calibrations) or "none"
