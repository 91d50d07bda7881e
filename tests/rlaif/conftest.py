"""Fixtures: a random Llama of 50 000 weights, a byte-level tokenizer, pairs and prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from constitution.schema import Message
from rlaif.data.records import Preference, Prompt
from tests.support.training.pairs import preference

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def make_tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """make_tiny_model(pad="<pad>", template=CHAT_TEMPLATE) → the folder of a tiny chat model."""

    def make(pad: str = "<pad>", template: str | None = CHAT_TEMPLATE, seed: int = 0) -> str:
        import torch
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

        special = ["<pad>", "<|im_start|>", "<|im_end|>"]
        alphabet = special + sorted(pre_tokenizers.ByteLevel.alphabet())
        core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        core.add_special_tokens(special)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=core, eos_token="<|im_end|>", pad_token=pad, chat_template=template
        )
        config = LlamaConfig(
            vocab_size=len(alphabet), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
            tie_word_embeddings=True, eos_token_id=2, bos_token_id=1, pad_token_id=None,
            initializer_range=0.2,
        )  # fmt: skip
        folder = tmp_path_factory.mktemp("tiny")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture(scope="session")
def tiny_model(make_tiny_model: Callable[..., str]) -> str:
    """The folder of a tiny chat model with random weights; its pad token is not its eos."""
    return make_tiny_model()


@pytest.fixture(autouse=True)
def one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run tiny models on one thread: on a busy machine, waiting threads cost a factor of 100."""
    if "make_tiny_model" not in request.fixturenames:
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def polite_pairs() -> list[Preference]:
    """Eight pairs whose better response says please: a set small enough to memorize."""
    return [
        preference(i, f"Yes, {i} please.", f"No {i}!" + "!" * (i % 3), traits={"manners": 0.95})
        for i in range(8)
    ]


@pytest.fixture
def questions() -> list[Prompt]:
    return [
        Prompt(id=f"q{i}", messages=(Message(role="user", content="Say " + "x" * i),))
        for i in range(1, 7)
    ]
