"""Every trainer reads rows in the model's chat template, with the variables that its config has."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from constitution.schema import Message
from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.dpo.train import train as train_dpo
from rlaif.algorithms.ppo.config import PPOConfig
from rlaif.algorithms.ppo.train import train as train_ppo
from rlaif.algorithms.rest.config import ReSTConfig
from rlaif.algorithms.rest.train import train as train_rest
from rlaif.algorithms.reward.config import RewardConfig
from rlaif.algorithms.reward.train import train as train_reward
from rlaif.algorithms.sft.config import SFTConfig
from rlaif.algorithms.sft.lessons import encode_lessons
from rlaif.algorithms.sft.sources import SFTSource
from rlaif.algorithms.sft.train import train as train_sft
from rlaif.batching.chat import ChatTemplateError, template_kwargs_of
from rlaif.data.records import Demonstration, Preference, Prompt, Sample
from rlaif.models.backbone import Backbone
from rlaif.models.reward_model import RewardModel
from rlaif.models.sample_logprobs import response_logprobs
from tests.support.chat_templates import GEMMA, THINKING, Shape
from tests.support.training.pairs import varied_pairs

SMALL: dict[str, Any] = {"dtype": "float32", "max_tokens": 200}
WEIGHTS = {"manners": 1.0, "brevity": 1.0}
SILENT = {"chat_template_kwargs": {"enable_thinking": False}}
PROMPTS = [
    Prompt(id=f"q{i}", messages=({"role": "user", "content": "Say " + "x" * i},)) for i in range(4)
]
ASKED = [PROMPTS[0].messages]


def as_long(conversations: Any, responses: Any) -> list[float]:
    return [float(len(response)) for response in responses]


class Work(NamedTuple):
    """What a trainer is given."""

    model: str
    out: Path
    config: dict[str, Any] = SMALL
    pairs: Sequence[Preference] = varied_pairs(3)
    prompts: Sequence[Prompt] = PROMPTS


TRAINERS: dict[str, Callable[[Work], Any]] = {
    "sft": lambda w: train_sft(
        SFTConfig(**w.config), w.model, [SFTSource("pairs", w.pairs, 1.0)], w.out
    ),
    "reward": lambda w: train_reward(RewardConfig(**w.config), w.model, w.pairs, w.out, WEIGHTS),
    "dpo": lambda w: train_dpo(DPOConfig(**w.config), w.model, w.pairs, w.out),
    "ppo": lambda w: train_ppo(PPOConfig(**w.config), w.model, w.prompts, as_long, w.out),
    "rest": lambda w: train_rest(ReSTConfig(**w.config), w.model, w.prompts, as_long, w.out),
}


@pytest.fixture
def folder_of(make_tiny_model: Callable[..., str]) -> Callable[[Shape], str]:
    return lambda shape: make_tiny_model(
        template=shape.template, special=shape.special, eos=shape.eos, bos=shape.bos
    )


@pytest.mark.parametrize("algorithm", TRAINERS)
def test_a_variable_that_the_model_s_template_does_not_read_stops_every_trainer(
    tiny_model: str, tmp_path: Path, algorithm: str
) -> None:
    with pytest.raises(
        ChatTemplateError, match=r"chat_template_kwargs\.enable_thinking: .* does not read"
    ):
        TRAINERS[algorithm](Work(tiny_model, tmp_path, SMALL | SILENT))


@pytest.mark.parametrize("algorithm", TRAINERS)
def test_a_record_that_the_template_refuses_is_an_error_of_every_trainer(
    folder_of: Callable[[Shape], str], tmp_path: Path, algorithm: str
) -> None:
    system = Message(role="system", content="Be brief.")
    pair, prompt = varied_pairs(3)[2], PROMPTS[0]
    bad_pair = pair.model_copy(update={"id": "bad", "prompt": (system, *pair.prompt)})
    bad_prompt = prompt.model_copy(update={"id": "bad", "messages": (system, *prompt.messages)})
    work = Work(folder_of(GEMMA), tmp_path, SMALL, [bad_pair], [bad_prompt])
    with pytest.raises(ChatTemplateError, match=r"bad.*: the chat template of .*System role not"):
        TRAINERS[algorithm](work)


def test_lessons_that_the_template_refuses_are_skipped_and_counted(
    folder_of: Callable[[Shape], str],
) -> None:
    tokenizer = Backbone.load(folder_of(GEMMA), "float32").tokenizer
    user = {"role": "user", "content": "Hello"}
    lessons = [
        Demonstration(id="good", prompt=(user,), response="Hi"),
        Demonstration(id="bad", prompt=(user, user), response="Hi"),
        Demonstration(id="open", prompt=(user, {**user, "role": "assistant"}), response="Hi"),
    ]
    found = encode_lessons(tokenizer, "it", lessons, SFTConfig(**SMALL, unusable="skip"))
    assert [tokenizer.decode(row.ids[row.start :]) for row in found.rows] == ["Hi<end_of_turn>"]
    assert [str(reason).partition(":")[0] for reason in found.skipped] == ["bad", "open"]


def test_a_frozen_copy_keeps_the_variables(folder_of: Callable[[Shape], str]) -> None:
    backbone = Backbone.load(
        folder_of(THINKING), "float32", template_kwargs={"enable_thinking": False}
    )
    assert template_kwargs_of(backbone.frozen_copy().tokenizer) == {"enable_thinking": False}


@pytest.mark.parametrize("lora", ["adapter", "whole"])
def test_a_reward_model_scores_with_the_variables_that_it_was_trained_with(
    folder_of: Callable[[Shape], str], tmp_path: Path, lora: str
) -> None:
    model, whole = folder_of(THINKING), {"lora": None} if lora == "whole" else {}
    config = RewardConfig(**SMALL, **SILENT, **whole, epochs=1)
    train_reward(config, model, varied_pairs(), tmp_path, WEIGHTS)
    facts = json.loads((tmp_path / "reward.json").read_text())
    assert facts["chat_template_kwargs"] == {"enable_thinking": False}
    loaded = RewardModel.load(model, tmp_path)
    score = loaded.score(ASKED, ["Yes."])[0].overall
    # Read in the template's other form, the same response has another score.
    (tmp_path / "reward.json").write_text(json.dumps(facts | {"chat_template_kwargs": {}}))
    assert RewardModel.load(model, tmp_path).score(ASKED, ["Yes."])[0].overall != score


def test_a_reward_model_over_a_policy_s_base_keeps_its_own_variables(
    folder_of: Callable[[Shape], str], tmp_path: Path
) -> None:
    model = folder_of(THINKING)
    config = RewardConfig(**SMALL, **SILENT, epochs=1)
    train_reward(config, model, varied_pairs(), tmp_path, WEIGHTS)
    policy = Backbone.load(model, "float32")  # it thinks
    attached = RewardModel.attach(policy, tmp_path)
    alone = RewardModel.load(model, tmp_path)
    assert attached.score(ASKED, ["Yes."]) == alone.score(ASKED, ["Yes."])
    assert template_kwargs_of(policy.tokenizer) == {}


def test_a_reward_model_whose_template_refuses_a_prompt_says_so(
    folder_of: Callable[[Shape], str], tmp_path: Path
) -> None:
    model = folder_of(GEMMA)
    train_reward(RewardConfig(**SMALL, epochs=1), model, varied_pairs(), tmp_path, WEIGHTS)
    loaded = RewardModel.load(model, tmp_path)
    asked = [(*PROMPTS[0].messages, *PROMPTS[1].messages)]
    with pytest.raises(ChatTemplateError, match=r"response 0 to the reward model: .*alternate"):
        loaded.overall_scores(asked, ["Yes."])
    assert loaded.overall_scores(ASKED * 2, ["Yes.", "x" * 400])[1] is None


def test_kl_is_read_with_the_variables_that_responses_were_sampled_with(
    folder_of: Callable[[Shape], str],
) -> None:
    model = folder_of(THINKING)
    record = {
        "prompt": PROMPTS[0], "index": 0, "response": "Hi", "tokens": 3,
        "complete": True, "seed": 0,
    }  # fmt: skip
    samples = [Sample.model_validate(record)]
    silent = response_logprobs(model, None, "float32", {"enable_thinking": False}).policy(samples)
    thinking = response_logprobs(model, None, "float32").policy(samples)
    assert silent != thinking
    assert len(silent[0]) == len(thinking[0]) == 3  # two letters and the end
