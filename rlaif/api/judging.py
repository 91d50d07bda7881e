"""Labels for training, made by a judge; and the judge that these functions take.

    judge     a model (short name, folder or hub id; or planted:FILE, a simulated judge), served
              for the length of the call
    server    "HOST:PORT" of a running `rlaif serve`, or an open JudgeClient with token and TLS

One of the two is given. The token and TLS files of a server at an address come from the environment
(rlaif/feedback/connection.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from constitution import Constitution
from constitution.errors import UserError
from judge_service.planted.file import PlantedJudge, planted_file
from judge_service.types import JudgeOptions
from rlaif.api.inputs import Pathlike, SamplesLike, samples_of
from rlaif.api.problems import Problems, checked
from rlaif.data.files import as_path
from rlaif.data.records import RecordError, Sample
from rlaif.feedback.client import FIND_TIMEOUT_S
from rlaif.feedback.earlier_labels import Earlier
from rlaif.feedback.pairs import Pairs, pairs_from_samples
from rlaif.models import catalog
from rlaif.training.preflight import require_folder, require_packages

if TYPE_CHECKING:
    from rlaif.feedback.counts import LabelingSummary
    from rlaif.feedback.labeler import LabelingClient
    from rlaif.labels.update import Update

ConstitutionLike = str | os.PathLike[str] | Constitution
"""A name that the server knows ("": its default), a YAML file, or a Constitution; the latter needs
a server that accepts inline constitutions, as one started by `judge=` does."""


class JudgeArgumentError(UserError):
    """A judge that cannot be used as it is named; the message says what to give."""


@dataclass(frozen=True, slots=True)
class JudgeConnection:
    """A judge to connect to. wait: seconds that a running server may take to be ready."""

    model: str
    server: str | LabelingClient
    constitution: str | Constitution
    wait: float = FIND_TIMEOUT_S

    @contextmanager
    def connected(self, log: Path) -> Iterator[LabelingClient]:
        """A client; log: where the output of a server goes that is started for the block."""
        from rlaif.feedback.client import judge_client

        if not isinstance(self.server, str):
            yield self.server
            return
        served = self.constitution if isinstance(self.constitution, str) else ""
        with judge_client(self.model, served, log, self.server, wait=self.wait) as client:
            yield client


def judge_of(
    judge: Pathlike,
    server: str | LabelingClient,
    constitution: ConstitutionLike,
    wait: float | None = None,
) -> JudgeConnection:
    """The judge that was named, checked as far as can be without a connection.

    Raises JudgeArgumentError, ModelError, PlantedError or ConstitutionError.
    """
    if not isinstance(judge, str | os.PathLike):
        raise JudgeArgumentError(
            f"invalid judge: {judge!r}; give a model's short name, folder or hub id, or an open "
            "client as server=..."
        )
    if server is None or (not isinstance(server, str) and not hasattr(server, "stream")):
        raise JudgeArgumentError(
            f'invalid server: {server!r}; give "HOST:PORT" of a running server, or an open '
            "JudgeClient"
        )
    if wait is not None and (not isinstance(wait, int | float) or not wait >= 0):
        raise JudgeArgumentError(f"invalid wait: {wait!r}; give seconds, 0 or more")
    if not isinstance(constitution, str | os.PathLike | Constitution):
        raise JudgeArgumentError(
            f"invalid constitution: {constitution!r}; give a name, a YAML file or a Constitution"
        )
    model = os.fspath(judge)
    if bool(model) == bool(server):
        given = f"judge={model!r} and server={server!r}" if model else "none"
        raise JudgeArgumentError(
            f"expected one judge: {given}; give judge=MODEL to start a server for this call, or "
            'server="HOST:PORT" of one that runs'
        )
    if planted_file(model) is not None:
        PlantedJudge.load(model)
    elif model:
        catalog.resolve(model)
    by = constitution if isinstance(constitution, Constitution) else os.fspath(constitution)
    # A name may be known to a running server alone; a file, and what we serve, is ours to check.
    if isinstance(by, str) and by and (model or "/" in by or by.endswith((".yaml", ".yml"))):
        Constitution.load(by)
    return JudgeConnection(model, server, by, FIND_TIMEOUT_S if wait is None else wait)


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
    replace_labels: bool = False,
) -> LabelingSummary:
    """Label pairs of responses into `out`/preferences.parquet; returns what was counted.

    samples: a file of `sample`, or its records. wait: seconds that a running server may take to be
    ready (10). pairs_per_prompt: None labels all pairs. max_length_ratio: only pairs whose longer
    response has at most so many times the characters of the other. sample_principles, seed:
    principles drawn per pair, by default all that apply; `options` has the judge's other settings.
    Labels are saved as they arrive, and a killed call resumes. Labels in `out` by another
    constitution, judge or options are an error, or with replace_labels are kept beside the new
    ones.

        rlaif.label("samples.jsonl", judge="qwen2.5-coder-1.5b", constitution="hhh").judged
    """
    from rlaif.feedback.labeler import label as label_pairs

    asked = _checked(
        samples,
        out,
        (judge, server, constitution, wait),
        (pairs_per_prompt, max_length_ratio),
        (options, sample_principles, seed),
    )
    with asked.judge.connected(asked.out / "judge.log") as client:
        return label_pairs(
            asked.pairs.comparisons,
            client,
            asked.out,
            constitution=asked.judge.constitution,
            options=asked.options,
            identical=asked.pairs.identical,
            unequal=asked.pairs.unequal,
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
    with asked.judge.connected(asked.out / "judge.log") as client:
        return update(
            asked.pairs.comparisons,
            client,
            asked.out,
            constitution=asked.judge.constitution,
            options=asked.options,
            old=before,
            identical=asked.pairs.identical,
            unequal=asked.pairs.unequal,
        )


# ── shared ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class LabelingRequest:
    """A checked call of `label` or `update_labels`."""

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
    return LabelingRequest(checked(pairs), folder, checked(judge), checked(options))


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


def judge_options(
    options: JudgeOptions | None, sample_principles: int | None, seed: int | None
) -> JudgeOptions:
    """The judge's options with the principles and the seed that were given beside them. Raises
    UserError."""
    if options is not None and not isinstance(options, JudgeOptions):
        raise UserError(f"invalid options: {options!r}; give judge_service.JudgeOptions(...)")
    if sample_principles is not None and (
        type(sample_principles) is not int or sample_principles < 1
    ):
        raise UserError(
            f"invalid sample_principles: {sample_principles!r}; give an integer, 1 or more, or None"
        )
    if seed is not None and type(seed) is not int:
        raise UserError(f"invalid seed: {seed!r}; give an integer")
    base = options or JudgeOptions()
    drawn = base.sample_principles if sample_principles is None else sample_principles
    return replace(base, sample_principles=drawn, seed=base.seed if seed is None else seed)


def _loaded(constitution: ConstitutionLike) -> Constitution:
    if isinstance(constitution, Constitution):
        return constitution
    return Constitution.load(constitution)
