"""In every loss the gradient of log P(end) after a cut-off response is exactly 0, by a real model.

The last hidden state at a response's last text token predicts what comes next and nothing else: it
has a gradient where an end is taught there, and none after a response that was cut off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.dpo.losses import LOSSES
from rlaif.algorithms.dpo.train import train_step as dpo_step
from rlaif.algorithms.ppo.rollout import roll_out
from rlaif.algorithms.ppo.update import policy_gradients
from rlaif.algorithms.rest.grow import GrownSample
from rlaif.algorithms.rest.improve import improve_set
from rlaif.algorithms.rest.train import _rows as rows_of_improve
from rlaif.algorithms.reward.config import RewardConfig
from rlaif.algorithms.reward.train import fresh_model, parameters
from rlaif.algorithms.reward.train import train_step as reward_step
from rlaif.algorithms.sft.config import SFTConfig
from rlaif.algorithms.sft.lessons import encode_lessons
from rlaif.algorithms.sft.train import train_step as sft_step
from rlaif.batching.chat import turn_end_id
from rlaif.batching.encode import Row, encode_pairs, encode_prompts
from rlaif.data.records import Lesson, Preference, Prompt, Sample
from rlaif.generation.base import Generated
from rlaif.models.backbone import Backbone
from rlaif.models.lora_config import LoraConfig
from tests.support.training.gradients import ALONE, GradientKeeper
from tests.support.training.pairs import preference
from tests.support.training.ppo_runs import models_over, small

CHOSEN, REJECTED = "Yes, and then", "No, but"
PROMPT = Prompt(id="q", messages=preference(0, "a", "b").prompt)


class LastHidden:
    """The token ids and last hidden states of every forward of a backbone, with their gradients."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.forwards: list[tuple[Tensor, Tensor]] = []  # (B, T), (B, T, d)
        trunk = backbone.trunk
        self.handle = trunk.register_forward_hook(self._keep, with_kwargs=True)

    def _keep(self, _trunk: object, _args: object, kwargs: dict[str, Any], out: Any) -> None:
        hidden = out.last_hidden_state
        if hidden.requires_grad:
            hidden.retain_grad()
            self.forwards.append((kwargs["input_ids"], hidden))

    def gradient_after(self, text: str) -> Tensor:
        """Of the hidden state at the last token of a response: (d,)."""
        ids = self.backbone.tokenizer.encode(text, add_special_tokens=False)
        found = [
            hidden.grad[row, at + len(ids) - 1]
            for batch, hidden in self.forwards
            for row, tokens in enumerate(batch.tolist())
            for at in range(len(tokens))
            if tokens[at : at + len(ids)] == ids
        ]
        (gradient,) = found
        return gradient


@pytest.fixture
def policy(tiny_model) -> Backbone:
    backbone = Backbone.load(tiny_model, "float32")
    backbone.add_role("policy", LoraConfig(), 0)
    return backbone


@pytest.fixture
def hidden(policy) -> Iterator[LastHidden]:
    watched = LastHidden(policy)
    yield watched
    watched.handle.remove()


def keeper(backbone: Backbone, config: Any) -> GradientKeeper:
    return GradientKeeper([(backbone.role_parameters("policy"), 1e-3)], 1, config, ALONE)


def pair(**complete: bool) -> Preference:
    made = preference(0, CHOSEN, REJECTED)
    return made.model_copy(update={f"{which}_complete": value for which, value in complete.items()})


def assert_taught(hidden: LastHidden, text: str, taught: bool) -> None:
    assert bool(hidden.gradient_after(text).any()) == taught, text


ENDINGS = [(False, True), (True, False), (False, False), (True, True)]


@pytest.mark.parametrize(("chosen", "rejected"), ENDINGS)
@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_dpo_teaches_an_end_to_complete_responses_only(
    loss, chosen, rejected, policy, hidden
) -> None:
    config = DPOConfig(loss=loss, **({"label_noise": 0.1} if loss == "robust" else {}))
    pairs = [pair(chosen=chosen, rejected=rejected)]
    encoded = encode_pairs(policy.tokenizer, pairs, 100, "error").pairs
    dpo_step(policy, keeper(policy, config), encoded, torch.tensor([[-40.0, -30.0]]), config, "")
    assert_taught(hidden, CHOSEN, chosen)
    assert_taught(hidden, REJECTED, rejected)


def sample(text: str, complete: bool) -> Sample:
    return Sample(prompt=PROMPT, index=0, response=text, tokens=9, complete=complete, seed=0)


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize("kind", ["sample", "preference"])
def test_sft_teaches_an_end_to_complete_responses_only(kind, complete, policy, hidden) -> None:
    lesson: Lesson = sample(CHOSEN, complete) if kind == "sample" else pair(chosen=complete)
    rows = encode_lessons(policy.tokenizer, "x", [lesson], SFTConfig()).rows
    sft_step(policy, keeper(policy, SFTConfig()), rows, ["x"], 300, "")
    assert_taught(hidden, CHOSEN, complete)


def drawn(policy: Backbone, text: str, complete: bool) -> list[int]:
    ids: list[int] = policy.tokenizer.encode(text, add_special_tokens=False)
    return [*ids, turn_end_id(policy.tokenizer)] if complete else ids


@pytest.mark.parametrize("complete", [False, True])
def test_rest_imitates_the_end_of_complete_responses_only(complete, policy, hidden) -> None:
    grown = [
        GrownSample(
            run="r", prompt="q", index=i, response=text, ids=drawn(policy, text, complete),
            complete=complete, score=float(i),
        )
        for i, text in enumerate((REJECTED, CHOSEN))
    ]  # fmt: skip
    prompts, _ = encode_prompts(policy.tokenizer, [PROMPT], 60, "error")
    rows = rows_of_improve(prompts, improve_set(grown, 0.5, "global"))
    assert len(rows) == 1
    sft_step(policy, keeper(policy, SFTConfig()), rows, ["kept"], 300, "")
    assert_taught(hidden, CHOSEN, complete)


class ScriptedSampler:
    """A sampler that draws given responses, which the policy then measures."""

    exact = False

    def __init__(self, responses: Sequence[Generated]) -> None:
        self.responses = responses

    def generate(self, *_: object, **__: object) -> list[Generated]:
        return list(self.responses)

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


PPO_SETTINGS = [
    {"value": "head"},
    {"value": "adapter"},
    {"advantages": "rloo", "group_size": 2},
    {"advantages": "grpo", "group_size": 2},
    {"advantages": "dr_grpo", "group_size": 2},
    {"advantages": "grpo", "group_size": 2, "ratio": "sequence"},
]


@pytest.mark.parametrize("settings", PPO_SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
def test_ppo_updates_on_the_end_of_complete_responses_only(settings, tiny_model) -> None:
    each = settings.get("group_size", 1)
    config = small(prompts_per_iteration=2 // each, max_new_tokens=20, max_tokens=90, **settings)
    models = models_over(tiny_model, config)
    texts = ((CHOSEN, False), (REJECTED, True))
    ids = [drawn(models.policy, text, complete) for text, complete in texts]
    generated = [
        Generated(tokens, [-2.0] * len(tokens), complete)
        for tokens, (_, complete) in zip(ids, texts, strict=True)
    ]
    models = replace(models, sampler=ScriptedSampler(generated), score=by_length)
    prompts, _ = encode_prompts(models.policy.tokenizer, [PROMPT], 60, "error")
    asked = prompts * (2 // each)
    rollout, metrics = roll_out(models, asked, 1, config.kl_coef, config, ALONE)
    assert metrics["eos_rate"] == 0.5
    hidden = LastHidden(models.policy)
    policy_gradients(models, rollout, rollout.trained, config, ALONE, "here")
    hidden.handle.remove()
    assert_taught(hidden, CHOSEN, False)
    assert_taught(hidden, REJECTED, True)


def by_length(_conversations: object, responses: Sequence[str]) -> list[float | None]:
    return [float(len(response)) for response in responses]


@pytest.mark.parametrize(("chosen", "rejected"), ENDINGS)
def test_a_reward_model_reads_a_response_where_it_stops_and_predicts_no_token(
    chosen, rejected, tiny_model
) -> None:
    """The score is read at the end token of a complete response, and at the last text token of a
    cut one, in whose row there is no end."""
    backbone = Backbone.load(tiny_model, "float32")
    config = RewardConfig(max_tokens=100)
    model = fresh_model(backbone, {}, config)
    pairs = [pair(chosen=chosen, rejected=rejected)]
    encoded = encode_pairs(backbone.tokenizer, pairs, 100, "error").pairs
    ends = [holds_an_end(backbone, row) for row in encoded[0].rows]
    assert ends == [chosen, rejected]
    hidden = LastHidden(backbone)
    learner = GradientKeeper([(parameters(model), 1e-3)], 1, config, ALONE)
    reward_step(model, learner, encoded, config, "")
    hidden.handle.remove()
    assert_taught(hidden, CHOSEN, not chosen)
    assert_taught(hidden, REJECTED, not rejected)


def holds_an_end(backbone: Backbone, row: Row) -> bool:
    return bool(backbone.eos_ids.intersection(row.ids[row.start :]))
