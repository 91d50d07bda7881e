"""Another library trains on our label file as it is: TRL's DPOTrainer, one step, on the CPU."""

import math
from pathlib import Path

import pytest

from constitution.schema import Message
from judge_service.types import Comparison
from rlaif.feedback.labeler import label
from tests.support.feedback.scripted_judge import ScriptedJudge

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch.*"),
]

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    pairs = [
        Comparison(
            f"p{number}",
            (Message(role="user", content=f"question {number}"),),
            "a longer answer with a concrete next step",
            "a short one",
        )
        for number in range(4)
    ]
    label(pairs, ScriptedJudge(), tmp_path)
    return tmp_path / "preferences.parquet"


def byte_tokenizer():
    """Bytes as tokens, with a chat template; pad is not eos."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE({c: i for i, c in enumerate(special + alphabet)}, []))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    tokens.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        chat_template=CHAT_TEMPLATE,
    )


def tiny_llama(folder: Path, tokenizer) -> str:
    """A random model as a folder: TRL reads its reference from there."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=256,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )
    model.save_pretrained(folder)
    return str(folder)


def test_trl_dpo_trainer_takes_a_step_on_preferences_parquet(labels, tmp_path):
    datasets = pytest.importorskip("datasets")
    trl = pytest.importorskip("trl")
    dataset = datasets.load_dataset(
        "parquet", data_files=str(labels), split="train", cache_dir=str(tmp_path / "cache")
    )
    tokenizer = byte_tokenizer()
    trainer = trl.DPOTrainer(
        model=tiny_llama(tmp_path / "model", tokenizer),
        args=trl.DPOConfig(
            output_dir=str(tmp_path / "out"),
            max_steps=1,
            per_device_train_batch_size=2,
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
        ),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.train()
    assert trainer.state.global_step == 1
    # the policy equals the reference before the first step, so the loss is ln 2
    assert trainer.state.log_history[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)
