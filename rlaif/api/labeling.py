"""Labels for training: a judge compares pairs of responses. The judge is given as in judging.py."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from constitution import Constitution
from constitution.errors import UserError
from judge_service.types import JudgeOptions
from rlaif.api.inputs import Pathlike, SamplesLike, samples_of
from rlaif.api.judging import ConstitutionLike, JudgeConnection, judge_of, judge_options
from rlaif.api.problems import Problems, checked
from rlaif.data.files import as_path
from rlaif.data.records import RecordError, Sample
from rlaif.feedback.counts import NotAsked
from rlaif.feedback.earlier_labels import Earlier
from rlaif.feedback.pairs import Pairs, pairs_from_samples
from rlaif.training.preflight import require_folder, require_packages

if TYPE_CHECKING:
    from rlaif.feedback.counts import LabelingSummary
    from rlaif.feedback.filter import RatingClient
    from rlaif.feedback.labeler import LabelingClient
    from rlaif.labels.update import Update


def label(
    samples: SamplesLike,
    *,
    out: Pathlike = "labels",
    judge: Pathlike = "",
    server: str | LabelingClient = "",
    constitution: ConstitutionLike = "",
    wait: float | None = None,
    pairs_per_prompt: int | None = 1,
    max_length_ratio: float | None = None,
    sample_principles: int | None = None,
    seed: int | None = None,
    options: JudgeOptions | None = None,
    filter_margin: float | None = None,
    replace_labels: bool = False,
) -> LabelingSummary:
    """Label pairs of responses into `out`/preferences.parquet; returns what was counted.

    samples: a file of `sample`, or its records. wait: seconds that a running server may take to be
    ready (10). pairs_per_prompt: None labels all pairs. max_length_ratio: only pairs whose longer
    response has at most so many times the characters of the other. sample_principles, seed:
    principles drawn per pair, by default all that apply; `options` has the judge's other settings.
    filter_margin: responses that the judge rates below minus this by any principle, on a scale from
    -1 to 1, are dropped first. Labels are saved as they arrive, and a killed call resumes. Labels
    in `out` by another constitution, judge or options are an error, or with replace_labels are kept
    beside the new ones.

        rlaif.label("samples.jsonl", judge="qwen2.5-coder-1.5b", constitution="hhh").judged
    """
    from rlaif.feedback.filter import filter_samples
    from rlaif.feedback.labeler import label as label_pairs
    from rlaif.feedback.labeler import refuse_other_labels

    drawing = pairs_per_prompt, max_length_ratio
    asked = _checked(
        samples,
        out,
        (judge, server, constitution, wait),
        drawing,
        (options, sample_principles, seed),
    )
    pairs, by = asked.pairs, asked.judge.constitution
    not_asked = NotAsked(pairs.identical, pairs.unequal)
    with asked.judge.connected_when_needed(asked.out / "judge.log") as client:
        if filter_margin is not None:
            if not replace_labels:  # before anything is rated
                refuse_other_labels(client, asked.out, by, asked.options)
            left = filter_samples(
                asked.samples, cast("RatingClient", client), asked.out,
                margin=filter_margin, constitution=by, options=asked.options,
            )  # fmt: skip
            pairs = _pairs(left.kept, "the responses that are left", drawing, asked.options.seed)
            not_asked = NotAsked(pairs.identical, pairs.unequal, left.broken, left.unrated)
        return label_pairs(
            pairs.comparisons,
            client,
            asked.out,
            constitution=by,
            options=asked.options,
            not_asked=not_asked,
            earlier=Earlier.KEEP if replace_labels else Earlier.REFUSE,
        )


def update_labels(
    samples: SamplesLike,
    *,
    out: Pathlike = "labels",
    judge: Pathlike = "",
    server: str | LabelingClient = "",
    constitution: ConstitutionLike = "",
    old: ConstitutionLike = "",
    wait: float | None = None,
    pairs_per_prompt: int | None = 1,
    max_length_ratio: float | None = None,
    sample_principles: int | None = None,
    seed: int | None = None,
    options: JudgeOptions | None = None,
) -> Update:
    """Label again into `out` after an edit of the constitution; returns what changed.

    old: the constitution before the edit; votes of unchanged principles then come from the labels'
    receipts, and only the others are read. The previous labels stay as
    preferences.previous.parquet. The other arguments: see `label`.

        rlaif.update_labels("samples.jsonl", server="127.0.0.1:50051", constitution="new.yaml",
                            old="old.yaml").change.changed
    """
    from rlaif.labels.update import update

    if old and not constitution:
        raise UserError("old needs the edited constitution; give constitution=..., too")
    if not isinstance(old, str | os.PathLike | Constitution):
        raise UserError(f"invalid old: {old!r}; give a name, a YAML file or a Constitution")
    before = _loaded(old) if old else None
    asked = _checked(
        samples,
        out,
        (judge, server, constitution, wait),
        (pairs_per_prompt, max_length_ratio),
        (options, sample_principles, seed),
    )
    with asked.judge.connected_when_needed(asked.out / "judge.log") as client:
        return update(
            asked.pairs.comparisons,
            client,
            asked.out,
            constitution=asked.judge.constitution,
            options=asked.options,
            old=before,
            not_asked=NotAsked(asked.pairs.identical, asked.pairs.unequal),
        )


@dataclass(frozen=True, slots=True)
class LabelingRequest:
    """A checked call of `label` or `update_labels`."""

    samples: list[Sample]
    pairs: Pairs
    out: Path
    judge: JudgeConnection
    options: JudgeOptions


def _checked(
    samples: SamplesLike,
    out: Pathlike,
    connection: tuple[Pathlike, str | LabelingClient, ConstitutionLike, float | None],
    drawing: tuple[int | None, float | None],
    judging: tuple[JudgeOptions | None, int | None, int | None],
) -> LabelingRequest:
    problems = Problems()
    folder = problems.attempt(as_path, out, "out") or Path()
    options = problems.attempt(judge_options, *judging)
    records = problems.attempt(samples_of, samples)
    pairs = None
    if records is not None and options is not None:
        pairs = problems.attempt(_pairs, records, _name(samples), drawing, options.seed)
    judge = problems.attempt(judge_of, *connection)
    problems.attempt(require_folder, folder)
    problems.attempt(require_packages, ("pyarrow",))  # preferences.parquet is written at the end
    problems.refuse()
    return LabelingRequest(
        checked(records), checked(pairs), folder, checked(judge), checked(options)
    )


def _pairs(
    records: list[Sample], name: str, drawing: tuple[int | None, float | None], seed: int
) -> Pairs:
    per_prompt, ratio = drawing
    if per_prompt is not None and (type(per_prompt) is not int or per_prompt < 1):
        raise UserError(
            f"invalid pairs_per_prompt: {per_prompt!r}; give an integer, 1 or more, or None for all"
        )
    if ratio is not None and type(ratio) not in (int, float):
        raise UserError(f"invalid max_length_ratio: {ratio!r}; give a number, 1 or more, or None")
    pairs = pairs_from_samples(
        records, pairs_per_prompt=per_prompt, seed=seed, max_length_ratio=ratio
    )
    if not pairs.comparisons and pairs.unequal:
        raise RecordError(
            f"{name}: the lengths of all {pairs.unequal} pairs differ by more than "
            f"max_length_ratio, {ratio:g}; raise it, or sample with a larger n"
        )
    if not pairs.comparisons:
        raise RecordError(f"{name}: no prompt has two different responses; sample with n=2 or more")
    return pairs


def _name(samples: Any) -> str:
    return os.fspath(samples) if isinstance(samples, str | os.PathLike) else "samples"


def _loaded(constitution: ConstitutionLike) -> Constitution:
    if isinstance(constitution, Constitution):
        return constitution
    return Constitution.load(constitution)
