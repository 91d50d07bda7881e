"""Mixes whose weights move over a run: which rows they draw, and that a resumed run draws them too.

The equation under test: rows due to a source = Σ over the rows so far of its share at their step.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constitution.schema import Message
from rlaif.algorithms.sft import train as sft
from rlaif.algorithms.sft.config import SFTConfig
from rlaif.algorithms.sft.lessons import Pick, mixture
from rlaif.algorithms.sft.sources import SFTSource
from rlaif.data.records import Demonstration, PlainText, write_jsonl
from rlaif.settings import MovingWeight, mix_weight
from rlaif.training.config import TrainingError
from tests.support.training.killed import KilledError, assert_same_outcome, kill_after, metrics

NUMBERS = st.floats(0.05, 5)
ENDS = st.builds(MovingWeight, st.floats(0, 5), NUMBERS) | st.builds(
    MovingWeight, NUMBERS, st.just(0.0)
)
MIXES = st.lists(st.tuples(st.integers(1, 9), NUMBERS | ENDS), min_size=1, max_size=4)


def shares(weights, step, steps):
    """Each source's share at a step from 1 to steps, straight from the equation."""
    now = []
    for weight in weights:
        first, last = weight if isinstance(weight, MovingWeight) else (weight, weight)
        now.append(first + (last - first) * (step - 1) / max(steps - 1, 1))
    return [weight / sum(now) for weight in now]


def has_rows_at_both_ends(mix):
    weights = [weight for _, weight in mix]
    return all(
        any((weight[end] if isinstance(weight, MovingWeight) else weight) > 0 for weight in weights)
        for end in (0, 1)
    )


# ── which rows ───────────────────────────────────────────────────────────────────────────────


def test_the_rows_of_a_moving_mix_by_hand():
    # steps of two rows; weights of the text 1, ¾, ½ and of the answers 0, ¼, ½: rows due to the
    # answers after each row 0, 0 | ¼, ½ | 1, 1½. Row 4: both ½ behind (3½ - 3, ½ - 0), the first.
    # Row 5: 4 - 4 and 1 - 0: the answers. Row 6: 4½ - 4 and 1½ - 1: the first.
    weights = [MovingWeight(1.0, 0.5), MovingWeight(0.0, 0.5)]
    picks = mixture([1, 1], weights, 6, seed=0, batch_size=2)
    assert [pick.source for pick in picks] == [0, 0, 0, 0, 1, 0]


@given(MIXES.filter(has_rows_at_both_ends), st.integers(1, 120), st.integers(1, 9))
def test_shares_follow_the_integral_of_the_schedule_at_every_row(mix, total, batch_size):
    counts, weights = zip(*mix, strict=True)
    picks = mixture(counts, weights, total, 0, batch_size)
    steps = -(-total // batch_size)
    due, taken = [0.0] * len(mix), [0] * len(mix)
    for row, pick in enumerate(picks):
        for source, share in enumerate(shares(weights, row // batch_size + 1, steps)):
            due[source] += share
        taken[pick.source] += 1
        for own, expected in zip(taken, due, strict=True):
            assert own - expected < 1 + 1e-9
            assert expected - own < max(len(mix) - 1, 1e-9) + 1e-9


@given(MIXES.filter(has_rows_at_both_ends), st.integers(1, 120), st.integers(1, 9))
def test_no_row_starves_within_its_source(mix, total, batch_size):
    counts, weights = zip(*mix, strict=True)
    drawn = Counter(mixture(counts, weights, total, 0, batch_size))
    for source, count in enumerate(counts):
        times = [drawn[Pick(source, row)] for row in range(count)]
        assert max(times) - min(times) <= 1
    assert sum(drawn.values()) == total


@given(MIXES.filter(has_rows_at_both_ends), st.integers(1, 120), st.integers(1, 9))
def test_a_source_of_weight_0_at_first_is_not_drawn_at_the_first_step(mix, total, batch_size):
    counts, weights = zip(*mix, strict=True)
    first = {pick.source for pick in mixture(counts, weights, total, 0, batch_size)[:batch_size]}
    for source in first:
        weight = weights[source]
        assert not isinstance(weight, MovingWeight) or weight.first > 0


def test_a_source_that_comes_in_late_is_drawn_by_and_by():
    weights = [MovingWeight(1.0, 0.5), MovingWeight(0.0, 0.5)]
    picks = mixture([10, 10], weights, 400, seed=0, batch_size=4)
    quarters = [Counter(p.source for p in picks[at : at + 100])[1] for at in range(0, 400, 100)]
    # the integral of 0 … ½ over a quarter: ⅛·(2k - 1)/2 of its rows, k = 1 … 4
    assert quarters == pytest.approx([6.25, 18.75, 31.25, 43.75], abs=1.5)


@given(st.lists(st.tuples(st.integers(1, 9), NUMBERS), min_size=1, max_size=4), st.integers(1, 99))
def test_equal_ends_are_the_mix_without_a_schedule(mix, total):
    counts, weights = zip(*mix, strict=True)
    moving = [MovingWeight(weight, weight) for weight in weights]
    assert mixture(counts, moving, total, 3, 4) == mixture(counts, weights, total, 3)


# ── how it is written ────────────────────────────────────────────────────────────────────────


def test_a_moving_weight_is_written_as_first_and_last(tmp_path):
    write_jsonl(tmp_path / "books.jsonl", [PlainText(id="t", text="Once.")])
    found = SFTSource.read(f"1..0.25*{tmp_path / 'books.jsonl'}")
    assert (found.name, found.weight) == ("books", MovingWeight(1.0, 0.25))
    assert SFTSource.read(f"0..2*{tmp_path / 'books.jsonl'}").weight == MovingWeight(0.0, 2.0)
    for wrong in ("0..0*", "-1..1*", "1..*", "1..nan*", "..1*"):
        with pytest.raises(TrainingError, match=r"expected FIRST\.\.LAST\*FILE"):
            SFTSource.read(f"{wrong}{tmp_path / 'books.jsonl'}")


@pytest.mark.parametrize(
    "wrong", [0, -1.0, True, "1", [1], [1, 2, 3], [0, 0], [-1, 2], [1, "2"], None]
)
def test_what_is_no_weight(wrong):
    assert mix_weight(wrong) is None


def test_a_mix_without_any_row_at_one_end_is_refused(tmp_path):
    sources = [SFTSource("a", demonstrations(), (0.0, 1.0)), SFTSource("b", texts(), (0.0, 2.0))]
    with pytest.raises(TrainingError, match="all weights are 0 at the first step"):
        sft.train(SFTConfig(), "no/model", sources, tmp_path)
    sources = [SFTSource("a", demonstrations(), (1.0, 0.0))]
    with pytest.raises(TrainingError, match="all weights are 0 at the last step"):
        sft.train(SFTConfig(), "no/model", sources, tmp_path)


# ── resuming in the middle of the schedule ───────────────────────────────────────────────────


def demonstrations():
    return [
        Demonstration(id=f"d{i}", prompt=(Message(role="user", content=f"Say {i}"),), response="x!")
        for i in range(20)
    ]


def texts():
    return [PlainText(id=f"t{i}", text=f"{i} quick foxes jump over dogs") for i in range(20)]


def noting_rows(patch, drawn):
    """Note the ids of every step's rows under the step's name."""
    real = sft.train_step

    def step(backbone, learner, rows, names, budget, where):
        drawn.append((where, [row.id for row in rows]))
        return real(backbone, learner, rows, names, budget, where)

    patch.setattr(sft, "train_step", step)


def test_twenty_steps_and_nine_then_eleven_are_the_same_rows_losses_and_weights(
    tiny_model, tmp_path, monkeypatch
):
    weights = MovingWeight(1.0, 0.5), MovingWeight(0.0, 0.5)
    sources = [
        SFTSource("text", texts(), weights[0]),
        SFTSource("do", demonstrations(), weights[1]),
    ]
    config = SFTConfig(
        dtype="float32", epochs=1, batch_size=2, checkpoint_every=3, max_tokens=80,
        schedule="wsd", lora={"rank": 2},
    )  # fmt: skip
    whole, parts = [], []
    with monkeypatch.context() as patch:
        noting_rows(patch, whole)
        sft.train(config, tiny_model, sources, tmp_path / "whole")
    with monkeypatch.context() as patch:
        noting_rows(patch, parts)
        kill_after(patch, 8)
        with pytest.raises(KilledError):
            sft.train(config, tiny_model, sources, tmp_path / "parts")
    assert len(parts) == 9
    with monkeypatch.context() as patch:
        noting_rows(patch, parts)
        sft.train(config, tiny_model, sources, tmp_path / "parts")
    assert len(whole) == 20
    assert parts[:9] == whole[:9]
    assert parts[9:] == whole[6:]  # after the checkpoint of step 6
    assert {id[0] for id in whole[0][1]} == {"t"}
    assert {id[0] for _, ids in whole[10:] for id in ids} == {"t", "d"}
    assert_same_outcome(tmp_path / "whole", tmp_path / "parts")
    assert len(metrics(tmp_path / "parts")) == 20
    name = "adapter_model.safetensors"
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_another_schedule_in_the_same_folder_is_refused(tiny_model, tmp_path):
    config = SFTConfig(dtype="float32", epochs=1, batch_size=8, max_tokens=80, lora={"rank": 2})
    answers = SFTSource("do", demonstrations())
    moving = SFTSource("text", texts(), MovingWeight(1.0, 0.5))
    sft.train(config, tiny_model, [answers, moving], tmp_path)
    for weight in (1.0, MovingWeight(1.0, 0.6)):
        with pytest.raises(TrainingError, match=r"come from another run \(.*sources"):
            sft.train(config, tiny_model, [answers, SFTSource("text", texts(), weight)], tmp_path)
