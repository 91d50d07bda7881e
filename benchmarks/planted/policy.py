"""A policy of 1.1 million weights, pre-trained in seconds on the grammar of this folder.

    python -m benchmarks.planted.policy OUT          # a model folder, and OUT/prompts.jsonl

OUT is an ordinary model folder: `rlaif sample`, the trainers and recipes take it. The same seed on
the same machine gives the same weights.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from benchmarks.planted.grammar import dialogs, prompts
from rlaif.data.records import write_jsonl

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<pad>", "<|im_start|>", "<|im_end|>"]
VOCABULARY = 640
CONTEXT = 1024  # tokens
STEPS, BATCH = 240, 32
LEARNING_RATE = 4e-3
TRAIN_PROMPTS, HELDOUT_PROMPTS = 400, 200


def save_policy(folder: Path, *, steps: int = STEPS, seed: int = 0) -> float:
    """Pre-train the policy, save it and return the mean loss of the last 20 steps, nats a token."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    lessons = dialogs(steps * BATCH, seed)
    tokenizer = _tokenizer([text for pair in lessons[:4000] for text in pair])
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=5,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=CONTEXT,
        tie_word_embeddings=True, eos_token_id=2, bos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    loss = _pretrain(model, tokenizer, lessons, steps)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return loss


def _tokenizer(texts: list[str]) -> Any:
    """Byte-level BPE of the grammar's words, with a ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator([*texts, "user\n", "assistant\n", "system\n"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<pad>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
    )


def _pretrain(model: Any, tokenizer: Any, lessons: list[tuple[str, str]], steps: int) -> float:
    """Next-token prediction on the responses; each lesson is seen once."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1
    )
    model.train()
    losses: list[float] = []
    for step in range(steps):
        batch = lessons[step * BATCH : (step + 1) * BATCH]
        rows = [_row(tokenizer, question, response) for question, response in batch]
        longest = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows])
        labels = torch.tensor([known + [-100] * (longest - len(known)) for _, known in rows])
        # Rows are padded on the right, and attention looks to the left only: no mask is needed.
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return sum(losses[-20:]) / len(losses[-20:])


def _row(tokenizer: Any, question: str, response: str) -> tuple[list[int], list[int]]:
    """(ids, labels) of a lesson; the prompt has no labels."""
    chat = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    before = tokenizer(prompt)["input_ids"]
    after = [*tokenizer(response)["input_ids"], tokenizer.eos_token_id]
    return before + after, [-100] * len(before) + after


def main() -> None:
    """Write the model folder and its prompts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    started = time.perf_counter()
    loss = save_policy(given.out, steps=given.steps, seed=given.seed)
    write_jsonl(given.out / "prompts.jsonl", prompts(TRAIN_PROMPTS, HELDOUT_PROMPTS, given.seed))
    seconds = time.perf_counter() - started
    print(f"{given.out}: loss {loss:.2f} nats a token, {seconds:.0f} s")


if __name__ == "__main__":
    main()
