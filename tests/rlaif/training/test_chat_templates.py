"""Every trainer reads rows in the model's chat template, with the variables that its config has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
from tests.support.training.chat_templates import GEMMA, THINKING, Shape
from tests.support.training.pairs import varied_pairs

SMALL: dict[str, Any] = {"dtype": "float32", "max_tokens": 200}
SILENT = {"chat_template_kwargs": {"enable_thinking": False}}
PROMPTS = [
    Prompt(id=f"q{i}", messages=({"role": "user", "content": "Say " + "x" * i},)) for i in range(4)
]
ASKED = [PROMPTS[0].messages]


def as_long(conversations: Any, responses: Any) -> list[float]:
    return [float(len(response)) for response in responses]


TRAINERS: dict[str, Callable[[str, Path, dict[str, Any]], Any]] = {
    "sft": lambda m, out, c: train_sft(
        SFTConfig(**c), m, [SFTSource("pairs", varied_pairs(2), 1.0)], out
    ),
    "reward": lambda m, out, c: train_reward(RewardConfig(**c), m, varied_pairs(2), out),
    "dpo": lambda m, out, c: train_dpo(DPOConfig(**c), m, varied_pairs(2), out),
    "ppo": lambda m, out, c: train_ppo(PPOConfig(**c), m, PROMPTS, as_long, out),
    "rest": lambda m, out, c: train_rest(ReSTConfig(**c), m, PROMPTS, as_long, out),
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
        TRAINERS[algorithm](tiny_model, tmp_path, SMALL | SILENT)


@pytest.mark.parametrize("algorithm", TRAINERS)
def test_a_record_that_the_template_refuses_is_an_error_of_every_trainer(
    folder_of: Callable[[Shape], str],
    tmp_path: Path,
    algorithm: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = {"role": "system", "content": "Be brief."}
    monkeypatch.setattr(
        f"{__name__}.PROMPTS",
        [
            Prompt.model_validate(
                {"id": "bad", "messages": [system, *PROMPTS[0].model_dump()["messages"]]}
            )
        ],
    )
    pairs = [
        Preference.model_validate(
            p.model_dump() | {"id": "bad", "prompt": [system, *p.model_dump()["prompt"]]}
        )
        for p in varied_pairs(1)
    ]
    monkeypatch.setattr(f"{__name__}.varied_pairs", lambda count: pairs)
    with pytest.raises(ChatTemplateError, match=r"bad.*: the chat template of .*System role not"):
        TRAINERS[algorithm](folder_of(GEMMA), tmp_path, SMALL)


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
    assert [reason.partition(":")[0] for reason in found.skipped] == ["bad", "open"]


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
    train_reward(config, model, varied_pairs(), tmp_path, {"manners": 1.0})
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
    train_reward(config, model, varied_pairs(), tmp_path, {"manners": 1.0})
    policy = Backbone.load(model, "float32")  # it thinks
    attached = RewardModel.attach(policy, tmp_path)
    alone = RewardModel.load(model, tmp_path)
    assert attached.score(ASKED, ["Yes."]) == alone.score(ASKED, ["Yes."])
    assert template_kwargs_of(policy.tokenizer) == {}


def test_a_reward_model_whose_template_refuses_a_prompt_says_so(
    folder_of: Callable[[Shape], str], tmp_path: Path
) -> None:
    model = folder_of(GEMMA)
    train_reward(RewardConfig(**SMALL, epochs=1), model, varied_pairs(), tmp_path, {"manners": 1.0})
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
        "prompt": PROMPTS[0], "index": 0, "response": "Hi", "tokens": 3, "complete": True,
        "seed": 0,
    }  # fmt: skip
    samples = [Sample.model_validate(record)]
    silent = response_logprobs(model, None, "float32", {"enable_thinking": False}).policy(samples)
    thinking = response_logprobs(model, None, "float32").policy(samples)
    assert silent != thinking
    assert len(silent[0]) == len(thinking[0]) == 3  # two letters and the end
