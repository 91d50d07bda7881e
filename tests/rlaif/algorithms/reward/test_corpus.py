"""A reward model on a corpus is the one on the labels, in the corpus's own order."""

from __future__ import annotations

import pytest
import torch

from rlaif.algorithms.reward import train as reward
from rlaif.algorithms.reward.config import RewardConfig
from rlaif.batching.corpus.order import ShuffledBatches
from rlaif.models.reward.heads import RewardHeads
from rlaif.training import heldout
from rlaif.training.config import TrainingError
from tests.support.corpora import MAX_TOKENS, corpus_of
from tests.support.training.killed import KilledError, kill_after, metrics, weights
from tests.support.training.pairs import many_pairs, preference, varied_pairs

WEIGHTS = {"manners": 2.0, "brevity": 1.0, "kind": 1.0}


def small(**settings) -> RewardConfig:
    base = {"dtype": "float32", "batch_size": 4, "checkpoint_every": 1, "max_tokens": MAX_TOKENS}
    return RewardConfig(**(base | settings))


def some_labels():
    """With labels of ½, and one without any side."""
    labels = varied_pairs(9)
    labels[1] = labels[1].model_copy(update={"prob_chosen": 0.5})
    labels[4] = labels[4].model_copy(update={"prob_chosen": 0.5, "traits": {"manners": 0.5}})
    return labels


def assert_same_but_for_rounding_in_scales(one, other) -> None:
    """A corpus's scores are normalized piece by piece, in another order of sums."""
    assert metrics(one) == metrics(other)
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    for name in left:
        if name.endswith(("mean", "covariance")):
            torch.testing.assert_close(left[name], right[name])
        else:
            assert torch.equal(left[name], right[name]), name


@pytest.mark.parametrize("settings", [{}, {"label_kind": "hard"}], ids=str)
def test_it_is_the_training_on_the_labels(settings, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(heldout, "epoch_batches", lambda *a: list(ShuffledBatches(*a)))
    monkeypatch.setattr(reward, "SCORED_AT_ONCE", 4)
    config, labels, held = small(**settings), some_labels(), many_pairs(3, 100)
    reward.train(config, tiny_model, labels, tmp_path / "memory", WEIGHTS, held)
    pairs = corpus_of(tiny_model, labels, tmp_path)
    reward.train(config, tiny_model, pairs, tmp_path / "from-corpus", WEIGHTS, held)
    assert metrics(tmp_path / "memory")[0]["skipped"] == (1 if settings else 0)
    assert_same_but_for_rounding_in_scales(tmp_path / "memory", tmp_path / "from-corpus")


def test_killed_in_mid_epoch_it_ends_as_if_it_had_not_been(tiny_model, tmp_path, monkeypatch):
    pairs = corpus_of(tiny_model, some_labels(), tmp_path)
    config = small(epochs=3, checkpoint_every=2, batch_size=2)
    reward.train(config, tiny_model, pairs, tmp_path / "whole", WEIGHTS)
    with monkeypatch.context() as patch:
        kill_after(patch, 6)
        with pytest.raises(KilledError):
            reward.train(config, tiny_model, pairs, tmp_path / "parts", WEIGHTS)
    reward.train(config, tiny_model, pairs, tmp_path / "parts", WEIGHTS)
    assert_same_but_for_rounding_in_scales(tmp_path / "whole", tmp_path / "parts")


def test_normalizing_in_pieces_is_normalizing_at_once():
    raw = torch.randn(50, 3, generator=torch.manual_seed(0)) * 3 + 100
    whole, parts = RewardHeads(["a", "b"], 4), RewardHeads(["a", "b"], 4)
    whole.normalize_on(raw)
    parts.normalize_on_pieces(raw.split([1, 20, 29]))
    torch.testing.assert_close(whole.mean, parts.mean)
    torch.testing.assert_close(whole.covariance, parts.covariance)


def test_traits_without_a_weight_and_labels_without_a_side_are_refused(tiny_model, tmp_path):
    pairs = corpus_of(tiny_model, some_labels(), tmp_path / "a")
    with pytest.raises(TrainingError, match="unknown trait in the labels: 'brevity'"):
        reward.train(small(), tiny_model, pairs, tmp_path / "out", {"manners": 1.0})
    ties = corpus_of(tiny_model, [preference(1, "a", "b", 0.5)], tmp_path / "b")
    with pytest.raises(TrainingError, match="none of the 1 pairs has a label to learn from"):
        reward.train(small(label_kind="hard"), tiny_model, ties, tmp_path / "out", {})
