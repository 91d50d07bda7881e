"""A round's policy: against the start and the round before, by judges, reward model and gold.

A round gains if the 95 % interval of its win rate against the round before, by the first judge,
lies above a threshold (½). After `patience` rounds in a row without a gain the rounds end, and the
policy of the last round that gained is kept; the first one's where none did.

    reward wins, gold wins   share of held-out prompts on which the policy's response has the higher
                             score than the start's, by the reward model and by gold; ties are ½
    gap                      reward wins less gold wins, by prompt: what the reward model only
                             believes (overoptimization, arXiv:2210.10760; over rounds,
                             arXiv:2505.18126)

Gold exists where a judge is planted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from rlaif.data.records import Sample, write_json
from rlaif.evaluation.comparison import win_point
from rlaif.evaluation.gold import GoldScore
from rlaif.evaluation.intervals import Estimate, by_prompt, mean_estimate, share_estimate
from rlaif.evaluation.policies import KL

ROUND_FILE = "round.json"
ROUNDS_FILE = "rounds.json"
_EQUAL = 1e-9  # scores that differ by less are a tie


@dataclass(frozen=True, slots=True)
class WinsByScore:
    """Wins over the start by the reward model and by gold; None where there is no such score."""

    reward: Estimate | None = None
    gold: Estimate | None = None
    gap: Estimate | None = None


@dataclass(frozen=True, slots=True)
class RoundResult:
    """One round. judges: by name, the first one decides; against_start: its and their win rates.

    against_before: by the first judge, against the round before (the start, for the first round).
    gold, gold_gain: mean gold of the policy's responses, and less the start's. without_gain: rounds
    in a row up to this one that gained nothing. kept: the round whose policy is kept so far.
    """

    number: int
    policy: str
    judges: tuple[str, ...]
    against_before: Estimate | None
    against_start: tuple[Estimate | None, ...]
    reward_gain: Estimate | None
    kl: KL | None
    wins: WinsByScore
    gold: Estimate | None
    gold_gain: Estimate | None
    mean_tokens: float
    without_gain: int
    kept: int
    ended: str = ""  # why no further round is needed; "" if one is
    refusals_safe: Estimate | None = None  # of prompts with a kind other than harmful
    refusals_harmful: Estimate | None = None

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, _ROUND.dump_python(self, mode="json"))

    @classmethod
    def load(cls, path: Path) -> RoundResult:
        """Read a saved one. Raises OSError or ValueError."""
        return _ROUND.validate_json(path.read_bytes())


@dataclass(frozen=True, slots=True)
class RoundsSummary:
    """All rounds that were run, and the one whose policy is kept. start_gold: mean gold of the
    start's responses, where a judge is planted; planted: its name."""

    rounds: tuple[RoundResult, ...]
    kept: int
    start_gold: Estimate | None = None
    planted: str = ""

    @property
    def ended(self) -> str:
        """Why the rounds ended."""
        if last := self.rounds[-1].ended:
            return last
        return f"all {len(self.rounds)} rounds were run"

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, _ROUNDS.dump_python(self, mode="json"))

    @classmethod
    def load(cls, path: Path) -> RoundsSummary:
        """Read a saved one. Raises OSError or ValueError."""
        return _ROUNDS.validate_json(path.read_bytes())


_ROUND = TypeAdapter(RoundResult)
_ROUNDS = TypeAdapter(RoundsSummary)


@dataclass(frozen=True, slots=True)
class RoundDecision:
    """What a round means for the next one; as in `RoundResult`."""

    without_gain: int
    kept: int
    ended: str


def decide(
    number: int,
    rate: Estimate | None,
    before: RoundResult | None,
    *,
    over: float | None,
    patience: int,
) -> RoundDecision:
    """Whether the rounds end after this one.

    rate: the win rate against the round before; None where nothing could be judged, which is no
    gain. over: the threshold; None: rounds never end early, and the last one is kept.

    >>> decide(2, Estimate(0.52, 0.45, 0.59, 200), None, over=0.5, patience=1).ended
    'round 2 shows no gain over round 1: win rate 52 % [45, 59], not above 50 %'
    """
    if over is None:
        return RoundDecision(0, number, "")
    gained = rate is not None and rate.low is not None and rate.low > over
    without = 0 if gained else 1 + (before.without_gain if before else 0)
    kept = number if gained else (before.kept if before else 1)
    ended = _ended(number, rate, over, without) if without >= patience else ""
    return RoundDecision(without, kept, ended)


def _ended(number: int, rate: Estimate | None, over: float, without: int) -> str:
    rounds = f"round {number} shows" if without == 1 else f"rounds up to {number} show"
    other = "the start" if number == 1 else f"round {number - 1}"
    if rate is None or rate.low is None or rate.high is None:
        return f"{rounds} no gain over {other}: nothing could be judged"
    interval = f"{100 * rate.value:.0f} % [{100 * rate.low:.0f}, {100 * rate.high:.0f}]"
    return f"{rounds} no gain over {other}: win rate {interval}, not above {100 * over:g} %"


# ── wins over the start, by score ────────────────────────────────────────────────────────────


def wins_by_score(
    policy: Sequence[Sample],
    start: Sequence[Sample],
    rewards: tuple[Sequence[float | None], Sequence[float | None]] | None,
    gold: GoldScore | None,
) -> WinsByScore:
    """Wins of a policy's responses over the start's to the same prompts.

    rewards: the reward model's scores of both, None for an empty response; such are left out.
    """
    by_reward = _wins(policy, start, *rewards) if rewards is not None else {}
    by_gold = _wins(policy, start, _gold(policy, gold), _gold(start, gold)) if gold else {}
    both = [by_reward[key] - by_gold[key] for key in by_reward if key in by_gold]
    return WinsByScore(
        share_estimate(list(by_reward.values())) if by_reward else None,
        share_estimate(list(by_gold.values())) if by_gold else None,
        mean_estimate(both, -1.0, 1.0) if both else None,
    )


def _gold(samples: Sequence[Sample], gold: GoldScore) -> list[float]:
    return [gold(sample.prompt.messages, sample.response) for sample in samples]


def _wins(
    policy: Sequence[Sample],
    start: Sequence[Sample],
    own: Sequence[float | None],
    others: Sequence[float | None],
) -> Mapping[str, float]:
    """Prompt id → mean over its responses of 1 for a higher score than the start's, ½ for a tie."""
    known = {(s.prompt.id, s.index): score for s, score in zip(start, others, strict=True)}
    points: dict[str, list[tuple[str, float]]] = {}
    for sample, score in zip(policy, own, strict=True):
        other = known.get((sample.prompt.id, sample.index))
        if score is not None and other is not None:
            margin = score - other
            prob = 0.5 if abs(margin) < _EQUAL else float(margin > 0)
            points.setdefault(sample.prompt.id, []).append((sample.prompt.id, win_point(prob)))
    return {prompt: by_prompt(each)[0] for prompt, each in points.items()}
