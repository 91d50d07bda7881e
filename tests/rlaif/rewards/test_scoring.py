"""Scores of samples: kept as they come, absent where there is none, in rows that samples are read
from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest

import rlaif
from constitution.errors import UserError
from rlaif.data.samples import read_samples
from rlaif.models.reward_model import RewardModel
from rlaif.rewards import scoring
from tests.support.feedback.constitutions import make_constitution, principle

LENGTH = "tests.rlaif.rewards.test_scoring:length"


def length(conversations: Any, responses: Sequence[str]) -> list[float | None]:
    return [float(len(response)) if response else None for response in responses]


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    path = tmp_path / "samples.jsonl"
    rows = [{"prompt": f"q{n}", "responses": ["a" * n, "bb"]} for n in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def scores_in(file: Path) -> list[float | None]:
    found: list[float | None] = parquet.read_table(file).column("score").to_pylist()
    return found


def test_every_response_has_its_score_in_order_and_what_cannot_be_scored_has_none(
    samples: Path, tmp_path: Path
) -> None:
    done = rlaif.score(samples, reward=LENGTH, out=tmp_path / "scores")
    found = scores_in(tmp_path / "scores" / "scores.parquet")
    assert found == [None, 2.0, 1.0, 2.0, 2.0, 2.0, 3.0, 2.0, 4.0, 2.0]
    assert (done.responses, done.scored, done.mean) == (10, 9, 20 / 9)


def test_sources_are_added_up_with_their_weights(samples: Path, tmp_path: Path) -> None:
    rlaif.score(samples, reward=[LENGTH, f"-0.5*{LENGTH}"], out=tmp_path / "scores")
    assert scores_in(tmp_path / "scores" / "scores.parquet")[-2:] == [2.0, 1.0]


def test_a_killed_run_asks_only_for_what_it_had_not_scored(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "AT_ONCE", 4)
    asked: list[list[str]] = []

    killed = False

    def score(conversations: Any, responses: Sequence[str]) -> list[float | None]:
        if asked and not killed:
            raise KeyboardInterrupt
        asked.append(list(responses))
        return length(conversations, responses)

    with pytest.raises(KeyboardInterrupt):
        rlaif.score(samples, reward=score, out=tmp_path / "scores")
    assert not (tmp_path / "scores" / "scores.parquet").exists()

    killed = True
    rlaif.score(samples, reward=score, out=tmp_path / "scores")
    first, *later = asked
    assert first == ["", "bb", "a", "bb"]
    # The empty one had no score, and is asked for again.
    assert [text for texts in later for text in texts] == [
        "",
        "aa",
        "bb",
        "aaa",
        "bb",
        "aaaa",
        "bb",
    ]
    assert scores_in(tmp_path / "scores" / "scores.parquet")[2:4] == [1.0, 2.0]


def test_another_reward_scores_everything_anew(samples: Path, tmp_path: Path) -> None:
    rlaif.score(samples, reward=length, out=tmp_path / "scores")
    rlaif.score(samples, reward=lambda c, r: [-1.0] * len(r), out=tmp_path / "scores")
    rlaif.score(samples, reward=lambda c, r: [-2.0] * len(r), out=tmp_path / "scores")
    assert scores_in(tmp_path / "scores" / "scores.parquet") == [-2.0] * 10


def test_scored_samples_are_samples(samples: Path, tmp_path: Path) -> None:
    rlaif.score(samples, reward=LENGTH, out=tmp_path / "scores")
    assert read_samples(tmp_path / "scores" / "scores.parquet") == read_samples(samples)


def test_a_reward_that_scores_nothing_is_an_error_with_the_reasons(
    samples: Path, tmp_path: Path
) -> None:
    def nothing(conversations: Any, responses: Sequence[str]) -> list[float | None]:
        return [None] * len(responses)

    with pytest.raises(UserError, match=r"none of 10 responses has a score \(function: gave None"):
        rlaif.score(samples, reward=nothing, out=tmp_path / "scores")
    assert not list((tmp_path / "scores").glob("scores.parquet*"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"reward": []}, "invalid reward"),
        ({"reward": "nowhere"}, "unknown source 'nowhere'"),
        ({"samples": "missing.jsonl"}, "missing.jsonl"),
    ],
)
def test_bad_input_is_refused_before_anything_is_loaded(
    samples: Path, tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    how: dict[str, Any] = {"samples": samples, "reward": LENGTH, "out": tmp_path / "s", **given}
    with pytest.raises(UserError, match=message):
        rlaif.score(how.pop("samples"), **how)
    assert not (tmp_path / "s" / "scores.parquet").exists()


def test_an_empty_file_has_no_responses_to_score(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match=r"empty\.jsonl"):
        rlaif.score(tmp_path / "empty.jsonl", reward=LENGTH, out=tmp_path / "s")


def test_a_reward_models_folder_is_opened_over_the_base_that_it_names(
    samples: Path, tmp_path: Path, tiny_model: str, polite_pairs: Any
) -> None:
    rules = make_constitution(principle(0, trait="manners"))
    reward = rlaif.train_reward(
        polite_pairs, model=tiny_model, out=tmp_path / "reward", epochs=1, batch_size=4,
        dtype="float32", lora={"rank": 2}, constitution=rules, max_tokens=60,
    )  # fmt: skip
    rlaif.score(samples, reward=reward, out=tmp_path / "scores")
    asked = read_samples(samples)
    expected = RewardModel.load(tiny_model, reward).overall_scores(
        [sample.prompt.messages for sample in asked], [sample.response for sample in asked]
    )
    found = scores_in(tmp_path / "scores" / "scores.parquet")
    assert found[0] is None
    assert found[1:] == pytest.approx(expected[1:], abs=1e-5)
