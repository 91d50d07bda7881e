"""`rlaif reward`: changing weights and comparing models, without training."""

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from constitution.errors import UserError
from rlaif.cli.main import app
from rlaif.evaluation.reward_models import evaluate_reward
from tests.rlaif.evaluation.test_reward_models import PAIRS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    weights = {"kind": 1.0, "true": 2.0}
    facts = {"label_weights": weights, "trait_weights": weights}
    (tmp_path / "reward.json").write_text(json.dumps(facts))
    return tmp_path


def rlaif(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_new_weights_are_written_and_all_are_printed_with_what_scores(folder: Path) -> None:
    assert rlaif("reward", "weigh", str(folder), "kind=0.5").splitlines() == [
        "kind: 0.5 (20%), 1 in the label",
        "true: 2 (80%)",
        "scored by the sum of the traits at these weights, approximately the label that the judge "
        "would give",
    ]
    facts = json.loads((folder / "reward.json").read_text())
    assert facts["trait_weights"] == {"kind": 0.5, "true": 2.0}
    assert facts["label_weights"] == {"kind": 1.0, "true": 2.0}


def test_without_weights_those_that_score_are_shown_and_nothing_is_written(folder: Path) -> None:
    before = (folder / "reward.json").read_bytes()
    assert rlaif("reward", "weigh", str(folder)).splitlines() == [
        "kind: 1 (33%)",
        "true: 2 (67%)",
        "scored by the head on the label",
    ]
    assert (folder / "reward.json").read_bytes() == before


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("kind", "TRAIT=NUMBER"),
        ("kind=much", "TRAIT=NUMBER"),
        ("brave=1", "no head for .* 'brave'"),
    ],
)
def test_an_invalid_weight_is_an_error_and_nothing_is_written(
    folder: Path, word: str, message: str
) -> None:
    before = (folder / "reward.json").read_bytes()
    with pytest.raises(UserError, match=message):
        rlaif("reward", "weigh", str(folder), word)
    assert (folder / "reward.json").read_bytes() == before


def test_two_models_are_compared_by_their_held_out_nll(tmp_path: Path) -> None:
    for name, gap in (("knows", 1.0), ("guesses", 0.0)):
        (tmp_path / name).mkdir()
        evaluate_reward(PAIRS, [gap] * 3, [0.0] * 3).save(tmp_path / name / "evaluation.json")
    folders = [str(tmp_path / "knows"), str(tmp_path / "guesses")]
    found = json.loads(rlaif("reward", "compare", *folders, "--json"))
    assert found["other_nll"] == pytest.approx(math.log(2))
    assert f"{found['difference']['value']:+.4f}" in rlaif("reward", "compare", *folders)
    with pytest.raises(UserError, match="with --eval"):
        rlaif("reward", "compare", folders[0], str(tmp_path))
