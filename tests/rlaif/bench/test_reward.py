"""A reward model's answers: differences of its scores, resumable."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from constitution.schema import Message
from rlaif.algorithms.reward.config import RewardConfig
from rlaif.algorithms.reward.train import train
from rlaif.bench.reward import load_reward_model, reward_answers
from rlaif.gold_sets.questions import GoldQuestion
from rlaif.models.reward_model import RewardModel
from tests.support.training.pairs import varied_pairs

QUESTIONS = [
    GoldQuestion.pair("a", "longer one", "short"),
    GoldQuestion.pair("b", "short", "the longer one"),
    GoldQuestion.pair("c", "x" * 50, "short"),
]
TRAITS = {"manners": 1.0, "brevity": 2.0}


class LengthScorer:
    """Scores a response by its length; too long from 50 characters on."""

    def __init__(self) -> None:
        self.scored = 0

    def overall_scores(
        self, conversations: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> list[float | None]:
        self.scored += len(responses)
        return [None if len(text) >= 50 else float(len(text)) for text in responses]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "reward"
    made.mkdir()
    facts: dict[str, Any] = {"label_weights": {}, "trait_weights": {}, "base_name": "none"}
    (made / "reward.json").write_text(json.dumps(facts))
    return made


def test_gaps_are_differences_of_scores_and_too_long_ones_are_unanswered(
    folder: Path, tmp_path: Path
) -> None:
    found = reward_answers(QUESTIONS, folder, cast(RewardModel, LengthScorer()), tmp_path / "out")
    assert [answer.gaps for answer in found.answers] == [(5.0,), (-9.0,)]
    assert found.unanswered == {"too_long": 1}
    assert found.cost.reads == 6
    assert found.cost.seconds is not None


def test_scores_on_disk_are_not_computed_again_unless_the_model_changed(
    folder: Path, tmp_path: Path
) -> None:
    scorer = LengthScorer()
    model = cast(RewardModel, scorer)
    first = reward_answers(QUESTIONS[:2], folder, model, tmp_path / "out")
    again = reward_answers(QUESTIONS, folder, model, tmp_path / "out")
    assert scorer.scored == 4 + 2
    assert again.answers == first.answers
    assert again.cost.seconds is None
    (folder / "reward.json").write_text('{"label_weights": {}, "trait_weights": {"a": 1}}')
    reward_answers(QUESTIONS, folder, model, tmp_path / "out")
    assert scorer.scored == 6 + 6


def test_a_trained_reward_model_is_loaded_over_its_base_and_gives_its_own_scores(
    tiny_model: str, tmp_path: Path
) -> None:
    config = RewardConfig(dtype="float32", epochs=1, max_tokens=200)
    folder = train(config, tiny_model, varied_pairs(), tmp_path / "reward", TRAITS)
    model = load_reward_model(folder)
    found = reward_answers(QUESTIONS[:2], folder, model, tmp_path / "out")
    for answer in found.answers:
        question = answer.question
        right, wrong = model.overall_scores([question.messages] * 2, question.responses)
        assert right is not None
        assert wrong is not None
        assert answer.gaps == pytest.approx((right - wrong,), abs=1e-5)
