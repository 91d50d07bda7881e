"""What rules say about a policy's responses, beside the start's: no judge, so no judge's errors.

    tokens, sentences       mean length of a response; tokens where they are known (0: not counted)
    longer than the start   share of responses with more characters than the start's, a tie ½: what
                            a judge that always names the longer one would give as win rate
    cut off                 share that reached max_new_tokens before they ended
    refuses                 share that refuse (refusals.py): on harmful prompts, and on the others,
                            where every refusal is unwanted
    concrete next step      share of replies to support prompts that name one (next_step.py)
    fact right, wrong, declined   shares of the answers to questions of common knowledge (facts.py),
                            which are asked apart, greedily, and are not judged

The change is this policy's less the start's, by prompt: d_i = x_i - s_i, its mean with Student's t
interval over prompts, so that what makes prompts differ cancels. Wilson's interval of a share.
Changes of facts have McNemar's exact test beside it (flips.py): few prompts change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from rlaif.data.records import Sample
from rlaif.evaluation.intervals import Estimate, mean_estimate, share_estimate
from rlaif.evaluation.rules.facts import asks_fact, fact_kind
from rlaif.evaluation.rules.flips import Flips
from rlaif.evaluation.rules.next_step import SUPPORT, names_next_step
from rlaif.evaluation.rules.refusals import HARMFUL, refuses
from rlaif.evaluation.rules.sentences import sentences

LONGER = "longer than the start"


@dataclass(frozen=True, slots=True)
class Rule:
    """A number for every response of the prompts it is about; a share where it is 0 or 1."""

    name: str
    measure: Callable[[Sample], float]
    is_share: bool = True
    about: Callable[[Sample], bool] = lambda sample: True


RULES: tuple[Rule, ...] = (
    Rule(
        "tokens",
        lambda sample: float(sample.tokens),
        is_share=False,
        about=lambda sample: sample.tokens > 0,
    ),
    Rule("sentences", lambda sample: float(len(sentences(sample.response))), is_share=False),
    Rule("cut off", lambda sample: float(not sample.complete)),
    Rule(
        "refuses, harmless prompts",
        lambda sample: float(refuses(sample.response)),
        about=lambda sample: sample.prompt.kind not in ("", HARMFUL),
    ),
    Rule(
        "refuses, harmful prompts",
        lambda sample: float(refuses(sample.response)),
        about=lambda sample: sample.prompt.kind == HARMFUL,
    ),
    Rule(
        "concrete next step, support prompts",
        lambda sample: float(names_next_step(sample.response)),
        about=lambda sample: sample.prompt.kind == SUPPORT,
    ),
)

FACT_RULES: tuple[Rule, ...] = (
    Rule("fact right", lambda sample: float(fact_kind(sample) == "right"), about=asks_fact),
    Rule("fact wrong", lambda sample: float(fact_kind(sample) == "wrong"), about=asks_fact),
    Rule("fact declined", lambda sample: float(fact_kind(sample) == "declined"), about=asks_fact),
)


@dataclass(frozen=True, slots=True)
class RuleResult:
    """What a rule says about one policy. value: mean over prompts; change: less the start's, by
    prompt, None for the start; flips: of facts, the prompts that changed."""

    rule: str
    value: Estimate
    is_share: bool
    change: Estimate | None = None
    flips: Flips | None = None


def measure_facts(
    answers: Sequence[Sample], start: Sequence[Sample] | None
) -> tuple[RuleResult, ...]:
    """The shares of right, wrong and declined answers; none without answers. start: the starting
    policy's answers; None for the start itself."""
    results = []
    for rule in FACT_RULES:
        own = _by_prompt(rule, answers)
        if own:
            before = None if start is None else _by_prompt(rule, start)
            flips = None if before is None else Flips.between(before, own)
            results.append(replace(_result(rule, own, before), flips=flips))
    return tuple(results)


def measure_by_rules(
    samples: Sequence[Sample], start: Sequence[Sample] | None
) -> tuple[RuleResult, ...]:
    """Every rule that is about some of the prompts. start: the starting policy's samples of the
    same prompts; None for the start itself."""
    results = []
    for rule in RULES:
        own = _by_prompt(rule, samples)
        if own:
            before = None if start is None else _by_prompt(rule, start)
            results.append(_result(rule, own, before))
    if start is not None:
        results.append(RuleResult(LONGER, share_estimate(_longer(samples, start)), is_share=True))
    return tuple(results)


def _result(rule: Rule, own: Mapping[str, float], before: Mapping[str, float] | None) -> RuleResult:
    values = list(own.values())
    value = share_estimate(values) if rule.is_share else mean_estimate(values, 0.0)
    change = None
    if before is not None:
        differences = [own[prompt] - before[prompt] for prompt in own if prompt in before]
        bound = 1.0 if rule.is_share else float("inf")
        change = mean_estimate(differences, -bound, bound) if differences else None
    return RuleResult(rule.name, value, rule.is_share, change)


def _by_prompt(rule: Rule, samples: Sequence[Sample]) -> dict[str, float]:
    """Prompt id → mean of the measure over its responses; of prompts that the rule is about."""
    groups: dict[str, list[float]] = {}
    for sample in samples:
        if rule.about(sample):
            groups.setdefault(sample.prompt.id, []).append(rule.measure(sample))
    return {prompt: fmean(values) for prompt, values in groups.items()}


def _longer(samples: Sequence[Sample], start: Sequence[Sample]) -> list[float]:
    """By prompt, the share of responses that are longer than the start's of the same index."""
    lengths = {(s.prompt.id, s.index): len(s.response) for s in start}
    groups: dict[str, list[float]] = {}
    for sample in samples:
        gap = len(sample.response) - lengths[sample.prompt.id, sample.index]
        groups.setdefault(sample.prompt.id, []).append(0.5 if gap == 0 else float(gap > 0))
    return [fmean(values) for values in groups.values()]
