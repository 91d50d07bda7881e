"""The group estimators' switches against TRL's GRPOTrainer: from the same scores, responses and
log-probs the same loss, and the same gradient of every log-prob."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlaif.algorithms.ppo.config import PPOConfig
from rlaif.algorithms.ppo.drawing.models import PolicyOutputs
from rlaif.algorithms.ppo.rollout import Rollout, RolloutResponse, assemble
from rlaif.algorithms.ppo.update import policy_gradients
from rlaif.batching.encode import Row
from tests.support.training.ppo_runs import ALONE, small

pytestmark = pytest.mark.filterwarnings("ignore")  # of TRL and the packages that it imports

GROUP, MOST = 4, 7  # responses per prompt; tokens of the longest response
PROMPT = "Say hello"
LENGTHS = [3, 7, 5, 7, 2, 6, 7, 4]
CUT = [False, True, False, False, False, True, False, False]
SCORES = [1.0, -0.5, 2.0, 0.25, 3.0, -1.0, 0.5, 0.75]
KL_COEF = 0.04


def table(seed: int, scale: float) -> Tensor:
    """(B, R) random numbers."""
    return scale * torch.randn(len(LENGTHS), MOST, generator=torch.Generator().manual_seed(seed))


OLD = -1.5 + table(0, 0.5)  # nats
SAMPLER, REFERENCE = OLD + table(1, 0.2), OLD + table(2, 0.3)
POLICY = OLD + table(3, 0.3)  # after some steps: many ratios are out of every range


def of_tokenizer(model: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


def responses(tokenizer: Any, lengths: list[int], cut: list[bool]) -> list[list[int]]:
    """Token ids of each response, ended by the end token unless it was cut off."""
    return [
        [10 + i] * (n - 1) + [10 + i if is_cut else tokenizer.eos_token_id]
        for i, (n, is_cut) in enumerate(zip(lengths, cut, strict=True))
    ]


class GivenLogprobs:
    """Stands for PPOModels: the policy's log-probs are a leaf, in the rollout's rows."""

    critic = None

    def __init__(self, rollout: Rollout, logprobs: Tensor) -> None:
        self.logprobs = logprobs[rollout.trained][rollout.mask[rollout.trained]]  # (N,)
        whole = lambda rows, _budget: [[[place] for place in range(len(rows))]]  # noqa: E731
        self.policy = SimpleNamespace(micro_batches=whole, device=torch.device("cpu"))

    def read(self, _batch: object, _temperature: float) -> PolicyOutputs:
        return PolicyOutputs(self.logprobs, None)


def ours(
    tokenizer: Any,
    config: PPOConfig,
    lengths: list[int],
    scores: list[float | None],
    sampler: Tensor = SAMPLER,
) -> tuple[dict[str, float], Tensor, Rollout]:
    """(metrics, the loss's gradient in the log-probs (B, R), the rollout)"""
    made = [
        RolloutResponse(
            Row(f"r{i}", (5, 6, *ids), 2), "", not CUT[i], scores[i],
            *(each[i, : len(ids)] for each in (sampler, OLD, REFERENCE, torch.zeros_like(OLD))),
        )
        for i, ids in enumerate(responses(tokenizer, lengths, CUT))
    ]  # fmt: skip
    groups = [made[at : at + GROUP] for at in range(0, len(made), GROUP)]
    rollout, _ = assemble(groups, KL_COEF, config, torch.device("cpu"))
    kept = [i for i, score in enumerate(scores) if score is not None]
    logprobs = POLICY.clone().requires_grad_()
    models: Any = GivenLogprobs(rollout, logprobs[kept][:, : rollout.mask.shape[1]])
    sums = policy_gradients(models, rollout, rollout.trained, config, ALONE, "here")
    assert logprobs.grad is not None
    return sums, logprobs.grad, rollout


def theirs(
    model: str,
    folder: Any,
    lengths: list[int],
    scores: list[float | None],
    sampler: Tensor = SAMPLER,
    **settings: Any,
) -> tuple[float, Tensor, Tensor]:
    """(loss, its gradient in the log-probs (B, R), advantages (B,)) of TRL's own trainer, which
    is given responses and log-probs in place of those of its model."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    tokenizer = of_tokenizer(model)
    ids = responses(tokenizer, lengths, CUT)
    sampled = [row[:n].tolist() for row, n in zip(sampler, lengths, strict=True)]
    prompt = tokenizer.encode(PROMPT)

    def rolled_out(prompts: list[str], _trainer: object) -> dict[str, Any]:
        return {"prompt_ids": [prompt] * len(prompts), "completion_ids": ids, "logprobs": sampled}

    def reward(**_columns: object) -> list[float | None]:
        return scores

    arguments = trl.GRPOConfig(
        output_dir=str(folder), num_generations=GROUP, per_device_train_batch_size=len(ids),
        max_completion_length=MOST, beta=KL_COEF, num_iterations=2, use_cpu=True, bf16=False,
        use_bias_correction_kl=False,  # k3 as in Eq. 4 of arXiv:2402.03300, not times the ratio
        gradient_checkpointing=False, report_to="none", disable_tqdm=True,
        vllm_importance_sampling_mode="token_truncate", vllm_importance_sampling_clip_max=1.1,
        **settings,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=model, reward_funcs=reward, args=arguments, processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"prompt": PROMPT}] * 2), rollout_func=rolled_out,
    )  # fmt: skip
    # As with vLLM as its sampler, whose tokens it weighs; there is no engine to load weights into.
    trainer.use_vllm, trainer._last_loaded_step = True, trainer.state.global_step
    trainer.current_gradient_accumulation_steps = 1
    leaf = POLICY.clone().requires_grad_()

    def given(asked: object, *_: object, **__: object) -> tuple[Tensor, Tensor, None]:
        of_policy = leaf if torch.is_grad_enabled() else OLD
        found = REFERENCE if asked is trainer.ref_model else of_policy
        width = max(lengths)
        return found[:, :width], torch.zeros(len(ids), width), None

    trainer._get_per_token_logps_and_entropies = given
    trainer.model.train()
    batch = trainer._generate_and_score_completions([{"prompt": PROMPT} for _ in ids])
    loss = trainer._compute_loss(trainer.model, batch)
    loss.backward()
    assert leaf.grad is not None
    return loss.item(), leaf.grad, batch["advantages"]


def config_of(**settings: Any) -> PPOConfig:
    """Settings of ours; penalties of TRL's are the reward function's own."""
    base = {
        "advantages": "grpo", "group_size": GROUP, "prompts_per_iteration": 2,
        "update_batch_size": 4, "importance_cap": 1.1, "clip": 0.2,
    }  # fmt: skip
    penalty = {} if settings.get("truncated") == "mask" else {"missing_eos_penalty": 0.0}
    return small(**(base | penalty | settings))


COUNT, TOKENS = len(LENGTHS), sum(LENGTHS)
WHOLE = CUT.count(False)  # rows that have a loss under truncated=mask
BY_TOKENS = {
    "grpo": ({}, {"loss_type": "bnpo"}, 1.0),
    "dr_grpo": ({"advantages": "dr_grpo"}, {"loss_type": "bnpo", "scale_rewards": "none"}, 1.0),
    "clip_high": (
        {"clip": 0.1, "clip_high": 0.3},
        {"loss_type": "bnpo", "epsilon": 0.1, "epsilon_high": 0.3},
        1.0,
    ),
    "mask": (
        {"truncated": "mask"},
        {"loss_type": "bnpo", "mask_truncated_completions": True},
        1.0,
    ),
    # Dr. GRPO divides by a constant, B·max_new_tokens, in place of the step's tokens
    "dr_grpo by a constant": (
        {"advantages": "dr_grpo"},
        {"loss_type": "dr_grpo", "scale_rewards": "none"},
        COUNT * MOST / TOKENS,
    ),
}


def assert_trls(
    model: str, folder: Any, of_ours: dict[str, Any], of_theirs: dict[str, Any], factor: float,
    lengths: list[int] = LENGTHS, sampler: Tensor = SAMPLER,
) -> None:  # fmt: skip
    """Ours are TRL's advantages, and `factor` times its loss and gradient."""
    config = config_of(**of_ours)
    found, gradient, rollout = ours(of_tokenizer(model), config, lengths, SCORES, sampler)
    loss, loss_gradient, advantages = theirs(model, folder, lengths, SCORES, sampler, **of_theirs)
    torch.testing.assert_close(rollout.advantages[:, 0], advantages)
    assert found["policy_loss"] == pytest.approx(factor * loss, rel=1e-5)
    torch.testing.assert_close(gradient, factor * loss_gradient)
    assert found["clip_fraction_low"] > 0
    assert found["clip_fraction_high"] > 0


@pytest.mark.parametrize("case", BY_TOKENS)
def test_by_tokens_loss_and_gradient_are_trls(case, tiny_model, tmp_path) -> None:
    """With the tokens of another sampler weighed by π_old / sampler, at most 1.1."""
    assert_trls(tiny_model, tmp_path, *BY_TOKENS[case])


BY_SEQUENCES = {
    "wide": ({"clip": 0.01, "clip_high": 0.02}, {"epsilon": 0.01, "epsilon_high": 0.02}, 1.0),
    "gspo": ({"clip": 3e-4, "clip_high": 4e-4}, {"epsilon": 3e-4, "epsilon_high": 4e-4}, 1.0),
    # TRL's mean counts the masked responses, whose loss is 0, ours does not
    "mask": (
        {"clip": 0.01, "clip_high": 0.02, "truncated": "mask"},
        {"epsilon": 0.01, "epsilon_high": 0.02, "mask_truncated_completions": True},
        COUNT / WHOLE,
    ),
}


@pytest.mark.parametrize("case", BY_SEQUENCES)
def test_by_sequences_loss_and_gradient_are_trls(case, tiny_model, tmp_path) -> None:
    of_ours, of_theirs, factor = BY_SEQUENCES[case]
    sequences = {"loss_type": "grpo", "importance_sampling_level": "sequence"}
    of_ours, of_theirs = {**of_ours, "ratio": "sequence"}, {**of_theirs, **sequences}
    assert_trls(tiny_model, tmp_path, of_ours, of_theirs, factor, sampler=OLD)


def test_between_responses_of_one_length_grpos_mean_of_means_is_ours(tiny_model, tmp_path) -> None:
    assert_trls(tiny_model, tmp_path, {}, {"loss_type": "grpo"}, 1.0, lengths=[5] * COUNT)


@pytest.mark.parametrize("advantages", ["grpo", "dr_grpo"])
def test_a_response_without_a_score_leaves_trls_advantages_to_the_others(
    advantages, tiny_model, tmp_path
) -> None:
    scores = [None, *SCORES[1:]]
    scale = "group" if advantages == "grpo" else "none"
    config = config_of(advantages=advantages)
    _, _, rollout = ours(of_tokenizer(tiny_model), config, LENGTHS, scores)
    *_, found = theirs(tiny_model, tmp_path, LENGTHS, scores, scale_rewards=scale)
    torch.testing.assert_close(rollout.advantages[:, 0], found[1:])
    assert found[0] == 0.0
