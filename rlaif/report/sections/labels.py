"""The section of a label stage: how sure the judge was, by trait, and the labels themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel

from rlaif.data.datasets import iter_preferences
from rlaif.data.records import Preference
from rlaif.report import figures
from rlaif.report.excerpts import EXTREMES, MOST_ROWS, chosen_labels, excerpt
from rlaif.report.inputs import ReportInputs, StageFolder
from rlaif.report.sections.base import (
    JudgeModel,
    LabelOutcome,
    SectionContent,
    missing_files,
)
from rlaif.report.sections.gold import gold_of_labels, planted_warning

PREFERENCES, SUMMARY, UNJUDGED = "preferences.parquet", "labels.summary.json", "unjudged.jsonl"


class _LabelModel(BaseModel):
    name: str
    weights_sha256: str


class _LabelConstitution(BaseModel):
    name: str
    version: str


class _LabelJudge(BaseModel):
    model: _LabelModel
    constitution: _LabelConstitution


class _LabelSummary(BaseModel):
    """The part of labels.summary.json that is shown; a mean of nothing is None."""

    unjudged: int
    unjudged_by_reason: dict[str, int]
    identical: int
    unequal: int = 0
    filtered: dict[str, int] = {}
    unrated: int = 0
    over_budget: int = 0
    pairing_reads: int = 0
    position_consistency: float | None
    mean_order_gap: float | None
    mean_label_mass: float | None
    void_reads: int
    reads: int
    prompt_tokens: int
    cached_tokens: int
    judge: _LabelJudge

    @classmethod
    def read(cls, path: Path) -> _LabelSummary:
        return cls.model_validate_json(path.read_bytes())


class _UnjudgedPair(BaseModel):
    """A line of unjudged.jsonl."""

    id: str
    reason: str
    detail: str = ""


@dataclass(slots=True)
class _Probabilities:
    """P(chosen is better) of every label in order: overall, and where the judge saw the trait."""

    overall: list[float] = field(default_factory=list)
    traits: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> _Probabilities:
        found = cls()
        for label in iter_preferences(path):
            found.overall.append(label.prob_chosen)
            for trait, prob in label.traits.items():
                if prob is not None:
                    found.traits.setdefault(trait, []).append(prob)
        return found


def label_section(stage: StageFolder, _: ReportInputs) -> SectionContent:
    """Reads the labels twice, so that only the shown ones are ever held in memory."""
    probs = stage.load(PREFERENCES, _Probabilities.read)
    summary = stage.load(SUMMARY, _LabelSummary.read)
    unjudged = stage.load(UNJUDGED, _read_unjudged)
    found = {PREFERENCES: probs, SUMMARY: summary, UNJUDGED: unjudged}
    missing = missing_files(found)
    if not probs or not probs.overall:
        return SectionContent("label.html.j2", None, missing)
    # which labels to show depends on the probabilities of all: hence the second reading
    places = chosen_labels(probs.overall)
    labels = stage.load(PREFERENCES, lambda path: _at(places, path)) or []
    judge = _judge(summary)
    values = {
        "planted": planted_warning(judge.name) if judge else "",
        "gold": gold_of_labels(stage),
        "summary": summary,
        "unjudged": unjudged or [],
        "pairs": len(probs.overall),
        "mean_prob": fmean(probs.overall),
        "plot": figures.Plot(
            "Labels by P(chosen is better)",
            figures.histogram(probs.overall, "P(chosen is better)"),
            "Good: most pairs to the right, where the judge is sure. If all are at 0.5, the judge "
            "finds no difference between the responses, and there is little to learn.",
        ),
        "traits": [_trait_row(name, of_trait) for name, of_trait in sorted(probs.traits.items())],
        "rows": [_row(label) for label in labels],
        "extremes": EXTREMES,
        "example": _example(labels[0]),
    }
    outcome = LabelOutcome(stage.name, len(probs.overall), judge)
    return SectionContent("label.html.j2", values, missing, outcome)


def _at(places: Sequence[int], path: Path) -> list[Preference]:
    wanted = set(places)
    return [label for place, label in enumerate(iter_preferences(path)) if place in wanted]


def _read_unjudged(path: Path) -> list[_UnjudgedPair]:
    """The first MOST_ROWS pairs without a label."""
    with path.open(encoding="utf-8") as lines:
        return [_UnjudgedPair.model_validate_json(line) for line in islice(lines, MOST_ROWS)]


def _judge(summary: _LabelSummary | None) -> JudgeModel | None:
    """The judge that labels.summary.json records."""
    if summary is None:
        return None
    model, rules = summary.judge.model, summary.judge.constitution
    return JudgeModel(model.name, model.weights_sha256, f"{rules.name} {rules.version}")


def _trait_row(name: str, probs: Sequence[float]) -> dict[str, Any]:
    agree = fmean(0.5 if p == 0.5 else float(p > 0.5) for p in probs)
    return {"name": name, "n": len(probs), "mean": fmean(probs), "agree": agree}


def _row(label: Preference) -> dict[str, Any]:
    """A label as the list shows it; `probs` is what the filters read, "" being the whole label."""
    traits = {trait: prob for trait, prob in label.traits.items() if prob is not None}
    return {
        "prompt": [(message.role, excerpt(message.content)) for message in label.prompt],
        "chosen": excerpt(label.chosen_text),
        "rejected": excerpt(label.rejected_text),
        "prob": label.prob_chosen,
        "traits": traits,
        "probs": json.dumps({"": label.prob_chosen} | traits),
    }


def _example(label: Preference) -> dict[str, Any]:
    """One label's votes and receipt, from the chosen response's side."""
    receipt: dict[str, Any] = json.loads(label.receipt) if label.receipt else {}
    a_chosen = receipt.get("chosen") == "A"
    votes = [
        {**vote, "prob_chosen": vote["prob_a"] if a_chosen else 1 - vote["prob_a"]}
        for vote in receipt.get("votes", [])
    ]
    text = json.dumps(receipt, indent=2, ensure_ascii=False) if receipt else ""
    return {"votes": votes, "receipt": text}
