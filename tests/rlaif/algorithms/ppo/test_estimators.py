"""The table of estimators: what each gives the updates, and one added from outside."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from rlaif.algorithms.ppo.config import PPOConfig
from rlaif.algorithms.ppo.estimator_base import ScoredResponses
from rlaif.algorithms.ppo.estimators import ESTIMATORS
from rlaif.cli.main import app
from rlaif.data.records import write_jsonl

MASK = torch.tensor([[True, True], [True, False]])


def scored() -> ScoredResponses:
    return ScoredResponses(
        scores=torch.tensor([2.0, 1.0]),
        groups=torch.tensor([0, 0]),
        kl_k1=torch.tensor([[0.5, 0.0], [-1.0, 0.0]]),
        values=torch.tensor([[1.0, 0.5], [0.25, 0.0]]),
        mask=MASK,
    )


def config(name: str) -> PPOConfig:
    return PPOConfig(advantages=name, group_size=2)


def test_gae_returns_targets_and_whitened_advantages_of_rewards_that_hold_the_kl() -> None:
    # r = (-0.05, 2), (1.1); λ = 0.95: A₂ = 1.5, A₁ = -0.05 + 0.5 - 1 + 0.95·1.5; A = 0.85
    found = ESTIMATORS["gae"].compute(scored(), 0.1, config("gae"))
    torch.testing.assert_close(found.rewards, torch.tensor([1.95, 1.1]))
    torch.testing.assert_close(found.returns, torch.tensor([[1.875, 2.0], [1.1, 0.0]]))
    assert float(found.advantages[MASK].mean()) == pytest.approx(0, abs=1e-6)
    assert float(found.advantages[MASK].std()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_an_estimator_gives_returns_exactly_if_it_needs_a_value_function(name: str) -> None:
    found = ESTIMATORS[name].compute(scored(), 0.1, config(name))
    assert (found.returns is not None) == ESTIMATORS[name].needs_value
    assert not found.advantages[~MASK].any()


# ── an estimator of one's own ────────────────────────────────────────────────────────────────────

SIGNED = """
from rlaif.algorithms.ppo.estimator_base import AdvantageEstimate, Estimator


def signed(responses, kl_coef, config):
    centered = responses.scores - responses.scores.mean()
    advantages = centered.sign()[:, None] * responses.mask
    return AdvantageEstimate(advantages, 100 + centered, None)


ESTIMATOR = Estimator(signed, min_group_size=2)
"""


@pytest.fixture
def signed(tmp_path, monkeypatch):
    """One new file and one line in the table."""
    (tmp_path / "my_estimators.py").write_text(SIGNED)
    monkeypatch.syspath_prepend(tmp_path)
    from my_estimators import ESTIMATOR

    monkeypatch.setitem(ESTIMATORS, "signed", ESTIMATOR)
    yield
    sys.modules.pop("my_estimators")


def test_a_file_with_an_estimator_can_be_imported_by_the_table():
    script = "import sys, rlaif.algorithms.ppo.estimator_base; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "rlaif.algorithms.ppo.estimators" not in run.stdout.split()


def test_an_estimator_added_in_one_file_trains_by_the_command(
    signed, tiny_model, questions, tmp_path, monkeypatch
):
    (tmp_path / "my_scores.py").write_text(
        "def letters(conversations, responses):\n    return [len(set(r)) for r in responses]\n"
    )
    monkeypatch.delitem(sys.modules, "my_scores", raising=False)
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "prompts.jsonl", questions)
    found = CliRunner().invoke(
        app,
        ["train", "ppo", "prompts.jsonl", "--model", tiny_model, "--reward", "my_scores:letters",
         "--out", "ppo", "dtype=float32", "max_tokens=60", "max_new_tokens=4",
         "prompts_per_iteration=2", "iterations=1", "engine=transformers", "advantages=signed",
         "group_size=2"],
    )  # fmt: skip
    assert found.exit_code == 0, (found.output, found.exception)
    line = json.loads((tmp_path / "ppo" / "metrics.jsonl").read_text())
    assert line["reward"] == pytest.approx(100)
    assert "value_loss" not in line  # no value function is trained
    assert line["grad_norm"] > 0


def test_an_estimator_added_in_one_file_has_its_needs_checked(signed):
    with pytest.raises(ValueError, match="group_size is 1; set group_size to 2 or more"):
        PPOConfig(advantages="signed")
    with pytest.raises(ValueError, match="advantages=signed does not use gae_lambda, vf_coef"):
        PPOConfig(advantages="signed", group_size=2, vf_coef=0.2, gae_lambda=0.9)
