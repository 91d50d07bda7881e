"""A merged policy opens unchanged in transformers and in vLLM, and both generate the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from constitution.schema import Message
from rlaif.data.records import Prompt
from rlaif.generation import offline
from rlaif.generation.config import SamplingConfig
from rlaif.models.backbone import Backbone, LoraConfig
from rlaif.models.merge import merge_adapter
from tests.integration.rlaif.test_trl_reads_labels import byte_tokenizer

pytestmark = pytest.mark.integration


@pytest.fixture
def base(tmp_path: Path) -> str:
    """A random model whose heads are as wide as vLLM's attention wants them."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def test_transformers_and_vllm_generate_what_the_adapter_generates(base, tmp_path):
    pytest.importorskip("vllm")
    backbone = Backbone.load(base, "float32")
    backbone.add_role("policy", LoraConfig(rank=4), 0)
    with torch.no_grad():
        for parameter in backbone.role_parameters("policy").values():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    backbone.save_role("policy", tmp_path / "adapter")
    merged = merge_adapter(base, tmp_path / "adapter", tmp_path / "merged")

    prompts = [
        Prompt(id=f"p{i}", messages=(Message(role="user", content="Say " + "x" * i),))
        for i in range(3)
    ]
    outputs = {}
    for engine in ("vllm", "transformers"):
        config = SamplingConfig(
            n=1, temperature=0, max_new_tokens=12, engine=engine, dtype="float32", kv_cache_gib=0.1
        )
        samples = offline.sample(str(merged), prompts, tmp_path / f"{engine}.jsonl", config)
        # half a character at the end is written as � by one of them and left out by the other
        outputs[engine] = [(sample.response.rstrip("\ufffd"), sample.tokens) for sample in samples]
    assert outputs["vllm"] == outputs["transformers"]

    adapted = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    ids = torch.arange(40).reshape(2, 20) + 10
    with torch.no_grad():
        hidden = backbone.hidden_states("policy", ids)
        expected = hidden @ backbone.head_weight.T
        torch.testing.assert_close(adapted(input_ids=ids).logits, expected, atol=1e-3, rtol=1e-3)
        assert (backbone.hidden_states(None, ids) - hidden).abs().max() > 0.1
