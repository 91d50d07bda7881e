"""Records, prompts, constitution and settings as a caller gives them: a file, or in memory.

In memory, a record is one of ours (rlaif.data.records) or a mapping with the fields of a line of
its file, such as a row of a `datasets.Dataset`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from pydantic import BaseModel

from constitution import DEFAULT_CONSTITUTION, Constitution
from constitution.errors import UserError
from rlaif.data.datasets import (
    labels_at,
    parse_lessons,
    parse_preferences,
    read_preferences,
)
from rlaif.data.files import as_path
from rlaif.data.prompt_split import DEFAULT_RULE, PromptSet, split_prompts
from rlaif.data.prompts import parse_prompts, read_prompts
from rlaif.data.records import (
    HumanVerdict,
    Lesson,
    Preference,
    Prompt,
    RecordError,
    Sample,
    as_record,
    read_jsonl,
)
from rlaif.data.samples import parse_samples, read_samples
from rlaif.feedback.receipts import parse_receipt
from rlaif.settings import InvalidSettingsError, configured, mix_weight

if TYPE_CHECKING:
    from rlaif.algorithms.sft.sources import SFTSource

Pathlike: TypeAlias = str | os.PathLike[str]
PreferencesLike: TypeAlias = Pathlike | Iterable[Preference | Mapping[str, Any]]
"""A file of labels (or the folder of `label` or `label_shards`), or the labels themselves."""
SamplesLike: TypeAlias = Pathlike | Iterable[Sample | Mapping[str, Any]]
LessonsLike: TypeAlias = "Pathlike | SFTSource | Iterable[Lesson | Mapping[str, Any]]"
"""FILE, "WEIGHT*FILE", "FIRST..LAST*FILE", an SFTSource, or the records to imitate themselves."""
PromptsLike: TypeAlias = Pathlike | Iterable[Prompt | str | Mapping[str, Any]]
"""'quickstart', a file, or the prompts themselves; a text is one user turn."""

HumanVerdictsLike: TypeAlias = Pathlike | Iterable[HumanVerdict | Mapping[str, Any]]

ConfigT = TypeVar("ConfigT", bound=BaseModel)
_Any = TypeVar("_Any")
SettingsLike: TypeAlias = ConfigT | Sequence[str] | None
"""A config, or settings as on the command line: ["beta=0.2", "lora.rank=8"]."""


def config_of(
    kind: type[ConfigT], config: ConfigT | Sequence[str] | None, settings: Mapping[str, Any]
) -> ConfigT:
    """The config with keyword settings laid over it (key=value settings are laid over both).

    Raises InvalidSettingsError for every unknown or invalid setting at once.
    """
    if config is None or isinstance(config, kind):
        given = {} if config is None else config.model_dump(exclude_unset=True)
        return configured(kind, None, given | dict(settings))
    if isinstance(config, str) or not isinstance(config, Sequence):
        raise InvalidSettingsError(
            f"invalid config: {config!r}; give a {kind.__name__}, or settings as keywords"
        )
    return configured(kind, list(config), dict(settings))


def preferences_of(labels: PreferencesLike, name: str = "labels") -> list[Preference]:
    """Labeled pairs. Raises RecordError, also where there are none."""
    if isinstance(labels, str | os.PathLike):
        path = as_path(labels, name)
        file = labels_at(path)
        return _some(read_preferences(file), str(file))
    return _some(list(parse_preferences(_rows(labels, name, Preference), name)), name)


def samples_of(samples: SamplesLike, name: str = "samples") -> list[Sample]:
    """Responses of a policy. Raises RecordError, also where there are none."""
    if isinstance(samples, str | os.PathLike):
        path = as_path(samples, name)
        return _some(read_samples(path), str(path))
    return _some(list(parse_samples(_rows(samples, name, Sample))), name)


def verdicts_of(verdicts: HumanVerdictsLike, name: str = "human") -> list[HumanVerdict]:
    """What people said of pairs. Raises RecordError, also for a file without any."""
    if isinstance(verdicts, str | os.PathLike):
        path = as_path(verdicts, name)
        return _some(read_jsonl(path, HumanVerdict), str(path))
    rows = _rows(verdicts, name, HumanVerdict)
    return [
        row if isinstance(row, HumanVerdict) else as_record(row, HumanVerdict, where)
        for where, row in rows
    ]


def source_of(lessons: LessonsLike, name: str = "lessons") -> SFTSource:
    """Records to imitate, as a source of the mix. Raises RecordError or TrainingError."""
    from rlaif.algorithms.sft.sources import SFTSource

    if isinstance(lessons, str | os.PathLike):
        return SFTSource.read(os.fspath(lessons))
    given: Any = 1.0
    if isinstance(lessons, SFTSource):
        source, lessons = lessons, lessons.records
        name, given = str(source.name), source.weight
    weight = mix_weight(given)
    if isinstance(lessons, str) or weight is None:
        raise RecordError(
            f"source {name}: expected records and a number as their weight, above 0, or (first, "
            f"last) (found {_short(lessons)}, {given!r}); SFTSource.read reads a file"
        )
    records = list(parse_lessons(_rows(lessons, name, Lesson), name))
    return SFTSource(name, _some(records, name), weight)


def prompts_of(prompts: PromptsLike) -> PromptSet:
    """Prompts with their splits, as `read_prompts` decides them. Raises RecordError."""
    if isinstance(prompts, str | os.PathLike):
        return read_prompts(os.fspath(prompts))
    rows = [
        (where, {"prompt": row} if isinstance(row, str) else row)
        for where, row in _rows(prompts, "prompts", Prompt | str)
    ]
    found = _some(list(parse_prompts(rows)), "prompts")
    return split_prompts("prompts", found, DEFAULT_RULE)


def report_split(prompts: PromptSet) -> None:
    """Print on stderr how prompts were split, if they do not name the splits themselves."""
    if prompts.rule is not None and os.environ.get("RANK", "0") == "0":
        print(prompts.describe(), file=sys.stderr)


def constitution_of(
    constitution: str | os.PathLike[str] | Constitution,
    labels: Sequence[Preference],
    source: PreferencesLike = (),
) -> Constitution:
    """The constitution of this name or file; "" finds the one that made the labels, beside them or
    among those that ship, and is the default for labels without receipts.

    source: where the labels come from. Raises UserError where that one is not found.
    """
    if isinstance(constitution, Constitution):
        return constitution
    if not isinstance(constitution, str | os.PathLike):
        raise UserError(
            f"invalid constitution: {constitution!r}; give a name, a YAML file or a Constitution"
        )
    if constitution:
        return Constitution.load(os.fspath(constitution))
    first = next((label for label in labels if label.receipt), None)
    if first is None:
        return Constitution.load(DEFAULT_CONSTITUTION)
    origin = parse_receipt(first).provenance
    for known in (*_beside(source), *map(Constitution.load, Constitution.library_names())):
        if known.digest == origin.constitution_sha256:
            return known
    raise UserError(
        f"the labels were made by {origin.constitution_name} {origin.constitution_version} "
        f"(sha256 {origin.constitution_sha256[:12]}), which neither ships nor is beside them; give "
        "its file with --constitution (constitution=...)"
    )


def _beside(source: PreferencesLike) -> Iterator[Constitution]:
    """The constitution that labeling left beside its labels."""
    from rlaif.feedback.labeler import CONSTITUTION

    if not isinstance(source, str | os.PathLike):
        return
    path = Path(source).expanduser()
    file = (path if path.is_dir() else path.parent) / CONSTITUTION
    if file.is_file():
        yield Constitution.load(file)


def _rows(records: Any, name: str, kind: Any) -> Iterator[tuple[str, Any]]:
    """(its place, the record or its fields) of everything that a caller gave in memory."""
    if hasattr(records, "to_dict") and hasattr(records, "columns"):  # iterates over its columns
        records = records.to_dict("records")
    if isinstance(records, Mapping | bytes) or not isinstance(records, Iterable):
        raise RecordError(f"{name}: expected a file or a list of records: {_short(records)}")
    for place, record in enumerate(records):
        if not isinstance(record, kind | Mapping):
            raise RecordError(
                f"{name}[{place}]: expected a record or a mapping of its fields: {_short(record)}"
            )
        yield f"{name}[{place}]", record


def _some(records: list[_Any], name: str) -> list[_Any]:
    if not records:
        raise RecordError(f"{name}: no records in it; give at least one")
    return records


def _short(value: object) -> str:
    text = f"{type(value).__name__} {value!r}"
    return text if len(text) <= 60 else text[:57] + "..."
