"""`rlaif compare`: the plan before anything runs, and what is refused."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from constitution.errors import UserError
from rlaif.cli.main import app


def compare(command: str, **how: bool) -> tuple[int, str]:
    """(exit code, output) of `rlaif compare COMMAND`."""
    done = CliRunner().invoke(app, ["compare", *command.split()], env={"COLUMNS": "200"}, **how)
    return done.exit_code, done.output


def test_a_dry_run_names_trainings_reads_and_budgets(tmp_path):
    code, said = compare(
        f"quickstart --arms dpo,best_of_n --seeds 2 --budget seconds=60 --dry-run -o {tmp_path}"
    )
    assert code == 0, said
    assert "2 arms (dpo, best_of_n), 2 trainings, from policy, seeds 0 to 1" in said
    assert "each training: budget_seconds=60; labels and reward model are outside of it" in said
    assert "labels: at most 160 reads" in said
    assert list(tmp_path.iterdir()) == []


def test_the_graph_has_a_training_for_every_arm_and_seed(tmp_path):
    code, said = compare(f"quickstart --arms dpo,sft --seeds 2 --graph -o {tmp_path}")
    assert code == 0, said
    assert all(name in said for name in ("dpo-0", "dpo-1", "sft-0", "sft-1", "comparison"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--arms dpo,reinforce", "--arms: unknown arm 'reinforce'; expected one of: sft, dpo"),
        ("--budget hours=1", "--budget hours=1: unknown budget 'hours'"),
        ("--budget reads=1", "--budget reads=1: a pair takes 2 reads"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(options, message):
    with pytest.raises(UserError) as error:
        compare(f"quickstart {options}", catch_exceptions=False)
    assert message in str(error.value)
