"""A corpus holds what the encoder gives, and is read row by row."""

from __future__ import annotations

import json

import numpy
import pytest

from constitution.schema import Message
from rlaif.batching.corpus.manifest import CorpusError, require_fit
from rlaif.batching.corpus.mapped import CorpusPairs, PairCorpus, picked, require_apart_from
from rlaif.batching.corpus.selection import seen_traits, with_side, without_cut
from rlaif.batching.encode import encode_pairs
from rlaif.data.cut_off import count_pairs, pairs_for
from rlaif.data.records import RecordError
from rlaif.models.backbone import Backbone
from rlaif.models.folder import trained_tokenizer
from tests.support.corpora import MAX_TOKENS, corpus_of
from tests.support.training.pairs import preference, varied_pairs
from tests.support.training.tiny_model import CHAT_TEMPLATE, save_tiny_model


def some_labels():
    """Pairs with cut-off responses, drawn end tokens, ties, and traits that some lack."""
    labels = varied_pairs(9)
    changes = {
        1: {"chosen_complete": False}, 4: {"chosen_complete": False, "rejected_complete": False},
        2: {"rejected_end_token": "<|im_end|>"}, 5: {"prob_chosen": 0.5}, 6: {"prob_chosen": 0.2},
        7: {"prob_chosen": 0.5, "traits": {}}, 8: {"id": "päir-∞"},
    }  # fmt: skip
    return [label.model_copy(update=changes.get(i, {})) for i, label in enumerate(labels)]


@pytest.fixture(scope="module")
def corpus(tiny_model, tmp_path_factory) -> CorpusPairs:
    return corpus_of(tiny_model, some_labels(), tmp_path_factory.mktemp("corpus"))


def test_its_pairs_are_those_of_the_encoder(tiny_model, corpus):
    tokenizer = Backbone.load(tiny_model, "float32").tokenizer
    for found, expected in zip(
        corpus, encode_pairs(tokenizer, some_labels(), MAX_TOKENS, "error").pairs, strict=True
    ):
        traits = {name: expected.traits.get(name) for name in ("brevity", "manners")}
        assert found.traits == traits
        assert (found.id, found.chosen, found.rejected, found.prob_chosen) == (
            expected.id, expected.chosen, expected.rejected, expected.prob_chosen,
        )  # fmt: skip


def test_the_tokenizer_without_the_model_is_that_of_the_model(tiny_model, corpus):
    tokenizer = Backbone.load(tiny_model, "float32").tokenizer
    tokenizer(["a", "bb"], padding=True, truncation=True, max_length=9)  # changes its state
    require_fit(corpus.corpus.folder, corpus.corpus.manifest, tokenizer, MAX_TOKENS, "error")


def test_what_is_left_is_what_is_left_of_labels_in_memory(corpus):
    labels = some_labels()
    assert corpus.cut() == count_pairs(labels)
    uncut = without_cut(corpus, "skip")
    assert [pair.id for pair in uncut] == [pair.id for pair in pairs_for(labels, "skip")]
    assert without_cut(corpus, "keep") is corpus
    sided = with_side(uncut)
    assert [pair.id for pair in sided] == [
        pair.id for pair in pairs_for(labels, "skip") if pair.prob_chosen != 0.5
    ]
    assert [pair.id for pair in with_side(corpus, ["manners"])] == [
        p.id for p in labels if p.prob_chosen != 0.5 or p.traits.get("manners") not in (None, 0.5)
    ]
    assert seen_traits(corpus) == ({"brevity", "manners"}, {"brevity", "manners"})


def test_rows_that_are_left_are_kept_beside_it_and_found_again(corpus):
    before = with_side(corpus)
    files = sorted((corpus.corpus.folder / "rows").iterdir())
    again = with_side(CorpusPairs(PairCorpus(corpus.corpus.folder)))
    assert before.rows.tolist() == again.rows.tolist() == [0, 1, 2, 3, 4, 6, 8]
    assert sorted((corpus.corpus.folder / "rows").iterdir()) == files


def test_a_process_reads_the_tokens_of_its_own_rows_only(corpus, monkeypatch):
    read = []
    whole = PairCorpus.pair
    monkeypatch.setattr(PairCorpus, "pair", lambda c, row: read.append(row) or whole(c, row))
    batch = picked(corpus, [7, 2, 5, 0, 3])
    assert len(batch) == 5
    own = batch[1::2]
    assert read == []
    assert [pair.id for pair in own] == [some_labels()[place].id for place in (2, 0)]
    assert read == [2, 0]
    labels = batch.labels()
    assert read == [2, 0]
    assert [label.prob_chosen for label in labels] == [
        some_labels()[place].prob_chosen for place in (7, 2, 5, 0, 3)
    ]


def test_held_out_prompts_that_are_in_it_are_refused(corpus):
    new = preference(7777, "a", "b")
    require_apart_from(corpus.corpus, [(new.id, new.prompt)])
    with pytest.raises(RecordError, match=r"1 held-out prompts .* 'mine' .* asks the same as"):
        require_apart_from(corpus.corpus, [(new.id, new.prompt), ("mine", some_labels()[4].prompt)])
    label = some_labels()[0]
    louder = [Message(role="user", content=f" {label.prompt[0].content.upper()}\n")]
    with pytest.raises(RecordError, match="'loud'"):
        require_apart_from(corpus.corpus, [("loud", louder)])


# ── what does not fit ──────────────────────────────────────────────────────────────────────────


def refused(corpus, model, tokens=MAX_TOKENS, **kwargs) -> str:
    tokenizer = trained_tokenizer(model, kwargs)
    with pytest.raises(CorpusError) as error:
        require_fit(corpus.corpus.folder, corpus.corpus.manifest, tokenizer, tokens, "error")
    return str(error.value)


def test_a_corpus_of_another_tokenizer_is_refused(corpus, tmp_path):
    other = save_tiny_model(tmp_path, special=("<pad>", "<|im_start|>", "<|im_end|>", "<more>"))
    said = refused(corpus, other)
    assert "made with another tokenizer than this model's" in said
    assert "prepare another corpus with rlaif train prepare" in said


def test_a_corpus_of_another_chat_template_is_refused(corpus, tmp_path):
    other = save_tiny_model(tmp_path, template=CHAT_TEMPLATE.replace("assistant", "bot"))
    assert "made with another chat template" in refused(corpus, other)


def test_a_corpus_of_other_template_variables_is_refused(corpus, tmp_path):
    template = "{% if shout %}!{% endif %}" + CHAT_TEMPLATE
    other = save_tiny_model(tmp_path, template=template)
    assert 'chat_template_kwargs={}, now {"shout": true}' in refused(corpus, other, shout=True)


def test_a_corpus_of_another_max_tokens_is_refused(corpus, tiny_model):
    said = refused(corpus, tiny_model, 100)
    assert "max_tokens=200, now 100: set max_tokens=200, or prepare another corpus" in said


def test_the_weights_of_a_model_do_not_matter(corpus, tmp_path):
    tokenizer = trained_tokenizer(save_tiny_model(tmp_path, seed=5))
    require_fit(corpus.corpus.folder, corpus.corpus.manifest, tokenizer, MAX_TOKENS, "error")


def test_a_damaged_corpus_is_refused(tiny_model, tmp_path):
    folder = corpus_of(tiny_model, varied_pairs(3), tmp_path).corpus.folder
    numpy.save(folder / "ids.npy", numpy.zeros(5, "<u4"))
    with pytest.raises(CorpusError, match=r"damaged: it has 5 tokens"):
        PairCorpus(folder)
    (folder / "ids.npy").write_bytes(b"")
    with pytest.raises(CorpusError, match=r"ids.npy: cannot be read"):
        PairCorpus(folder)
    found = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**found, "rows": "many"}))
    with pytest.raises(CorpusError, match=r"manifest.json: cannot be read"):
        PairCorpus(folder)
