"""Gold figures of labels, reward models and policies, exact where a planted judge defines gold.

G(x, y) in [0, 1] is the gold score of a response y to a conversation x, computed from the text.

label accuracy     share of pairs whose chosen response has the higher G; pairs of equal G have no
                   right answer and are left out, counted as ties
reward accuracy    the same for the response that a reward model scores higher; equal scores are ½
policy gold        mean G of its responses; gain: minus the start's, by prompt
overoptimized      the judge prefers the policy (interval of the judge score above ½) while its gold
                   fell (interval of the gain below 0): arXiv:2210.10760

Every result names the planted judge, so that none can pass for a model's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from pydantic import TypeAdapter

from constitution.schema import Message
from rlaif.data.records import Preference, Sample, write_json
from rlaif.evaluation.intervals import Estimate, by_prompt, mean_estimate, share_estimate
from rlaif.evaluation.judges.column import JudgeColumn

GoldScore = Callable[[Sequence[Message], str], float]
"""(conversation, response) → G."""

GOLD_FILE = "gold.json"  # beside the labels or the evaluation of a planted judge
_EQUAL = 1e-9  # differences of G below this are rounding


@dataclass(frozen=True, slots=True)
class GoldLabels:
    """How many labels of the judge are right; accuracy: None where every pair is a tie."""

    judge: str
    accuracy: Estimate | None
    pairs: int
    ties: int

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, _LABELS.dump_python(self, mode="json"))

    @classmethod
    def load(cls, path: Path) -> GoldLabels:
        """Read a saved one. Raises OSError or ValueError."""
        return _LABELS.validate_json(path.read_bytes())


@dataclass(frozen=True, slots=True)
class GoldPolicy:
    """What a policy's responses are truly worth; gain: None for the start."""

    name: str
    gold: Estimate
    gain: Estimate | None
    overoptimized: bool


@dataclass(frozen=True, slots=True)
class GoldEvaluation:
    """The truth beside an evaluation by a planted judge: the start first."""

    judge: str
    policies: tuple[GoldPolicy, ...]

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, _EVALUATION.dump_python(self, mode="json"))

    @classmethod
    def load(cls, path: Path) -> GoldEvaluation:
        """Read a saved one. Raises OSError or ValueError."""
        return _EVALUATION.validate_json(path.read_bytes())


_LABELS = TypeAdapter(GoldLabels)
_EVALUATION = TypeAdapter(GoldEvaluation)


def gold_labels(judge: str, labels: Sequence[Preference], gold: GoldScore) -> GoldLabels:
    """How many labels choose the truly better response, Wilson's interval over prompts."""
    right = _right(labels, [1.0] * len(labels), gold)
    return GoldLabels(judge, _share(right), len(labels), len(labels) - len(right))


def reward_accuracy(
    labels: Sequence[Preference], margins: Sequence[float], gold: GoldScore
) -> Estimate | None:
    """How often a reward model scores the truly better response higher; None without such pairs.

    margins: score of the chosen response minus that of the rejected one.
    """
    return _share(_right(labels, margins, gold))


def gold_policy(
    name: str,
    samples: Sequence[Sample],
    start: Sequence[Sample] | None,
    gold: GoldScore,
    judge_score: Estimate | None = None,
) -> GoldPolicy:
    """Mean G of a policy's responses and its gain over the start's, Student's t over prompts.

    start: None for the start itself. judge_score: mean P(better than the start) by the judge.
    """
    own = _by_prompt_id(samples, gold)
    gain = None
    if start is not None:
        before = _by_prompt_id(start, gold)
        differences = [own[prompt] - before[prompt] for prompt in own if prompt in before]
        gain = mean_estimate(differences, -1.0, 1.0) if differences else None
    fell = gain is not None and gain.high is not None and gain.high < 0
    liked = judge_score is not None and judge_score.low is not None and judge_score.low > 0.5
    return GoldPolicy(name, mean_estimate(list(own.values()), 0.0, 1.0), gain, fell and liked)


def gold_evaluation(
    judge: str,
    policies: Sequence[tuple[str, Sequence[Sample]]],
    column: JudgeColumn,
    gold: GoldScore,
) -> GoldEvaluation:
    """The truth about policies that this judge compared: (name, samples) of each, the start
    first."""
    scores = {policy.name: policy.judge_score for policy in column.policies}
    (first, start), *trained = policies
    return GoldEvaluation(
        judge,
        (
            gold_policy(first, start, None, gold),
            *(gold_policy(name, own, start, gold, scores.get(name)) for name, own in trained),
        ),
    )


def _right(
    labels: Sequence[Preference], margins: Sequence[float], gold: GoldScore
) -> list[tuple[tuple[Message, ...], float]]:
    """(prompt, whether the margin has the sign of the truth) of each pair that is not a tie."""
    right = []
    for label, margin in zip(labels, margins, strict=True):
        truth = gold(label.prompt, label.chosen_text) - gold(label.prompt, label.rejected_text)
        if abs(truth) > _EQUAL:
            agrees = 0.5 if margin == 0 else float((margin > 0) == (truth > 0))
            right.append((label.prompt, agrees))
    return right


def _share(right: Sequence[tuple[tuple[Message, ...], float]]) -> Estimate | None:
    return share_estimate(by_prompt(right)) if right else None


def _by_prompt_id(samples: Sequence[Sample], gold: GoldScore) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for sample in samples:
        score = gold(sample.prompt.messages, sample.response)
        groups.setdefault(sample.prompt.id, []).append(score)
    return {prompt: fmean(scores) for prompt, scores in groups.items()}
