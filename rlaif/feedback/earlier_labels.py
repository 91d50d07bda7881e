"""Labels that are in a folder already: were they made as the new ones will be?

A label depends on its pair and on what MadeBy lists. The receipts in preferences.parquet are the
record of that; options that receipts lack come from labels.summary.json, where it is there and
speaks of the same judge. Labels made otherwise are never overwritten without a word: labeling
refuses, or keeps the old file under a name made from its constitution and content.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from constitution.errors import UserError
from judge_service.judge.label_probs import DEFAULT_PROTOCOL
from judge_service.server_info import ConstitutionSummary
from judge_service.types import JudgeOptions, ModelIdentity
from rlaif.data.datasets import iter_preferences
from rlaif.data.records import RecordError
from rlaif.feedback.receipts import parse_receipt

if TYPE_CHECKING:
    from rlaif.feedback.labeler import JudgeIdentity

_OPTIONS = TypeAdapter(JudgeOptions)
_HEX = 12  # digits of a digest that are shown


class EarlierLabelsError(UserError):
    """The folder holds labels made otherwise. Names both sides and the ways out."""


class Earlier(StrEnum):
    """What to do with labels in the folder that were made otherwise."""

    REFUSE = "refuse"
    KEEP = "keep"  # under another name, see `keep`
    OVERWRITE = "overwrite"


@dataclass(frozen=True, slots=True)
class MadeBy:
    """What decides a label beside its pair.

    calibrations, options: None, or keys missing, where nothing records them.
    """

    constitution: ConstitutionSummary
    model: ModelIdentity
    template_version: str
    calibrations: tuple[str, ...] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def now(cls, judge: JudgeIdentity, options: JudgeOptions) -> MadeBy:
        calibrations = judge.calibrations if options.calibrated else ()
        return cls(
            judge.constitution,
            judge.model,
            judge.template_version,
            calibrations,
            recorded_options(options),
        )

    def differences(self, now: MadeBy) -> list[str]:
        """What is different now, a line each; what nothing recorded counts as the same."""
        pairs = [
            ("constitution", _constitution(self.constitution), _constitution(now.constitution)),
            ("judge model", _model(self.model), _model(now.model)),
            ("template", self.template_version, now.template_version),
        ]
        if self.calibrations is not None:
            mine, theirs = self.calibrations, now.calibrations or ()
            pairs.append(("calibration", _digests(mine), _digests(theirs)))
        pairs += [(name, str(self.options[name]), str(now.options[name]))
                  for name in now.options if name in self.options]  # fmt: skip
        return [f"{name}: {old} then, {new} now" for name, old, new in pairs if old != new]


def recorded_options(options: JudgeOptions) -> dict[str, Any]:
    """The options that labels depend on, as labels.summary.json keeps them."""
    found: dict[str, Any] = _OPTIONS.dump_python(
        options, mode="json", exclude={"interactive", "use_store"}
    )
    return found | {"protocol": options.protocol or DEFAULT_PROTOCOL}


def made_by(labels: Path, summary: Path) -> MadeBy | None:
    """How the labels of a file were made; None when there are none.

    Raises RecordError when that cannot be found out: a broken file, or labels without receipts.
    """
    if not labels.exists():
        return None
    first = next(iter_preferences(labels), None)
    if first is None:
        return None
    origin = parse_receipt(first).provenance
    law = ConstitutionSummary(
        origin.constitution_name, origin.constitution_version, origin.constitution_sha256
    )
    options: dict[str, Any] = {
        "seed": origin.seed,
        "orders": [order.value for order in origin.orders],
        "protocol": origin.protocol,
    }
    calibrations, more = _of_summary(summary, law, origin.model, origin.template_version)
    return MadeBy(law, origin.model, origin.template_version, calibrations, more | options)


def _of_summary(
    summary: Path, law: ConstitutionSummary, model: ModelIdentity, template: str
) -> tuple[tuple[str, ...] | None, dict[str, Any]]:
    """(calibrations, options) as labels.summary.json has them; nothing where it is missing, cannot
    be read, is older than these fields, or speaks of another judge (a failed run left it)."""
    try:
        found = json.loads(summary.read_text(encoding="utf-8"))
        judge, options = found["judge"], dict(found["options"])
        theirs = (judge["constitution"], judge["model"], judge["template_version"])
        if theirs != (asdict(law), asdict(model), template):
            return None, {}
        calibrations = tuple(judge["calibrations"]) if options["calibrated"] else ()
    except (OSError, ValueError, KeyError, TypeError):
        return None, {}
    return calibrations, options


def require_same(labels: Path, summary: Path, now: MadeBy) -> None:
    """Raises EarlierLabelsError when the file holds labels made otherwise, or cannot be read."""
    ways_out = (
        "give another folder with --out, --replace to label anew and keep the old file beside the "
        "new one, or --update to label again and see what changed"
    )
    try:
        earlier = made_by(labels, summary)
    except RecordError as error:
        raise EarlierLabelsError(
            f"{labels}: cannot find out how these labels were made: {error}\nmove the file away, "
            "give another folder with --out, or --replace to label anew and keep it beside the new "
            "one"
        ) from error
    if earlier and (found := earlier.differences(now)):
        lines = "\n  ".join(found)
        raise EarlierLabelsError(
            f"{labels}: holds labels that were made otherwise; they are untouched\n  {lines}\n"
            f"{ways_out}"
        )


def keep(labels: Path, summary: Path, now: MadeBy) -> Path | None:
    """Copy labels that were made otherwise to preferences.<constitution>-<version>.<digest>.parquet
    (preferences.unreadable.<digest>.parquet), whole or not at all; the copy, or None if there is
    nothing to keep. Doing it twice gives the same file."""
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
        partial = kept.with_name(kept.name + ".partial")
        shutil.copyfile(labels, partial)
        partial.replace(kept)
    except OSError as error:
        raise RecordError(
            f"{labels}: the old labels cannot be kept beside the new ones ({error.strerror}); "
            "give another folder with --out"
        ) from error
    return kept


def _constitution(law: ConstitutionSummary) -> str:
    return f"{law.name} {law.version} (sha256 {law.sha256[:_HEX]})"


def _model(model: ModelIdentity) -> str:
    weights, tokenizer = model.weights_sha256[:_HEX], model.tokenizer_sha256[:_HEX]
    return f"{model.name} ({model.dtype}, {model.engine}, weights {weights}, tokenizer {tokenizer})"


def _digests(calibrations: tuple[str, ...]) -> str:
    return ", ".join(digest[:_HEX] for digest in calibrations) or "none"
