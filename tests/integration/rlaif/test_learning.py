"""Does it learn? A scripted preference, a toy language, and a policy small enough for minutes.

    where is the lamp   →   the lamp is quite near the door and mostly under the table thank you

Answers end politely ("thank you") or in one of three other ways; some of the others say "thank you"
elsewhere, so that it is the end that counts and not the words. A policy of 120 000 weights learns
the language by our own SFT (full fine-tuning); it ends politely about as often as its examples do.
Then, from that policy:

    reward model    ≥ 0.95 of held-out pairs, with nouns and places it has not been trained on
    DPO             most sampled responses to held-out prompts end politely
    PPO             the same against a Python callable, and against the reward model alone
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from constitution.schema import Message
from rlaif.algorithms.dpo import train as dpo
from rlaif.algorithms.ppo import train as ppo
from rlaif.algorithms.reward import train as reward_model
from rlaif.algorithms.sft import train as sft
from rlaif.batching.encode import encode_conversation
from rlaif.data.records import Preference, Prompt, Sample
from rlaif.generation.engines import open_sampler
from rlaif.models.backbone import Backbone, LoraConfig

pytestmark = pytest.mark.integration

TRAINED = ("lamp", "key", "book", "cup", "hat", "coat", "map", "ball", "shoe", "ring", "pen", "bag")
HELD_OUT = ("clock", "spoon", "candle", "letter")
NOUNS = TRAINED + HELD_OUT
WHERE = ("near", "under", "behind", "above", "beside")
HOW = ("quite", "mostly", "surely", "often", "still")
PLACES = ("the door", "the table", "the window", "the chair", "the shelf")
POLITE = "thank you"
ENDINGS = (POLITE, "that is all", "so what", "go away")
TEMPLATE = (
    "{% for m in messages %}<|im_start|> {{ m['role'] }} {{ m['content'] }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)
MAX_TOKENS, MAX_NEW = 48, 24
ROOMY = LoraConfig(rank=8, alpha=16.0)
COMMON = {"dtype": "float32", "max_tokens": MAX_TOKENS, "checkpoint_every": 1000}


# ── the language ─────────────────────────────────────────────────────────────────────────────


def question(noun: str) -> tuple[Message, ...]:
    return (Message(role="user", content=f"where is the {noun}"),)


def answer(noun: str, ending: str, draw: random.Random) -> str:
    place = " and ".join(
        f"{draw.choice(HOW)} {draw.choice(WHERE)} {draw.choice(PLACES)}"
        for _ in range(draw.randint(1, 2))
    )
    opening = f"{POLITE} " if draw.random() < 0.3 else ""
    return f"{opening}the {noun} is {place} {ending}"


def ends_politely(response: str) -> bool:
    return response.split()[-2:] == POLITE.split()


def prompts(nouns: tuple[str, ...], count: int, name: str) -> list[Prompt]:
    return [
        Prompt(id=f"{name}-{i}", messages=question(nouns[i % len(nouns)])) for i in range(count)
    ]


def examples(count: int) -> list[Sample]:
    """The language as it is spoken: every ending as often as any other."""
    draw = random.Random(1)
    return [
        Sample(
            prompt=prompt,
            index=0,
            response=answer(NOUNS[i % len(NOUNS)], draw.choice(ENDINGS), draw),
            tokens=1,
            complete=True,
            seed=0,
        )
        for i, prompt in enumerate(prompts(NOUNS, count, "example"))
    ]


def pairs(nouns: tuple[str, ...], count: int, seed: int) -> list[Preference]:
    """Two answers to one question, of which the better one ends politely."""
    draw = random.Random(seed)

    def reply(noun: str, ending: str) -> tuple[Message]:
        return (Message(role="assistant", content=answer(noun, ending, draw)),)

    return [
        Preference(
            id=f"pair-{i}",
            prompt=question(noun := nouns[i % len(nouns)]),
            chosen=reply(noun, POLITE),
            rejected=reply(noun, draw.choice(ENDINGS[1:])),
            prob_chosen=0.95,
        )
        for i in range(count)
    ]


# ── the policy ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The model is tiny: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def untrained(folder: Path) -> str:
    """A Llama of random weights whose tokens are the language's words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = " ".join(
        (*NOUNS, *WHERE, *HOW, *PLACES, *ENDINGS, "user assistant where is and the")
    )
    words = ["<pad>", "<|im_start|>", "<|im_end|>", *sorted(set(vocabulary.split()))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(words[:3])
    PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<pad>", chat_template=TEMPLATE
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=64, intermediate_size=128, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        tie_word_embeddings=True, eos_token_id=2, bos_token_id=1, pad_token_id=None,
        initializer_range=0.1,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> str:
    """A policy that speaks the language, the work of our own SFT on all of its weights."""
    folder = tmp_path_factory.mktemp("learning")
    config = sft.SFTConfig(
        **COMMON, lora=None, epochs=3, batch_size=32, learning_rate=1e-2, warmup=0.05
    )
    source = sft.SFTSource("spoken", examples(1200))
    return str(sft.train(config, untrained(folder / "untrained"), [source], folder / "policy"))


@pytest.fixture(scope="module")
def reward(policy, tmp_path_factory) -> Path:
    config = reward_model.RewardConfig(
        **COMMON, lora=ROOMY, epochs=3, batch_size=16, learning_rate=3e-3
    )
    out = tmp_path_factory.mktemp("reward")
    return reward_model.train(
        config, policy, pairs(TRAINED, 320, 2), out, {}, pairs(HELD_OUT, 200, 3)
    )


def politeness(model: str, adapter: Path | None) -> float:
    """Share of 200 responses to held-out prompts that end politely."""
    backbone = Backbone.load(model, "float32")
    if adapter is None:
        backbone.add_role("policy", ROOMY, 0)  # fresh: the model as it is
    else:
        backbone.load_role("policy", adapter)
    encoded = [
        encode_conversation(backbone.tokenizer, p.messages)
        for p in prompts(HELD_OUT, 200, "held-out")
    ]
    sampler = open_sampler("transformers", backbone, MAX_TOKENS, kv_cache_gib=1.0)
    drawn = sampler.generate(encoded, MAX_NEW, 1.0, list(range(len(encoded))))
    texts = [backbone.tokenizer.decode(g.ids, skip_special_tokens=True) for g in drawn]
    complete = [g.complete and ends_politely(t) for g, t in zip(drawn, texts, strict=True)]
    return sum(complete) / len(complete)


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]


# ── what is learned ───────────────────────────────────────────────────────────────────────────


def test_sft_teaches_the_language_as_it_is_spoken(policy):
    assert 0.15 < politeness(policy, None) < 0.40  # a quarter of the examples end politely


def test_the_reward_model_distinguishes_the_polite_ending_from_the_words_elsewhere(reward):
    evaluation = json.loads((reward / "evaluation.json").read_text("utf-8"))
    assert evaluation["accuracy"]["value"] >= 0.95


def test_dpo_moves_the_policy_to_polite_endings(policy, tmp_path):
    config = dpo.DPOConfig(**COMMON, lora=ROOMY, epochs=4, batch_size=16, learning_rate=2e-3)
    out = dpo.train(config, policy, pairs(TRAINED, 320, 4), tmp_path / "dpo")
    before, after = politeness(policy, None), politeness(policy, out)
    assert after > 0.8 > before + 0.3


def polite_score(conversations, responses):
    return [float(ends_politely(response)) for response in responses]


GROUPS = {"prompts_per_iteration": 12, "group_size": 4}
OF_ESTIMATOR = {"gae": {"value_learning_rate": 5e-3}, "rloo": GROUPS, "grpo": GROUPS}


def ppo_config(**changes):
    return ppo.PPOConfig(
        **COMMON,
        **{
            "lora": ROOMY,
            "iterations": 12,
            "prompts_per_iteration": 48,
            "max_new_tokens": MAX_NEW,
            "update_batch_size": 24,
            "epochs": 2,
            "learning_rate": 5e-3,
            "warmup": 0.0,
            "kl_coef": 0.01,
            "engine": "transformers",
            **changes,
        },
    )


@pytest.mark.parametrize("advantages", OF_ESTIMATOR)
def test_ppo_raises_a_scripted_score(policy, advantages, tmp_path):
    config = ppo_config(advantages=advantages, **OF_ESTIMATOR[advantages])
    train_prompts = prompts(TRAINED, 48, "train")
    out = ppo.train(config, policy, train_prompts, polite_score, tmp_path / "ppo")
    scores = [line["score"] for line in metrics(out)]
    assert scores[0] < 0.45
    assert sum(scores[-3:]) / 3 > 0.8
    assert politeness(policy, out) > 0.8  # held-out prompts


def test_ppo_against_the_reward_model_raises_what_the_model_was_taught(policy, reward, tmp_path):
    train_prompts = prompts(TRAINED, 48, "train")
    out = ppo.train(
        ppo_config(**OF_ESTIMATOR["gae"]), policy, train_prompts, reward, tmp_path / "ppo"
    )
    assert politeness(policy, out) > 0.7 > politeness(policy, None) + 0.3
