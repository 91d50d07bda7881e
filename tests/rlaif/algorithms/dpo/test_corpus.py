"""DPO on a corpus: the training that labels in memory give, in the corpus's own order."""

from __future__ import annotations

import json

import numpy
import pytest
import torch

from rlaif.algorithms.dpo import reference_file
from rlaif.algorithms.dpo import train as dpo
from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.dpo.reference_cache import ReferenceCache
from rlaif.algorithms.dpo.reference_file import ReferenceFile, fill_reference
from rlaif.batching.corpus.mapped import CorpusPairs, PairCorpus, picked
from rlaif.batching.corpus.order import ShuffledBatches
from rlaif.batching.encode import encode_pairs
from rlaif.models.backbone import Backbone
from rlaif.models.lora_config import LoraConfig
from rlaif.training import heldout
from rlaif.training.config import TrainingError
from tests.support.corpora import MAX_TOKENS, corpus_of
from tests.support.training.gradients import ALONE, GradientKeeper, summed_over_processes
from tests.support.training.killed import (
    KilledError,
    assert_same_outcome,
    kill_after,
    metrics,
    weights,
)
from tests.support.training.pairs import many_pairs, varied_pairs


def small(**settings) -> DPOConfig:
    base = {"dtype": "float32", "batch_size": 4, "checkpoint_every": 1, "max_tokens": MAX_TOKENS}
    return DPOConfig(**(base | {"text_eval": None} | settings))


def mixed_labels(count: int = 11):
    """With ties, and pairs whose rejected response is the better one."""
    probs = {2: 0.5, 3: 0.2, 7: 0.1}
    return [
        pair.model_copy(update={"prob_chosen": probs.get(i, pair.prob_chosen)})
        for i, pair in enumerate(many_pairs(count))
    ]


def assert_same_but_for_rounding(one, other) -> None:
    """The reference is computed in batches of other shapes, which changes its last bits."""
    for left, right in zip(metrics(one), metrics(other), strict=True):
        assert left == pytest.approx(right, rel=1e-3, abs=1e-4)
    found, expected = weights(one), weights(other)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4)


def corpus_order(monkeypatch) -> None:
    """Let labels in memory be trained on in the order of a corpus."""
    monkeypatch.setattr(heldout, "epoch_batches", lambda *a: list(ShuffledBatches(*a)))


@pytest.mark.parametrize(
    "settings", [{}, {"loss": "sigmoid"}, {"lora": None}, {"cut_off": "skip"}], ids=str
)
def test_it_is_the_training_on_the_labels(settings, tiny_model, tmp_path, monkeypatch):
    labels = mixed_labels(9)
    labels[4] = labels[4].model_copy(update={"rejected_complete": False})
    corpus_order(monkeypatch)
    config, held = small(**settings), many_pairs(3, 100)
    dpo.train(config, tiny_model, labels, tmp_path / "memory", held)
    pairs = corpus_of(tiny_model, labels, tmp_path)
    dpo.train(config, tiny_model, pairs, tmp_path / "corpus-run", held)
    assert len(metrics(tmp_path / "memory")) > 1
    assert_same_but_for_rounding(tmp_path / "memory", tmp_path / "corpus-run")


def test_its_gradients_are_those_of_labels_in_memory_over_any_processes(tiny_model, tmp_path):
    config = small(micro_batch_tokens=300)
    backbone = Backbone.load(tiny_model, "float32")
    backbone.add_role("policy", LoraConfig(rank=2), 0)
    pairs = corpus_of(tiny_model, mixed_labels(9), tmp_path)
    file = ReferenceFile.open(pairs, tmp_path, ("model", "float32"), ALONE)
    fill_reference(backbone, file, 300, ALONE)
    memory = encode_pairs(backbone.tokenizer, mixed_labels(9), MAX_TOKENS, "error").pairs
    cache = ReferenceCache(tmp_path, backbone.fingerprint, "float32")
    reference = dpo.reference_logprobs(backbone, memory, config, cache, ALONE)
    with torch.no_grad():
        for parameter in backbone.role_parameters("policy").values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.manual_seed(3))
    batch = [8, 1, 4, 0, 6]

    def gradients(of, ref, workers):
        learner = GradientKeeper([(backbone.role_parameters("policy"), 1e-3)], 1, config, workers)
        dpo.train_step(backbone, learner, of, ref, config, "here")
        return learner.gradients

    expected = gradients([memory[i] for i in batch], reference[batch], ALONE)
    assert max(gradient.abs().max() for gradient in expected.values()) > 1e-3
    found = gradients(picked(pairs, batch), file[batch], ALONE)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    parts = summed_over_processes(lambda w: gradients(picked(pairs, batch), file[batch], w), 3)
    for name, gradient in expected.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-6)


def test_each_process_reads_its_rows_of_a_step_only(tiny_model, tmp_path, monkeypatch):
    config = small()
    backbone = Backbone.load(tiny_model, "float32")
    backbone.add_role("policy", LoraConfig(rank=2), 0)
    pairs = corpus_of(tiny_model, mixed_labels(9), tmp_path)
    file = ReferenceFile.open(pairs, tmp_path, ("model", "float32"), ALONE)
    fill_reference(backbone, file, 300, ALONE)
    batch, read = [8, 1, 4, 0, 6], []
    whole = PairCorpus.pair
    monkeypatch.setattr(PairCorpus, "pair", lambda c, row: read.append(row) or whole(c, row))
    shares = []

    def gradients(workers):
        learner = GradientKeeper([(backbone.role_parameters("policy"), 1e-3)], 1, config, workers)
        dpo.train_step(backbone, learner, picked(pairs, batch), file[batch], config, "here")
        shares.append(set(read))
        read.clear()
        return learner.gradients

    summed_over_processes(gradients, 2)
    assert shares == [{8, 4, 6}, {1, 0}]


@pytest.mark.parametrize("lora", [LoraConfig(rank=2), None])
def test_killed_in_mid_epoch_it_ends_as_if_it_had_not_been(lora, tiny_model, tmp_path, monkeypatch):
    labels = mixed_labels()
    config = small(lora=lora, epochs=3, checkpoint_every=2, batch_size=3, eval_every=4)
    pairs = corpus_of(tiny_model, labels[:9], tmp_path)
    dpo.train(config, tiny_model, pairs, tmp_path / "whole", labels[9:])
    with monkeypatch.context() as patch:
        kill_after(patch, 4)  # step 5 is in the middle of the second epoch, and done again
        with pytest.raises(KilledError):
            dpo.train(config, tiny_model, pairs, tmp_path / "parts", labels[9:])
    again = CorpusPairs(PairCorpus(pairs.corpus.folder))
    dpo.train(config, tiny_model, again, tmp_path / "parts", labels[9:])
    assert_same_outcome(tmp_path / "whole", tmp_path / "parts")


# ── the reference ──────────────────────────────────────────────────────────────────────────────


def test_its_reference_is_in_no_checkpoint_and_computed_once(tiny_model, tmp_path, monkeypatch):
    pairs = corpus_of(tiny_model, mixed_labels(9), tmp_path)
    computed = []
    whole = Backbone.response_sums
    monkeypatch.setattr(
        Backbone,
        "response_sums",
        lambda self, role, batch, temperature=1.0: (
            computed.append(role) or whole(self, role, batch, temperature)
        ),
    )
    dpo.train(small(), tiny_model, pairs, tmp_path / "a")
    assert None in computed
    saved = torch.load(next((tmp_path / "a/checkpoints").glob("step-*.pt")), weights_only=True)
    assert saved["reference"].shape == (0, 2)
    assert not list((tmp_path / "a").glob("reference-*"))
    computed.clear()
    dpo.train(small(beta=0.3, loss="sigmoid"), tiny_model, pairs, tmp_path / "b")
    assert None not in computed


def test_killed_while_the_reference_is_filled_it_computes_the_rest(
    tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setattr(reference_file, "CHUNK", 2)
    pairs = corpus_of(tiny_model, mixed_labels(9), tmp_path)
    dpo.train(small(), tiny_model, pairs, tmp_path / "whole")
    (expected,) = [numpy.load(f) for f in (pairs.corpus.folder / "reference").iterdir()]
    other = corpus_of(tiny_model, mixed_labels(9), tmp_path / "again")
    write, written = ReferenceFile.write, []

    def killed(self, rows, values):
        if len(written) == 2:
            raise KilledError
        written.append(rows)
        write(self, rows, values)

    with monkeypatch.context() as patch:
        patch.setattr(ReferenceFile, "write", killed)
        with pytest.raises(KilledError):
            dpo.train(small(), tiny_model, other, tmp_path / "parts")
    written.clear()
    monkeypatch.setattr(
        ReferenceFile, "write", lambda s, rows, v: written.append(rows) or write(s, rows, v)
    )
    dpo.train(small(), tiny_model, other, tmp_path / "parts")
    assert written == [[4, 5], [6, 7], [8]]
    (found,) = [numpy.load(f) for f in (other.corpus.folder / "reference").iterdir()]
    assert numpy.array_equal(found, expected)
    assert_same_outcome(tmp_path / "whole", tmp_path / "parts")


def test_a_reference_of_a_corpus_that_is_not_finite_is_refused_and_not_kept(tiny_model, tmp_path):
    backbone = Backbone.load(tiny_model, "float32")
    with torch.no_grad():
        backbone.model.get_input_embeddings().weight[10:] = float("nan")
    pairs = corpus_of(tiny_model, varied_pairs(3), tmp_path)
    file = ReferenceFile.open(pairs, tmp_path, ("model", "float32"), ALONE)
    with pytest.raises(TrainingError, match=r"reference log-probs of pairs pair-.* not all finite"):
        fill_reference(backbone, file, 300, ALONE)
    assert numpy.isnan(file.values).all()


def test_another_model_has_a_reference_of_its_own(tiny_model, tmp_path):
    pairs = corpus_of(tiny_model, varied_pairs(3), tmp_path)
    names = [
        ReferenceFile.open(pairs, tmp_path, (model, dtype), ALONE).path
        for model, dtype in (("a", "float32"), ("b", "float32"), ("a", "bfloat16"))
    ]
    assert len(set(names)) == 3


def test_all_ties_are_refused(tiny_model, tmp_path):
    labels = [pair.model_copy(update={"prob_chosen": 0.5}) for pair in varied_pairs(3)]
    pairs = corpus_of(tiny_model, labels, tmp_path)
    with pytest.raises(TrainingError, match="all 3 pairs are ties"):
        dpo.train(small(loss="sigmoid"), tiny_model, pairs, tmp_path / "out")
    assert json.loads((pairs.corpus.folder / "manifest.json").read_text())["rows"] == 3


def test_what_is_trained_is_not_the_start(tiny_model, tmp_path):
    pairs = corpus_of(tiny_model, varied_pairs(8), tmp_path)
    out = dpo.train(small(learning_rate=1e-2, epochs=10), tiny_model, pairs, tmp_path / "out")
    assert metrics(out)[-1]["margin"] > 0.5
    assert any(tensor.abs().max() > 0 for name, tensor in weights(out).items() if "lora_B" in name)
