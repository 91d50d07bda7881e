"""How often `rlaif judge promote` adopts a candidate that is no better than the judge.

    python -m benchmarks.judge.promotion_noise [--runs 200] [--prompts 40 80 160]

No model: a judge of simulated reads, right on --accuracy of the pairs, two pairs per prompt that
share half of their noise. Candidates without merit:

    judge            another judge of the same accuracy, whose errors are its own
    near copy        the same judge, but for a little noise in its log-odds
    reader           fitted to reads of which only the judge's own say anything, and 6 principles of
                     noise, label masses and lengths nothing
    four judges      four at once, which share the error rate

and one with merit, for the power: `better`, right on 15 points more. A run is a new gold set. The
limit is 5 %; each interval has 2.5 % on its upper side.

The last line is one JSON object: name, ours (the highest rate of a candidate without merit), peer
(the limit), unit, ratio.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from statistics import NormalDist

from rich.console import Console
from rich.table import Table

from judge_service.judge.label_probs import prob_first
from judge_service.judge.reader import Lengths, features
from judge_service.types import Order, PrincipleVote, Read
from rlaif.labels.promotion.fit_reader import GoldReads, fit_reader
from rlaif.labels.promotion.gain import (
    Judged,
    Metric,
    Trial,
    adopted,
    held_back_prompts,
    trial,
)

LIMIT = 0.05
NOISE_PRINCIPLES = 6
PAIRS_PER_PROMPT = 2


class GoldSetOfNoise:
    """Prompts with pairs, and answers to them: log-odds of the response that is right."""

    def __init__(self, prompts: int, seed: str) -> None:
        self.rng = random.Random(seed)
        self.ids = [(f"p{p}", f"p{p}-{i}") for p in range(prompts) for i in range(PAIRS_PER_PROMPT)]

    def judge(self, accuracy: float) -> dict[str, float]:
        """Log-odds with unit variance, half of it shared by a prompt's pairs."""
        shift = NormalDist().inv_cdf(accuracy)
        shared = {prompt: self.rng.gauss(0.0, 0.5**0.5) for prompt, _ in self.ids}
        return {
            id: shift + shared[prompt] + self.rng.gauss(0.0, 0.5**0.5) for prompt, id in self.ids
        }

    def judged(self, log_odds: dict[str, float], within: frozenset[str]) -> list[Judged]:
        """q of the pairs on the given prompts."""
        return [
            Judged(id, prompt, prob_first(log_odds[id], 0.0))
            for prompt, id in self.ids
            if prompt in within
        ]


Candidates = Callable[[GoldSetOfNoise, dict[str, float], frozenset[str]], Sequence[list[Judged]]]


def other_judges(accuracy: float, count: int) -> Candidates:
    """Judges of this accuracy with errors of their own."""
    return lambda gold, _, test: [gold.judged(gold.judge(accuracy), test) for _ in range(count)]


def near_copy(
    gold: GoldSetOfNoise, now: dict[str, float], test: frozenset[str]
) -> list[list[Judged]]:
    """The judge itself with a little noise."""
    noisy = {id: z + gold.rng.gauss(0.0, 0.2) for id, z in now.items()}
    return [gold.judged(noisy, test)]


def reader(gold: GoldSetOfNoise, now: dict[str, float], test: frozenset[str]) -> list[list[Judged]]:
    """A reader fitted to the judge's reads beside noise."""
    rows = {}
    for prompt, id in gold.ids:
        a_is_right = gold.rng.random() < 0.5
        sign = 1.0 if a_is_right else -1.0
        votes = [_vote("judge", sign * now[id], gold.rng)]
        votes += [
            _vote(f"noise-{k}", gold.rng.gauss(0.0, 1.0), gold.rng) for k in range(NOISE_PRINCIPLES)
        ]
        lengths = Lengths(gold.rng.randint(20, 400), gold.rng.randint(20, 400))
        rows[id] = (prompt, a_is_right, votes, lengths)
    fitted = fit_reader([
        GoldReads(prompt, features(votes, lengths), float(a_is_right))
        for prompt, a_is_right, votes, lengths in rows.values()
        if prompt not in test
    ])  # fmt: skip
    judged = []
    for id, (prompt, a_is_right, votes, lengths) in rows.items():
        if prompt in test:
            prob_a = fitted.prob_a(votes, lengths)
            judged.append(Judged(id, prompt, prob_a if a_is_right else 1.0 - prob_a))
    return [judged]


def _vote(id: str, log_odds: float, rng: random.Random) -> PrincipleVote:
    """A vote whose two orders have this mean log-odds, and a gap."""
    gap = rng.gauss(0.0, 0.5)
    reads = tuple(
        Read(order, -0.7 + z / 2, -0.7 - z / 2, 0.5, rng.uniform(0.8, 1.0), 1, 0, "0" * 64)
        for order, z in ((Order.AB, log_odds + gap), (Order.BA, -(log_odds - gap)))
    )
    return PrincipleVote(id, "t", 1.0, 0.5, abs(gap), reads)


def trials(
    candidates: Candidates, prompts: int, accuracy: float, metric: Metric, seed: str
) -> list[Trial]:
    """The trials of one simulated gold set."""
    gold = GoldSetOfNoise(prompts, seed)
    now = gold.judge(accuracy)
    test = held_back_prompts((prompt for prompt, _ in gold.ids), seed=0)
    before = gold.judged(now, test)
    answers = candidates(gold, now, test)
    return [
        trial(str(k), before, own, metric, tested=len(before), candidates=len(answers))
        for k, own in enumerate(answers)
    ]


def rate(candidates: Candidates, prompts: int, accuracy: float, metric: Metric, runs: int) -> float:
    """Share of runs that adopt a candidate."""
    found = [
        adopted(trials(candidates, prompts, accuracy, metric, f"{run}")) for run in range(runs)
    ]
    return sum(each is not None for each in found) / runs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument(
        "--prompts", nargs="+", type=int, default=[40, 80, 160], help="gold prompts"
    )
    parser.add_argument("--accuracy", type=float, default=0.6)
    options = parser.parse_args()
    without_merit: dict[str, Candidates] = {
        "judge": other_judges(options.accuracy, 1),
        "near copy": near_copy,
        "reader": reader,
        "four judges": other_judges(options.accuracy, 4),
    }
    kinds = {**without_merit, "better": other_judges(options.accuracy + 0.15, 1)}
    table = Table(
        "adopted of all runs", *(f"{n} prompts, {m}" for m in Metric for n in options.prompts)
    )
    highest = 0.0
    for name, candidates in kinds.items():
        rates = [
            rate(candidates, n, options.accuracy, metric, options.runs)
            for metric in Metric
            for n in options.prompts
        ]
        table.add_row(name, *(f"{100 * each:.1f} %" for each in rates))
        # By log loss a fitted reader may win by its confidence, which is merit of a kind.
        counted = rates[: len(options.prompts)] if name == "reader" else rates
        highest = max([highest, *counted]) if name in without_merit else highest
    Console(width=150).print(table)
    result = {
        "name": f"candidates without merit adopted, {options.runs} runs each",
        "ours": highest,
        "peer": LIMIT,
        "unit": "share of runs",
        "ratio": round(highest / LIMIT, 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
