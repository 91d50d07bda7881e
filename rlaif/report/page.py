"""The report of a run: one self-contained HTML page about labels, training and evaluation.

The page shows what the run folder holds. A missing part is reported as missing, never filled in.
All text from models and files is escaped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from constitution.errors import UserError
from rlaif.data.datasets import read_preferences
from rlaif.data.records import Preference, atomic_open
from rlaif.evaluation.intervals import Estimate
from rlaif.evaluation.policies import EvaluationResult, PolicyResult
from rlaif.evaluation.reward_models import RewardEvaluation
from rlaif.report import curves, figures
from rlaif.report.tables import (
    format_number,
    format_percent,
    format_signed,
    kind_table,
    overoptimization,
    result_tables,
)

Loaded = TypeVar("Loaded")


class ReportError(UserError):
    """A report that cannot be made; the message names the file and the remedy."""


@dataclass(frozen=True, slots=True)
class ReportInputs:
    """The files of a report; a part whose file does not exist is shown as missing."""

    facts: Path  # JSON object {name: text}, shown as is: recipe, policy, judge, seed, date …
    preferences: Path
    labels_summary: Path
    reward_metrics: Path
    reward_evaluation: Path
    sft_metrics: Path
    dpo_metrics: Path
    ppo_metrics: Path
    rest_metrics: Path
    evaluation: Path

    @classmethod
    def of_run(cls, run: Path) -> ReportInputs:
        """The files that a recipe's stages write into the run folder."""
        return cls(
            facts=run / "run.json",
            preferences=run / "labels" / "preferences.parquet",
            labels_summary=run / "labels" / "labels.summary.json",
            reward_metrics=run / "reward" / "metrics.jsonl",
            reward_evaluation=run / "reward" / "evaluation.json",
            sft_metrics=run / "sft" / "metrics.jsonl",
            dpo_metrics=run / "dpo" / "metrics.jsonl",
            ppo_metrics=run / "ppo" / "metrics.jsonl",
            rest_metrics=run / "rest" / "metrics.jsonl",
            evaluation=run / "evaluation" / "evaluation.json",
        )


def write_report(run: Path, out: Path) -> Path:
    """Write the page of a run folder to the file `out`, atomically. Returns `out`.

    Raises ReportError if the run folder is missing or one of its files cannot be read.
    """
    if not run.is_dir():
        raise ReportError(f"no such run folder: {run}; `rlaif run RECIPE` makes one")
    return write_page(ReportInputs.of_run(run), out)


def write_page(inputs: ReportInputs, out: Path) -> Path:
    """Write the page of these files to `out`, atomically. Returns `out`. Raises ReportError."""
    summary = _load(inputs.labels_summary, _read_json)
    facts = (_load(inputs.facts, _read_json) or {}) | _judge_facts(summary)
    evaluation = _load(inputs.evaluation, EvaluationResult.load)
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            facts={name: str(value) for name, value in facts.items()},
            result=_result(evaluation),
            labels=_labels(_load(inputs.preferences, read_preferences), summary),
            reward=_reward(inputs),
            policies=_policies(inputs),
            samples=_samples(evaluation),
        )
    )
    with atomic_open(out) as file:
        file.write(page)
    return out


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("rlaif.report", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda x: "—" if x is None else f"{100 * x:.0f}\u00a0%"
    environment.filters["share"] = format_percent
    environment.filters["number"] = lambda x: "—" if x is None else f"{x:.2f}"
    return environment


def _load(path: Path, read: Callable[[Path], Loaded]) -> Loaded | None:
    """The content of a file; None if it does not exist."""
    if not path.is_file():
        return None
    try:
        return read(path)
    except ValueError as error:  # also of pydantic, and RecordError
        raise ReportError(f"{path}: cannot be read: {error}; run its stage again") from error


def _read_json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("expected a JSON object")
    return content


# ── sections: the data of each, None if the run has none ─────────────────────────────────────


def _result(evaluation: EvaluationResult | None) -> dict[str, Any] | None:
    if evaluation is None:
        return None
    trained = evaluation.policies[1:]
    rates = [
        row
        for policy in trained
        for row in (
            (policy.name, policy.win_rate),
            (f"{policy.name}, equal length", policy.length_controlled),
        )
    ]
    scores = [(policy.name, policy.judge_score) for policy in trained]
    return {
        "tables": result_tables(evaluation),
        "kinds": kind_table(evaluation.policies),
        "findings": [_finding(policy) for policy in trained],
        "warnings": [overoptimization(policy) for policy in trained if policy.overoptimized],
        "unjudged": {policy.name: policy.unjudged for policy in trained if policy.unjudged},
        "win_rate_plot": _shares(rates, "win rate against the start (%)"),
        "judge_score_plot": _shares(scores, "mean P(better than the start) (%)"),
    }


def _shares(rows: Sequence[tuple[str, Estimate | None]], x_label: str) -> Markup | None:
    known = [(name, estimate) for name, estimate in rows if estimate]
    return figures.shares_with_intervals(known, x_label) if known else None


def _finding(policy: PolicyResult) -> str:
    """The result in a sentence that claims no more than the interval allows."""
    rate = policy.win_rate
    if rate is None or rate.low is None or rate.high is None:
        return f"{policy.name}: no result, because the judge gave no label."
    low, high = 100 * rate.low, 100 * rate.high
    if low > 50:
        finding = "better than the start"
    elif high < 50:
        finding = "worse than the start"
    else:
        finding = "no significant difference from the start with this many prompts"
    return (
        f"{policy.name}: {finding}. It wins on {100 * rate.value:.0f} % of {rate.n} prompts "
        f"(95 % interval {low:.0f} to {high:.0f} %, {high - low:.0f} points wide); at equal length "
        f"{format_percent(policy.length_controlled)}. Reward score "
        f"{format_signed(policy.reward_gain)} against the start, judge score "
        f"{format_number(policy.judge_score)}."
    )


def _judge_facts(summary: Mapping[str, Any] | None) -> dict[str, str]:
    """Constitution and judge, as recorded with the labels."""
    if summary is None:
        return {}
    constitution, model = summary["judge"]["constitution"], summary["judge"]["model"]
    return {
        "constitution": f"{constitution['name']} {constitution['version']} "
        f"(sha256 {constitution['sha256'][:16]})",
        "judge": f"{model['name']}, {model['dtype']}, {model['engine']}",
    }


def _labels(
    preferences: Sequence[Preference] | None, summary: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    if not preferences:
        return None
    probs = [preference.prob_chosen for preference in preferences]
    return {
        "summary": summary,
        "pairs": len(preferences),
        "mean_prob": fmean(probs),
        "plot": figures.histogram(probs, "P(chosen is better)", "labels (pairs)"),
        "traits": _traits(preferences),
        "example": _example(preferences[0]),
    }


def _traits(preferences: Sequence[Preference]) -> list[dict[str, Any]]:
    rows = []
    for trait in sorted({trait for preference in preferences for trait in preference.traits}):
        probs = [p for preference in preferences if (p := preference.traits.get(trait)) is not None]
        if probs:
            agree = fmean(0.5 if p == 0.5 else float(p > 0.5) for p in probs)
            rows.append({"name": trait, "n": len(probs), "mean": fmean(probs), "agree": agree})
    return rows


def _example(preference: Preference) -> dict[str, Any]:
    receipt: dict[str, Any] = json.loads(preference.receipt) if preference.receipt else {}
    a_chosen = receipt.get("chosen") == "A"
    votes = [
        {**vote, "prob_chosen": vote["prob_a"] if a_chosen else 1 - vote["prob_a"]}
        for vote in receipt.get("votes", [])
    ]
    return {
        "preference": preference,
        "votes": votes,
        "receipt": json.dumps(receipt, indent=2, ensure_ascii=False),
    }


def _reward(inputs: ReportInputs) -> dict[str, Any] | None:
    evaluation = _load(inputs.reward_evaluation, RewardEvaluation.load)
    training = curves.plots(_load(inputs.reward_metrics, curves.read_metrics), curves.REWARD)
    if evaluation is None and training is None:
        return None
    plots = {}
    if evaluation:
        shares = [
            ("accuracy on held-out labels", evaluation.accuracy),
            ("“pick the longer” on the same labels", evaluation.length_floor),
        ]
        plots["accuracy"] = _shares(shares, "agrees with the judge (%)")
        plots["reliability"] = figures.reliability(
            evaluation.bins, "reward model's confidence", "judge's agreement"
        )
    return {"evaluation": evaluation, "curves": training, "plots": plots}


def _policies(inputs: ReportInputs) -> list[dict[str, Any]]:
    """One section per algorithm; DPO and PPO belong to every recipe, SFT and ReST are optional."""
    wanted = (
        ("SFT", inputs.sft_metrics, curves.SFT, False),
        ("DPO", inputs.dpo_metrics, curves.DPO, True),
        ("PPO", inputs.ppo_metrics, curves.PPO, True),
        ("ReST", inputs.rest_metrics, curves.REST, False),
    )
    sections = []
    for name, path, metrics, always in wanted:
        rows = _load(path, curves.read_metrics)
        plots = curves.plots(rows, metrics)
        if plots or always:
            sections.append({"name": name, "curves": plots, "alarms": curves.alarms(rows)})
    return sections


def _samples(evaluation: EvaluationResult | None, most: int = 6) -> list[dict[str, Any]]:
    """Up to `most` evenly spaced held-out prompts, with every policy's first response."""
    if evaluation is None:
        return []
    first: list[Mapping[str, Any]] = [
        {comparison.prompt: comparison for comparison in reversed(policy.verdicts)}
        for policy in evaluation.policies
    ]
    ids = list(evaluation.prompts)
    return [
        {
            "conversation": evaluation.prompts[id],
            "responses": [
                {"name": policy.name, "start": index == 0, "comparison": comparisons.get(id)}
                for index, (policy, comparisons) in enumerate(
                    zip(evaluation.policies, first, strict=True)
                )
            ],
        }
        for id in ids[:: math.ceil(len(ids) / most)]
    ]
