"""The benchmark on forgetting, on a tiny model that first learns some prose."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.training import forgetting
from rlaif.algorithms.sft.config import SFTConfig
from rlaif.algorithms.sft.sources import SFTSource
from rlaif.algorithms.sft.train import train
from rlaif.data.records import PlainText
from rlaif.training.plain_text.source import SHIPPED, read_text
from tests.support.training.tiny_model import save_tiny_model


def test_the_exercises_have_right_answers():
    lessons = {lesson.id: lesson.response for lesson in forgetting.instructions()}
    assert len(lessons) == 4 * len(set(forgetting.WORDS))
    assert lessons["river-0"] == "BACKWARDS: REVIR"
    assert lessons["river-1"] == "- r\n- i\n- v\n- e\n- r"
    assert lessons["river-2"] == "SORTED: button < candle < river"
    assert lessons["river-3"] == "VOWELS: 2 of 5 letters"


def test_the_plain_text_is_not_the_held_out_one():
    held_out = set(read_text(SHIPPED).split("\n\n"))
    for text in forgetting.texts():
        assert not held_out & set(text.text.split("\n\n"))


@pytest.mark.integration
def test_text_in_the_mix_keeps_the_loss_on_plain_text_down(tmp_path, capsys):
    """A whole model of 50 000 weights that has learned letters, then both arms of three seeds."""
    config = SFTConfig(
        dtype="float32", lora=None, learning_rate=1e-2, steps=150, batch_size=8, max_tokens=128
    )
    base = save_tiny_model(tmp_path / "random")
    prose = [PlainText(id="t", text=text.text) for text in forgetting.texts()]
    model = str(train(config, base, [SFTSource("text", prose)], tmp_path / "model"))
    found = forgetting.compared(tmp_path / "out", model, seeds=3, steps=30)
    assert found.high < 0
    lines = capsys.readouterr().out.splitlines()
    again = forgetting.compared(tmp_path / "out", model, seeds=3, steps=30)  # nothing is trained
    assert again == found
    assert capsys.readouterr().out.splitlines() == lines
    assert Counter(path.name for path in (tmp_path / "out").iterdir()).total() == 6
