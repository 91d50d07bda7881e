"""A trained reward model at work: its weights changed afterwards, its scores checked."""

from __future__ import annotations

import json
import math

import pytest

from rlaif.algorithms.reward.config import RewardConfig
from rlaif.algorithms.reward.train import train
from rlaif.models.reward.weights import RewardModelError, reweigh
from rlaif.models.reward_model import (
    RewardModel,
    checked_scores,
    require_a_score,
    reward_function,
    reward_identity,
)
from rlaif.rewards.sources import require_source
from tests.support.training.pairs import varied_pairs


@pytest.fixture
def folder(tiny_model, tmp_path):
    """A reward model with heads for the label, brevity and manners."""
    config = RewardConfig(dtype="float32", epochs=1, max_tokens=200)
    return train(config, tiny_model, varied_pairs(), tmp_path, {"manners": 1.0, "brevity": 2.0})


def training_scores(tiny_model, folder):
    """(raw scores (N, K), scores) of the responses that the folder was trained on."""
    model = RewardModel.load(tiny_model, folder)
    pairs = varied_pairs()
    conversations = [p.prompt for p in pairs] * 2
    responses = [p.chosen_text for p in pairs] + [p.rejected_text for p in pairs]
    raw = model._raw_responses(conversations, responses)
    return raw, model.score(conversations, responses)


def test_a_changed_weight_changes_the_overall_score_and_no_trait(tiny_model, folder):
    _, before = training_scores(tiny_model, folder)
    weighing = reweigh(folder, {"manners": 5})
    assert weighing.now == {"brevity": 2.0, "manners": 5.0}
    assert weighing.label == {"brevity": 2.0, "manners": 1.0}
    raw, after = training_scores(tiny_model, folder)
    assert [s.traits for s in after] == [s.traits for s in before]
    assert [s.overall for s in after] != [s.overall for s in before]
    # By hand: the sum of log-odds 2 r_brevity + 5 r_manners, from its mean in its own std.
    total = 2 * raw[:, 1] + 5 * raw[:, 2]
    by_hand = (total - total.mean()) / total.std(correction=0)
    assert [s.overall for s in after] == pytest.approx(by_hand.tolist(), abs=1e-4)


def test_the_label_s_own_head_scores_at_the_label_s_weights_or_a_multiple(tiny_model, folder):
    raw, before = training_scores(tiny_model, folder)
    label = (raw[:, 0] - raw[:, 0].mean()) / raw[:, 0].std(correction=0)
    assert [s.overall for s in before] == pytest.approx(label.tolist(), abs=1e-4)
    assert not reweigh(folder, {"manners": 5}).by_label
    assert reweigh(folder, {"manners": 3, "brevity": 6}).by_label
    assert training_scores(tiny_model, folder)[1] == before


def test_a_folder_of_an_earlier_version_is_refused_with_the_remedy(tiny_model, folder):
    facts = json.loads((folder / "reward.json").read_text())
    del facts["label_weights"]
    (folder / "reward.json").write_text(json.dumps(facts))
    old = r"trained by an earlier version.*train it again with `rlaif train reward`"
    with pytest.raises(RewardModelError, match=old):
        RewardModel.load(tiny_model, folder)
    with pytest.raises(RewardModelError, match=old):
        reweigh(folder, {"manners": 1.0})
    with pytest.raises(RewardModelError, match=old):
        require_source(str(folder))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"manners": 1.0}, "'brevity' has no weight or no head"),
        ({"manners": 0.0, "brevity": 0.0}, "all are 0"),
        ({"manners": "much", "brevity": 1.0}, "invalid trait weights"),
    ],
)
def test_weights_written_by_hand_are_checked(weights, message, tiny_model, folder):
    facts = json.loads((folder / "reward.json").read_text()) | {"trait_weights": weights}
    (folder / "reward.json").write_text(json.dumps(facts))
    with pytest.raises(RewardModelError, match=message):
        RewardModel.load(tiny_model, folder)


def test_weights_keep_the_order_of_the_heads_and_the_rest_of_the_file(folder):
    before = json.loads((folder / "reward.json").read_text())
    reweigh(folder, {"manners": 0.0, "brevity": 3.0})
    after = json.loads((folder / "reward.json").read_text())
    assert list(after["trait_weights"].items()) == [("brevity", 3.0), ("manners", 0.0)]
    assert {k: v for k, v in after.items() if k != "trait_weights"} == {
        k: v for k, v in before.items() if k != "trait_weights"
    }


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"honesty": 1.0}, r"no head for the trait 'honesty' \(it has: brevity, manners\)"),
        ({"manners": -1.0}, r"manners=-1.0: a weight is a finite number"),
        ({"manners": math.nan}, r"manners=nan: a weight is a finite number"),
        ({"manners": 0.0, "brevity": 0.0}, r"all weights are 0, so every score would be 0"),
    ],
)
def test_weights_that_cannot_be_are_refused_and_nothing_is_changed(weights, message, folder):
    before = (folder / "reward.json").read_bytes()
    with pytest.raises(RewardModelError, match=message):
        reweigh(folder, weights)
    assert (folder / "reward.json").read_bytes() == before


def test_only_a_reward_model_can_be_weighed(tmp_path):
    with pytest.raises(RewardModelError, match="not a reward model"):
        reweigh(tmp_path, {"manners": 1.0})


def test_a_reweighed_model_is_another_reward(folder):
    before = reward_identity(folder)
    assert reward_identity(folder) == before
    reweigh(folder, {"manners": 5})
    assert reward_identity(folder) != before
    with pytest.raises(RewardModelError, match="not a reward model"):
        reward_identity(folder / "nothing")


def test_scores_do_not_depend_on_how_rows_are_grouped(tiny_model, folder):
    from rlaif.batching.encode import encode_row

    model = RewardModel.load(tiny_model, folder)
    rows = [
        encode_row(model.backbone.tokenizer, p.id, p.prompt, p.chosen_text, 200)
        for p in varied_pairs()
    ]
    alone, together = model.raw_rows(rows, budget=1), model.raw_rows(rows, budget=100_000)
    assert (alone - together).abs().max() < 1e-5


def test_a_callable_is_a_reward_as_it_is(tiny_model):
    def score(conversations, responses):
        return [1.0 for _ in responses]

    assert reward_function(score, None) is score


def test_a_reward_that_raises_or_gives_no_number_is_reported_with_the_step(questions):
    def broken(conversations, responses):
        raise KeyError("color")

    responses = ["a"] * len(questions)
    with pytest.raises(RewardModelError, match=r"step 3: the reward function raised KeyError"):
        checked_scores(broken, questions, responses, "step 3")
    for scores, message in (
        ([1.0], "gave 1 scores for 6 responses"),
        ([1.0] * 5 + [math.inf], "prompt q6 is inf"),
    ):
        with pytest.raises(RewardModelError, match=f"step 3: .*{message}"):
            checked_scores(lambda c, r, s=scores: s, questions, responses, "step 3")
    assert checked_scores(lambda c, r: [None] * 5 + [1], questions, responses, "")[5] == 1


def test_a_batch_without_any_score_is_reported_with_the_step():
    require_a_score([None, 0.0], "step 3")
    with pytest.raises(RewardModelError, match="step 3: none of its 2 responses has a score"):
        require_a_score([None, None], "step 3")
