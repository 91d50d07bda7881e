"""What a comparison of training methods found: comparison.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from rlaif.data.records import write_json
from rlaif.evaluation.intervals import Estimate
from rlaif.evaluation.round_robin.strengths import StrengthTable


@dataclass(frozen=True, slots=True)
class TrainedSeed:
    """What one training took. steps: optimizer steps, of PPO iterations. budget: the share of the
    budget that was spent, of the one that was spent most; None without one."""

    policy: str  # its name in the evaluation
    seed: int
    steps: int
    seconds: float
    tokens: float
    memory_gib: float
    budget: float | None = None

    @property
    def ended_by_budget(self) -> bool:
        """Whether the budget ended training, and not its settings."""
        return self.budget is not None and self.budget >= 1


@dataclass(frozen=True, slots=True)
class ArmResult:
    """One method over its seeds; None: not measured. The start is an arm without trainings.

    by_judge: win rates against the start by judge; longer: what naming the longer response gives;
    gold_gain: of a planted judge's gold over the start. kl: k1 to the start, nats per response;
    kl_most: an upper bound where that is known instead. refusals: by kind of prompt. text_nll: of
    the plain text, nats a token; text_change: the same less the start's. reward_seconds: of the
    reward model that it needs, trained once for all.
    """

    name: str
    policies: tuple[str, ...]
    by_judge: dict[str, Estimate] = field(default_factory=dict)
    length_controlled: Estimate | None = None
    longer: Estimate | None = None
    gold_gain: Estimate | None = None
    by_seed: tuple[Estimate | None, ...] = ()  # win rates by the first judge, as `policies`
    kl: Estimate | None = None
    kl_most: float | None = None
    distinct_2: float | None = None
    tokens_per_response: float | None = None
    refusals: dict[str, Estimate] = field(default_factory=dict)
    text_nll: float | None = None
    text_change: Estimate | None = None
    trainings: tuple[TrainedSeed, ...] = ()
    reward_seconds: float = 0.0
    answers_drawn: int = 1  # responses sampled for each one that is given

    @property
    def win_rate(self) -> Estimate | None:
        """Against the start, by the first judge."""
        return next(iter(self.by_judge.values()), None)

    @property
    def seconds(self) -> float:
        """Training of one seed, the reward model that it needs included."""
        own = [training.seconds for training in self.trainings]
        return self.reward_seconds + (sum(own) / len(own) if own else 0.0)


@dataclass(frozen=True, slots=True)
class HeadToHead:
    """Two methods compared with each other on the same prompts, seed by seed.

    win_rate: of the first over the second; all such intervals of a comparison hold together.
    """

    first: str
    second: str
    win_rate: Estimate
    seeds: int

    @property
    def winner(self) -> str:
        """The better one; "" where the interval does not tell."""
        low, high = self.win_rate.low, self.win_rate.high
        if low is not None and low > 0.5:
            return self.first
        return self.second if high is not None and high < 0.5 else ""


@dataclass(frozen=True, slots=True)
class MethodComparison:
    """All of it. arms: the start first.

    budget: as it was given. left_out: policy → why its training is not there. labels: judged pairs
    that all arms share; over_budget: pairs that were not judged. label_reads, evaluation_reads: of
    judges, in all. judged_by: who judged, and what that is worth, in words.
    """

    facts: dict[str, str]
    arms: tuple[ArmResult, ...]
    head_to_head: tuple[HeadToHead, ...]
    prompts: int
    seeds: int
    strengths: StrengthTable | None = None
    budget: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    labels: int | None = None
    over_budget: int = 0
    label_reads: int | None = None
    evaluation_reads: int = 0
    judged_by: tuple[str, ...] = ()
    planted: bool = False
    last_line: str = ""

    @property
    def trained(self) -> tuple[ArmResult, ...]:
        """The arms without the start."""
        return self.arms[1:]

    def save(self, path: Path) -> None:
        """Write the comparison as JSON."""
        write_json(path, _COMPARISON.dump_python(self, mode="json"))

    @classmethod
    def load(cls, path: Path) -> MethodComparison:
        """Read a saved comparison. Raises OSError or ValueError."""
        return _COMPARISON.validate_json(path.read_bytes())


_COMPARISON = TypeAdapter(MethodComparison)
