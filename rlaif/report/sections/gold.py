"""Sentences about planted judges: that they are no model, and what is truly better."""

from __future__ import annotations

from rlaif.evaluation.comparison import PLANTED
from rlaif.evaluation.gold import GOLD_FILE, GoldEvaluation, GoldLabels, GoldPolicy
from rlaif.report.formats import format_number, format_percent, format_signed
from rlaif.report.inputs import StageFolder


def planted_warning(judge: str) -> str:
    """That results by this judge come from rules; "" for every other judge."""
    if not judge.startswith(PLANTED):
        return ""
    return (
        f"Planted: {judge} is a simulated judge that decides by rules, with errors of its own; no "
        "model judged. These results compare methods and say nothing about a real judge."
    )


def gold_of_labels(stage: StageFolder) -> list[str]:
    """How many of a planted judge's labels are right; nothing for another judge's."""
    found = stage.load(GOLD_FILE, GoldLabels.load)
    return [] if found is None else [labels_sentence(found)]


def gold_of_policies(stage: StageFolder) -> list[str]:
    """The gold of each policy that a planted judge compared; nothing for another judge."""
    found = stage.load(GOLD_FILE, GoldEvaluation.load)
    return [] if found is None else policy_sentences(found)


def labels_sentence(gold: GoldLabels) -> str:
    """Label accuracy in words."""
    counts = f"of {gold.pairs} pairs, {gold.ties} of equal gold left out"
    if gold.accuracy is None:
        return f"Gold (planted): every pair is a tie ({counts})."
    return f"Gold (planted): {format_percent(gold.accuracy)} of labels are right ({counts})."


def policy_sentences(gold: GoldEvaluation) -> list[str]:
    """Gold of each policy in words, and overoptimization where there is any."""
    return [_sentence(policy) for policy in gold.policies]


def _sentence(policy: GoldPolicy) -> str:
    text = f"Gold (planted) of {policy.name}: {format_number(policy.gold)}"
    if policy.gain is not None:
        text += f", {format_signed(policy.gain)} against the start"
    if policy.overoptimized:
        text += "; overoptimized: the judge prefers it, and its gold fell"
    return f"{text}."
