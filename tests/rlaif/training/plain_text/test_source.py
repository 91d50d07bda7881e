"""Which plain text is scored, and what is refused before anything is loaded."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.ppo.config import PPOConfig
from rlaif.algorithms.rest.config import ReSTConfig
from rlaif.algorithms.reward.config import RewardConfig
from rlaif.algorithms.sft.config import SFTConfig
from rlaif.training.plain_text.source import MOST_CHARACTERS, SHIPPED, read_text, text_file

POLICIES = (SFTConfig, DPOConfig, PPOConfig, ReSTConfig)


def test_the_text_that_ships_is_ten_to_twenty_kilobytes_of_prose():
    text = read_text(SHIPPED)
    assert 10_000 < len(text.encode()) < 20_000
    paragraphs = text.split("\n\n")
    assert len(paragraphs) > 10
    assert len(set(text.split())) > 800  # different words: not one sentence repeated
    assert text_file(SHIPPED) is None


def test_a_file_is_read_to_its_first_characters(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("äb" * MOST_CHARACTERS, encoding="utf-8")
    assert read_text(str(path)) == "äb" * (MOST_CHARACTERS // 2)


@pytest.mark.parametrize("config", POLICIES)
def test_a_text_that_cannot_be_scored_is_refused_with_the_settings(config, tmp_path):
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, why in (
        ("missing", "cannot be read (No such file or directory); give a file of plain text"),
        ("empty", "the text is empty"),
        ("binary", "not plain text"),
    ):
        with pytest.raises(ValidationError) as refused:
            config(text_eval=str(tmp_path / name))
        assert f"{tmp_path / name}: {why}" in str(refused.value)


@pytest.mark.parametrize("config", POLICIES)
def test_a_file_belongs_to_what_the_outcome_depends_on_and_the_shipped_text_does_not(
    config, tmp_path
):
    (tmp_path / "mine.txt").write_text("Once upon a time.")
    assert config(text_eval=str(tmp_path / "mine.txt")).named_files == (tmp_path / "mine.txt",)
    assert config().named_files == config(text_eval=None).named_files == ()


def test_a_reward_model_writes_no_text_and_has_no_such_setting():
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        RewardConfig(text_eval=None)
    assert RewardConfig().named_files == ()
