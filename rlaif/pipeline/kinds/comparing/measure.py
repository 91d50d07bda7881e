"""What a comparison measures from the folders of the stages that it is about."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rlaif.comparing.crossed import crossed_mean, over_seeds
from rlaif.comparing.head_to_head import Points, share_longer, share_over
from rlaif.comparing.result import ArmResult, TrainedSeed
from rlaif.data.journal import Journal
from rlaif.data.records import Sample
from rlaif.evaluation.comparison import win_point
from rlaif.evaluation.intervals import Estimate
from rlaif.evaluation.policies import EvaluationResult, PolicyResult
from rlaif.evaluation.rules.refusals import refuses
from rlaif.pipeline.stage import Stage
from rlaif.training.config import TrainConfig

if TYPE_CHECKING:
    from rlaif.evaluation.gold import GoldEvaluation

Responses = Mapping[str, Sequence[Sample]]  # policy → its samples
TextNLL = Mapping[str, Sequence[float]]  # policy → nats a token of each paragraph


def arm_result(
    name: str,
    policies: Sequence[str],
    result: EvaluationResult,
    responses: Responses,
    text: TextNLL,
    gold: GoldEvaluation | None = None,
) -> ArmResult:
    """What the evaluation, the responses and the plain text say about one arm. policies: of its
    seeds; the first policy of the result is the start."""
    start = result.policies[0].name
    by_name = {policy.name: policy for policy in result.policies}
    own = [by_name[policy] for policy in policies]
    samples = [responses[policy] for policy in policies]
    rates = {} if own[0].name == start else win_rates(policies, result, responses)
    gains = {policy.name: policy.gain for policy in gold.policies} if gold else {}
    diversity = [policy.distinct_2 for policy in own if policy.distinct_2 is not None]
    return ArmResult(
        name,
        tuple(policies),
        rates,
        length_controlled=_over([policy.length_controlled for policy in own], 0.0, 1.0),
        longer=share_over([share_longer(s, responses[start]) for s in samples]) if rates else None,
        gold_gain=_over([gains.get(policy) for policy in policies]),
        by_seed=tuple(policy.win_rate for policy in own),
        kl=_over([_k1(policy) for policy in own]),
        distinct_2=fmean(diversity) if diversity else None,
        tokens_per_response=fmean(policy.length.mean for policy in own),
        refusals=refusals(samples),
        text_nll=_text(policies, text),
        text_change=_text_change(policies, text, start) if own[0].name != start else None,
    )


def win_rates(
    policies: Sequence[str], result: EvaluationResult, responses: Responses
) -> dict[str, Estimate]:
    """By judge, the win rate of an arm against the start over its seeds and the prompts. Equal
    responses are ties."""
    rates = {}
    for judge in result.judges:
        columns = {column.name: column for column in judge.policies}
        seeds: list[Points] = []
        for policy in policies:
            probs = {(v.prompt, v.index): v.prob for v in columns[policy].verdicts}
            groups: dict[str, list[float]] = {}
            for sample in responses[policy]:  # those without a verdict equal the start's
                prob = probs.get((sample.prompt.id, sample.index), 0.5)
                if prob is not None:
                    groups.setdefault(sample.prompt.id, []).append(win_point(prob))
            seeds.append({prompt: fmean(own) for prompt, own in groups.items()})
        if (rate := share_over(seeds)) is not None:
            rates[judge.name] = rate
    return rates


def refusals(samples: Sequence[Sequence[Sample]]) -> dict[str, Estimate]:
    """By kind of prompt, the share of responses that refuse, over seeds and prompts."""
    found = {}
    for kind in sorted({sample.prompt.kind for sample in samples[0]} - {""}):
        seeds = []
        for own in samples:
            groups: dict[str, list[float]] = {}
            for sample in own:
                if sample.prompt.kind == kind:
                    refused = float(refuses(sample.response))
                    groups.setdefault(sample.prompt.id, []).append(refused)
            seeds.append({prompt: fmean(values) for prompt, values in groups.items()})
        if (rate := share_over(seeds)) is not None:
            found[kind] = rate
    return found


def _k1(policy: PolicyResult) -> Estimate | None:
    return policy.kl.k1 if policy.kl else None


def _over(
    estimates: Sequence[Estimate | None], low: float = -math.inf, high: float = math.inf
) -> Estimate | None:
    """Over seeds; None where one of them was not measured."""
    known = [each for each in estimates if each is not None]
    return over_seeds(known, low, high) if known and len(known) == len(estimates) else None


def _text(policies: Sequence[str], text: TextNLL) -> float | None:
    known = [fmean(text[policy]) for policy in policies if policy in text]
    return fmean(known) if known else None


def _text_change(policies: Sequence[str], text: TextNLL, start: str) -> Estimate | None:
    """The change of the plain text's NLL over seeds and paragraphs."""
    if start not in text or not all(policy in text for policy in policies):
        return None
    return crossed_mean(
        [[a - b for a, b in zip(text[p], text[start], strict=True)] for p in policies]
    )


# ── what it took ─────────────────────────────────────────────────────────────────────────────


def training(stage: Stage) -> TrainedSeed | None:
    """What a training took, from its metrics; None for a stage that trains nothing."""
    file = stage.folder / "metrics.jsonl"
    settings = stage.settings
    if not isinstance(settings, TrainConfig) or not file.is_file():
        return None
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    last = lines[-1]
    seconds, tokens = float(last["run_seconds"]), float(last["run_tokens"])
    spent = [
        used / limit
        for used, limit in (
            (seconds, settings.budget_seconds),
            (tokens, settings.budget_tokens),
        )
        if limit is not None
    ]
    memory = max(float(line.get("memory_gib") or 0.0) for line in lines)
    return TrainedSeed(
        stage.name, settings.seed, int(last["step"]), seconds, tokens, memory,
        max(spent) if spent else None,
    )  # fmt: skip


def seconds_of(stage: Stage) -> float:
    """The time that a training took; 0 for a stage that trains nothing."""
    done = training(stage)
    return done.seconds if done else 0.0


def reads_in(journal: Path) -> int:
    """The judge's reads behind the answers in a journal; those it had from its store are not
    counted."""
    from rlaif.feedback.labeler import JournalEntry

    if not journal.is_file():
        return 0
    with Journal(journal, JournalEntry) as entries:
        return sum(entry.answer.usage.reads for _, entry in entries.scan())


def summary_of(stage: Stage) -> dict[str, Any]:
    """The summary that a label stage wrote."""
    from rlaif.feedback.labeler import SUMMARY

    found: dict[str, Any] = json.loads((stage.folder / SUMMARY).read_text(encoding="utf-8"))
    return found
