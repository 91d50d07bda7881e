"""Responses that break a principle are dropped before they are paired.

    s_k in [-1, 1]    the judge's rating of a response by principle k, 0 the middle of its scale
    dropped           if s_k < -margin for any k that applies; named after the worst one

Every answer is appended to `scores.journal.jsonl` as it comes, so that a killed run asks only for
the rest. A response that could not be rated is kept, and counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from constitution.errors import UserError
from constitution.schema import Constitution
from judge_service.client.sync import JudgeUnavailable
from judge_service.types import JudgeOptions, Score, Unjudged
from rlaif.data.journal import Journal
from rlaif.data.records import Sample, atomic_open
from rlaif.feedback.client import ScoringClient
from rlaif.feedback.earlier_labels import JudgeIdentity
from rlaif.feedback.labeler import TRANSIENT, LabelingClient, LabelingError, identify
from rlaif.feedback.pairs import digest
from rlaif.progress import progress

JOURNAL = "scores.journal.jsonl"
FILTERED = "filtered.jsonl"
_IN_FLIGHT = 16


class RatingClient(ScoringClient, LabelingClient, Protocol):
    """The part of `JudgeClient` that filtering uses."""


class ResponseRating(BaseModel):
    """One answer of the judge; `key` identifies the request."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    key: str
    answer: Score | Unjudged


@dataclass(frozen=True, slots=True)
class Filtered:
    """The samples that are left. broken: id of the worst broken principle → samples dropped for it;
    unrated: kept without a rating."""

    kept: list[Sample]
    broken: dict[str, int]
    unrated: int


def broken_principle(answer: Score | Unjudged, margin: float) -> str:
    """The principle that a response breaks worst, by more than the margin; "" for none."""
    if isinstance(answer, Unjudged) or not answer.principle_scores:
        return ""
    worst = min(answer.principle_scores, key=lambda each: each.score)
    return worst.principle_id if worst.score < -margin else ""


def filter_samples(
    samples: Sequence[Sample],
    client: RatingClient,
    out: Path,
    *,
    margin: float,
    constitution: str | Constitution = "",
    options: JudgeOptions | None = None,
) -> Filtered:
    """Drop the samples that break a principle by more than `margin`; those dropped are listed in
    `filtered.jsonl`.

    Raises UserError for a margin outside [0, 1), and LabelingError when the judge becomes
    unavailable: all ratings so far are saved.
    """
    if not 0 <= margin < 1:
        raise UserError(f"invalid filter: {margin:g}; give a margin from 0 to 1, such as 0.25")
    answers = rate_samples(
        samples, client, out / JOURNAL, constitution=constitution, options=options, title="filter"
    )
    kept: list[Sample] = []
    broken: Counter[str] = Counter()
    with atomic_open(out / FILTERED) as file:
        for sample, answer in zip(samples, answers, strict=True):
            principle = broken_principle(answer, margin)
            if not principle:
                kept.append(sample)
                continue
            broken[principle] += 1
            line = {"id": f"{sample.prompt.id}#{sample.index}", "principle": principle,
                    "response": sample.response}  # fmt: skip
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    unrated = sum(isinstance(answer, Unjudged) for answer in answers)
    return Filtered(kept, dict(broken.most_common()), unrated)


def rate_samples(
    samples: Sequence[Sample],
    client: RatingClient,
    journal_file: Path,
    *,
    constitution: str | Constitution = "",
    options: JudgeOptions | None = None,
    title: str = "ratings",
) -> list[Score | Unjudged]:
    """The judge's rating of every sample, in order; those in the journal are not asked again.

    title: of the progress bar. Raises LabelingError when the judge becomes unavailable: all ratings
    so far are saved.
    """
    if isinstance(constitution, str) and constitution.endswith((".yaml", ".yml")):
        constitution = Constitution.load(constitution)
    info, options = client.server_info(), replace(options or JudgeOptions(), interactive=False)
    judge = identify(info, constitution)
    by = judge.constitution.name if judge.constitution in info.constitutions else constitution
    keys = [_key(sample, judge, options) for sample in samples]

    def rate(sample: Sample) -> Score | Unjudged:
        messages = sample.prompt.messages
        return client.score(messages, sample.response, by, options, timeout=None)

    with Journal(journal_file, ResponseRating) as journal:
        known = {entry.key: entry.answer for _, entry in journal.scan() if _final(entry)}
        waiting = {
            key: sample for key, sample in zip(keys, samples, strict=True) if key not in known
        }
        with (
            progress(title, len(waiting), "responses") as report,
            ThreadPoolExecutor(_IN_FLIGHT) as pool,
        ):
            running = {pool.submit(rate, sample): key for key, sample in waiting.items()}
            try:
                for done, future in enumerate(as_completed(running), start=1):
                    known[running[future]] = answer = future.result()
                    journal.append(ResponseRating(key=running[future], answer=answer))
                    report(done - journal.unsynced)
            except JudgeUnavailable as error:
                pool.shutdown(cancel_futures=True)
                journal.sync()
                raise LabelingError(
                    f"{error}\nthe ratings so far are saved in {journal_file}; when the judge is "
                    "up again, run the same command to continue with the rest"
                ) from error
            journal.sync()
            if waiting:
                report(len(waiting))
    return [known[key] for key in keys]


def _final(entry: ResponseRating) -> bool:
    return not isinstance(entry.answer, Unjudged) or entry.answer.reason not in TRANSIENT


def _key(sample: Sample, judge: JudgeIdentity, options: JudgeOptions) -> str:
    turns = [[turn.role, turn.content] for turn in sample.prompt.messages]
    identity = [judge.constitution.sha256, asdict(judge.model), judge.template_version]
    drawn = [options.sample_principles, options.seed]
    return digest([turns, sample.response, identity, drawn])
