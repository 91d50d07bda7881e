"""A reward model's answers to gold questions: the differences of its scores.

A score is in standard deviations of its training responses, so a gap is in log-odds only up to a
factor: the slope on length compares reward models on one file, and r has no unit. Scores are on
disk 64 at a time. A question with a response that is too long is unanswered.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlaif.bench.judge import answers_of_scores
from rlaif.bench.result import Answered, BenchCost
from rlaif.bench.scores import ScoreEntry, ScoreRequest, scored_questions
from rlaif.gold_sets.questions import GoldQuestion

if TYPE_CHECKING:
    from rlaif.models.reward_model import RewardModel

SCORES = "reward_scores.journal.jsonl"
_AT_ONCE = 64  # responses between two writes to disk


def load_reward_model(folder: Path, model: str = "") -> RewardModel:
    """The reward model of a folder, over its base. model: the base, where it has moved; "": the one
    that the folder names. Raises RewardModelError and BackboneError."""
    from rlaif.models.catalog import resolve
    from rlaif.models.reward.weights import read_facts
    from rlaif.models.reward_model import RewardModel

    return RewardModel.load(resolve(model or read_facts(folder)["base_name"]), folder)


def reward_answers(
    questions: Sequence[GoldQuestion], folder: Path, model: RewardModel, out: Path
) -> Answered:
    """Score every response. folder: the reward model's; out: of the scores. Raises RecordError, and
    ChatTemplateError for a conversation that the model's template refuses."""
    from rlaif.models.reward_model import reward_identity

    def score_many(requests: Sequence[ScoreRequest]) -> Iterator[ScoreEntry]:
        for first in range(0, len(requests), _AT_ONCE):
            some = requests[first : first + _AT_ONCE]
            scores = model.overall_scores([r.messages for r in some], [r.response for r in some])
            for request, score in zip(some, scores, strict=True):
                reason = "" if score is not None else "too_long"
                yield ScoreEntry(key=request.key, score=score, reason=reason)

    started = time.monotonic()
    scored = scored_questions(questions, reward_identity(folder), out / SCORES, score_many)
    seconds = time.monotonic() - started
    answers, unanswered = answers_of_scores(scored)
    total = len({entry.key for _, entries in scored for entry in entries})
    cost = BenchCost(total, 0, 0, seconds if scored.scored_now == total else None)
    return Answered(answers, unanswered, cost)
