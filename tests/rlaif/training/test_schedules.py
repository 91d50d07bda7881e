"""The learning rate by step: by hand, by its invariants, and beside transformers' schedules."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rlaif.training.config import TrainConfig
from rlaif.training.schedules import SCHEDULES, Schedule, rate_factor

NAMES = list(SCHEDULES)


def factors(schedule: Schedule, total: int, warmup: float, cooldown: float = 0.2) -> list[float]:
    return [rate_factor(schedule, s, total, warmup, cooldown) for s in range(1, total + 1)]


def test_the_table_has_the_names_of_the_setting():
    assert tuple(NAMES) == get_args(Schedule)


def test_linear_by_hand():
    expected = [1 / 2, 1, 8 / 9, 7 / 9, 6 / 9, 5 / 9, 4 / 9, 3 / 9, 2 / 9, 1 / 9]
    assert factors("linear", 10, 0.2) == pytest.approx(expected)
    assert factors("linear", 4, 0.0) == [1.0, 0.75, 0.5, 0.25]


def test_cosine_by_hand():
    # after the peak at step 1: cos of 45°, 90°, 135°
    half = math.sqrt(0.5)
    assert factors("cosine", 4, 0.0) == pytest.approx([1, (1 + half) / 2, 0.5, (1 - half) / 2])


def test_wsd_by_hand():
    # a cooldown of 4 steps: three below the peak, 1 - √x at x = 1/4, 2/4, 3/4
    falling = [1 - math.sqrt(x) for x in (1 / 4, 2 / 4, 3 / 4)]
    assert factors("wsd", 8, 0.25, 0.5) == pytest.approx([0.5, 1, 1, 1, 1, *falling])


def test_constant_stays_at_its_rate():
    assert factors("constant", 5, 0.4) == [0.5, 1, 1, 1, 1]


@pytest.mark.parametrize("schedule", NAMES)
@given(total=st.integers(1, 400), warmup=st.floats(0, 1), cooldown=st.floats(0.01, 1))
def test_the_peak_is_the_rate_itself_and_every_step_moves_the_weights(
    schedule, total, warmup, cooldown
):
    found = factors(schedule, total, warmup, cooldown)
    peak = max(1, math.ceil(warmup * total))
    assert max(found) == 1.0 == found[peak - 1]
    assert min(found) > 0
    assert found[:peak] == sorted(found[:peak])
    assert found[peak - 1 :] == sorted(found[peak - 1 :], reverse=True)


@pytest.mark.parametrize("warmup", [0.1, 0.25, 1.0])
@pytest.mark.parametrize("schedule", NAMES)
def test_it_is_transformers_schedule_without_its_first_step_whose_rate_is_0(schedule, warmup):
    total, cooldown = 40, 0.25
    rises = math.ceil(warmup * total)
    falls = min(math.ceil(cooldown * total), total + 1 - rises)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = {
        "linear": lambda: transformers.get_linear_schedule_with_warmup(optimizer, rises, total + 1),
        "cosine": lambda: transformers.get_cosine_schedule_with_warmup(optimizer, rises, total + 1),
        "wsd": lambda: transformers.get_wsd_schedule(
            optimizer, rises, falls, num_stable_steps=total + 1 - rises - falls, decay_type="1-sqrt"
        ),
        "constant": lambda: transformers.get_constant_schedule_with_warmup(optimizer, rises),
    }[schedule]()
    (rate,) = theirs.lr_lambdas
    assert rate(0) == 0
    expected = [rate(step) for step in range(1, total + 1)]
    assert factors(schedule, total, warmup, cooldown) == pytest.approx(expected)


def test_settings_that_a_schedule_does_not_use_are_refused():
    with pytest.raises(ValidationError, match="schedule=linear does not use cooldown; remove it"):
        TrainConfig(cooldown=0.3)
    with pytest.raises(
        ValidationError, match=r"warmup=0.5 and cooldown=0.6 are more than all steps; lower one"
    ):
        TrainConfig(schedule="wsd", warmup=0.5, cooldown=0.6)
    assert TrainConfig(schedule="wsd", warmup=0.5, cooldown=0.5).cooldown == 0.5
