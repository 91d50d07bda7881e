"""Comparing a policy's responses with the start's, and the rates that follow from it.

win rate           (wins + ½ ties) / judged, against the starting policy on held-out prompts
length-controlled  the win rate at equal length (length_control.py)
judge score        mean P(policy's response better than the start's): the soft win rate
trait win rate     the win rate by one trait's probability alone; equal texts are ties

Judged all at once (`compare_with_start`), or prompt by prompt in a seeded random order until a rule
is met (`compare_until`): the rates then have intervals that hold at every look (anytime.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from constitution.errors import UserError
from constitution.schema import Message
from rlaif.data.records import Sample
from rlaif.evaluation.anytime import StopRule, anytime_estimate
from rlaif.evaluation.intervals import Estimate, by_prompt, mean_estimate, share_estimate
from rlaif.evaluation.length_control import PairOutcome, length_controlled_win_rate
from rlaif.progress import progress

PLANTED = "planted:"
"""What the name of a simulated judge begins with (judge_service/planted/file.py): no model."""


class EvaluationError(UserError):
    """An evaluation that cannot be made; the message says why, and the remedy."""


@dataclass(frozen=True, slots=True)
class EvaluatorModel:
    """The model that judged an evaluation. Equal weights have equal digests, whatever the name."""

    name: str
    weights_sha256: str
    constitution: str  # name and version


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """The judge's answer to one comparison: P(A better), or None and the reason.

    traits: P(A better) for each trait that was judged; evaluator: None if it is not known.
    """

    prob_a: float | None
    reason: str = ""
    traits: Mapping[str, float] = field(default_factory=dict)
    evaluator: EvaluatorModel | None = None


Question = tuple[str, tuple[Message, ...], str, str]  # id, conversation, response A, response B
Compare = Callable[[Sequence[Question]], Mapping[str, JudgedPair]]
"""Judges questions: returns the answer to each by its id."""


@dataclass(frozen=True, slots=True)
class ResponseComparison:
    """One response of a policy compared with the start's to the same prompt.

    prob: P(the policy's response is better), None where the judge gave no label; traits: the same
    for each trait. Equal responses get ½ without a query: the two orders cancel out. look: the look
    before which it was judged, from 1; 0 if all were judged at once.
    """

    prompt: str  # prompt id
    index: int
    response: str
    prob: float | None
    reason: str = ""
    gap: int = 0  # length of the response minus that of the start's, characters
    traits: dict[str, float] = field(default_factory=dict)
    look: int = 0


def win_rate(comparisons: Sequence[ResponseComparison]) -> Estimate | None:
    """(wins + ½ ties) / judged, over prompts; None when nothing was judged.

    Wilson's interval, or the anytime one of comparisons that were looked at while judging.
    """
    values = by_prompt((c.prompt, win_point(c.prob)) for c in comparisons if c.prob is not None)
    if not values:
        return None
    return anytime_estimate(values) if _looked_at(comparisons) else share_estimate(values)


def _looked_at(comparisons: Sequence[ResponseComparison]) -> bool:
    """Whether intervals of fixed n do not hold: the number judged depends on what was seen."""
    return any(comparison.look for comparison in comparisons)


def win_point(prob: float) -> float:
    """1 for a win, ½ for a tie, 0 for a loss."""
    return 0.5 if prob == 0.5 else float(prob > 0.5)


def length_controlled(comparisons: Sequence[ResponseComparison]) -> Estimate | None:
    """The win rate at equal length; see length_control.py for the model and its interval.

    It has no interval where comparisons were looked at while judging: none holds then.
    """
    rate = length_controlled_win_rate(
        [PairOutcome(c.prompt, win_point(c.prob), c.gap) for c in comparisons if c.prob is not None]
    )
    return replace(rate, low=None, high=None) if rate and _looked_at(comparisons) else rate


def trait_win_rates(comparisons: Sequence[ResponseComparison]) -> dict[str, Estimate]:
    """The win rate by each trait alone; equal texts are ties by every trait."""
    names = sorted({trait for comparison in comparisons for trait in comparison.traits})
    estimate = anytime_estimate if _looked_at(comparisons) else share_estimate
    return {
        trait: estimate(
            by_prompt(
                (c.prompt, win_point(c.traits[trait])) for c in comparisons if trait in c.traits
            )
        )
        for trait in names
    }


def judge_score(comparisons: Sequence[ResponseComparison]) -> Estimate | None:
    """Mean P(better than the start) with Student's t interval over prompts, or the anytime one."""
    values = by_prompt((c.prompt, c.prob) for c in comparisons if c.prob is not None)
    if not values:
        return None
    return anytime_estimate(values) if _looked_at(comparisons) else mean_estimate(values, 0.0, 1.0)


def require_counterparts(policy: Sequence[Sample], start: Sequence[Sample], name: str) -> None:
    """Raises EvaluationError if a response of the policy has no counterpart among the start's."""
    known = {(sample.prompt.id, sample.index) for sample in start}
    for sample in policy:
        if (sample.prompt.id, sample.index) not in known:
            raise EvaluationError(
                f"{name}: the start has no response {sample.index} to prompt {sample.prompt.id!r}; "
                "sample both policies on the same prompts, with the same number of responses"
            )


def compare_with_start(
    policy: Sequence[Sample], start: Sequence[Sample], compare: Compare, name: str = "policy"
) -> list[ResponseComparison]:
    """Judge every response of the policy against the start's of the same prompt and index.

    A hash of the texts decides which response is A. name: the policy's, for ids and errors. Raises
    EvaluationError if a response has no counterpart, or the judge's answer is missing.
    """
    require_counterparts(policy, start, name)
    start_response = {(sample.prompt.id, sample.index): sample.response for sample in start}
    questions: list[Question] = []
    policy_is_a: dict[str, bool] = {}
    for sample in policy:
        key = (sample.prompt.id, sample.index)
        if sample.response != start_response[key]:
            id = f"{name}/{sample.prompt.id}/{sample.index}"
            pair = (sample.response, start_response[key])
            policy_is_a[id] = hashlib.sha256("\0".join(pair).encode()).digest()[0] % 2 == 0
            questions.append(
                (id, sample.prompt.messages, *(pair if policy_is_a[id] else pair[::-1]))
            )
    judged = compare(questions) if questions else {}

    # every comparison from the policy's side; equal responses are ties, by each judged trait too
    traits = sorted({trait for pair in judged.values() for trait in pair.traits})
    comparisons = []
    for sample in policy:
        id = f"{name}/{sample.prompt.id}/{sample.index}"
        if id not in policy_is_a:
            answer = JudgedPair(0.5, traits=dict.fromkeys(traits, 0.5))
        elif id in judged:
            answer = judged[id]
        else:
            raise EvaluationError(f"the judge did not answer comparison {id!r}; evaluate again")
        other = start_response[sample.prompt.id, sample.index]
        comparisons.append(_comparison(sample, other, answer, policy_is_a.get(id, True)))
    return comparisons


NOT_ASKED = "not asked"
"""Why a comparison has no label: the rule of `compare_until` was met before its turn."""

LOOK_EVERY = 16  # prompts between two looks: a batch that keeps a judge busy


def judging_order(prompt: str) -> bytes:
    """A key that sorts prompt ids as `compare_until` judges them: random to the outcomes."""
    return hashlib.sha256(f"look\0{prompt}".encode()).digest()


def compare_until(
    policy: Sequence[Sample],
    start: Sequence[Sample],
    compare: Compare,
    name: str,
    rule: StopRule,
) -> list[ResponseComparison]:
    """The same in chunks of prompts, until the win rate's anytime interval meets the rule.

    The order of the prompts is that of a digest of their ids: random to the outcomes, and the same
    for every policy and whenever a run resumes. Returns the comparisons in the order of judging;
    those that were not judged come last, with the reason NOT_ASKED. Raises as `compare_with_start`.
    """
    require_counterparts(policy, start, name)
    groups: dict[str, list[Sample]] = {}
    for sample in policy:
        groups.setdefault(sample.prompt.id, []).append(sample)
    order = sorted(groups, key=judging_order)

    judged: list[ResponseComparison] = []
    with progress(f"judging {name} until {rule}", len(order), "prompts") as report:
        for look, begin in enumerate(range(0, len(order), LOOK_EVERY), start=1):
            samples = [s for id in order[begin : begin + LOOK_EVERY] for s in groups[id]]
            judged += [
                replace(comparison, look=look)
                for comparison in compare_with_start(samples, start, compare, name)
            ]
            report(min(begin + LOOK_EVERY, len(order)))
            rate = win_rate(judged)
            if rate is not None and rule.reached(rate):
                break
    asked = {comparison.prompt for comparison in judged}
    left = [s for id in order if id not in asked for s in groups[id]]
    return _with_trait_ties(judged, start) + [
        ResponseComparison(s.prompt.id, s.index, s.response, None, NOT_ASKED) for s in left
    ]


def _with_trait_ties(
    judged: Sequence[ResponseComparison], start: Sequence[Sample]
) -> list[ResponseComparison]:
    """Equal responses are ties by every trait, also where their chunk had nothing to judge."""
    traits = sorted({trait for comparison in judged for trait in comparison.traits})
    equal = {(sample.prompt.id, sample.index, sample.response) for sample in start}
    return [
        replace(c, traits=dict.fromkeys(traits, 0.5))
        if (c.prompt, c.index, c.response) in equal
        else c
        for c in judged
    ]


def _comparison(
    sample: Sample, other: str, answer: JudgedPair, policy_is_a: bool
) -> ResponseComparison:
    """The judge's answer from the policy's side."""

    def for_policy(prob: float) -> float:
        return prob if policy_is_a else 1.0 - prob

    return ResponseComparison(
        sample.prompt.id,
        sample.index,
        sample.response,
        None if answer.prob_a is None else for_policy(answer.prob_a),
        answer.reason,
        len(sample.response) - len(other),
        {trait: for_policy(prob) for trait, prob in answer.traits.items()},
    )
