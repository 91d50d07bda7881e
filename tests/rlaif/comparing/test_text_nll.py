"""The NLL of plain text: against the model's own loss, and what training on the text does to it."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlaif.algorithms.sft import train as sft
from rlaif.comparing.text_nll import by_paragraph, nats_per_token, paragraphs, text_nll
from rlaif.data.records import PlainText


def test_nll_is_the_loss_that_the_model_itself_computes(tiny_model):
    texts = paragraphs()[:3]
    found = text_nll(tiny_model, texts=texts)
    model, tokenizer = (
        kind.from_pretrained(tiny_model) for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    for text, each in zip(texts, found, strict=True):
        ids = torch.tensor([[*begin, *tokenizer.encode(text, add_special_tokens=False)]])
        ids = ids[:, : model.config.max_position_embeddings]
        with torch.no_grad():
            loss = model(input_ids=ids, labels=ids).loss.item()
        assert each.tokens == ids.shape[1] - 1
        assert each.nats / each.tokens == pytest.approx(loss, rel=1e-4)
    total = sum(each.nats for each in found) / sum(each.tokens for each in found)
    assert nats_per_token(found) == pytest.approx(total)


def test_a_policy_that_was_trained_on_the_text_predicts_it_better(tiny_model, tmp_path):
    records = [PlainText(id=str(i), text=text) for i, text in enumerate(paragraphs())]
    config = sft.SFTConfig(dtype="float32", max_tokens=256, epochs=2, learning_rate=5e-3)
    sft.train(config, tiny_model, [sft.SFTSource("text", records)], tmp_path)
    before, after = text_nll(tiny_model), text_nll(tiny_model, tmp_path)
    assert len(before) == len(paragraphs()) > 10
    assert all(b < a for a, b in zip(by_paragraph(before), by_paragraph(after), strict=True))
