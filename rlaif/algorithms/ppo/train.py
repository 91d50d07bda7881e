"""Proximal policy optimization (arXiv:1707.06347) of responses against a score.

    A        advantages, (B, R): gae, rloo or grpo            advantages.py, estimators.py
    ratio    = exp(log π - log π_old)                         of a token, or of a whole response
    w        = min(π_old / sampler, importance_cap)           no gradient; 1 with an exact sampler
    L_π      = w·max(-A·ratio, -A·clip(ratio, 1±clip))        Eq. 7, arXiv:1707.06347; losses.py
    L_V      = ½·max((v-R)², (clip(v, v_old±value_clip)-R)²)  with a value function: critic.py
    L        = mean over counted tokens of L_π + vf_coef·L_V,
               with grpo + kl_coef·k3(π, reference)           Eq. 4, arXiv:2402.03300

    log π_old, log π_ref, V   old_logprobs, ref_logprobs, values, indexed by the next token
    R                         returns
    score                     of the whole response, less a penalty when it has no end token

w corrects for a sampler that is not quite the trainer's policy (Yao et al. 2025, "Your Efficient
RL Framework Secretly Brings You Off-Policy RL Training"): the weighted mean over sampled tokens
is that of π_old, but for the truncation, which bounds the variance. A sampler that computes with
the trainer's own forward is exact: its log-probs are π_old, and the policy's forward is saved.

    one iteration    roll out (rollout.py) → updates (update.py) → adapt kl_coef
    guards           adaptive KL, KL guard, max_kl, rollback to the best judged policy (guards.py)

A response whose score is None is masked out of everything and counted (unscored), never scored 0.
The mean is over the tokens of an optimizer step's batch for all three: rloo's paper sums over a
response's tokens (another step size), grpo's divides by each response's length (which favors
short good and long bad ones, arXiv:2503.20783). With ratio=sequence it is over the responses. The
rows of a step's batch are drawn from the whole rollout (update.py).
A judge's ratings, in [-1, 1], are standardized once (rewards/standardized.py), so that the defaults
of kl_coef, missing_eos_penalty and value_clip fit them as they fit a reward model's.
Left out: an entropy bonus, whitening of each batch's scores, Dr. GRPO's division by max_new_tokens,
which only scales the step, and the ratio as a factor of k3 (TRL 1.16's default, not in grpo's
paper).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from rlaif.algorithms.ppo.config import PPOConfig, idle_processes
from rlaif.algorithms.ppo.critic import Critic
from rlaif.algorithms.ppo.drawing.ahead import AheadOfTraining
from rlaif.algorithms.ppo.drawing.models import PPOModels
from rlaif.algorithms.ppo.evaluation import HeldOutEvaluation, HeldOutJudge, split_off
from rlaif.algorithms.ppo.guards import (
    FALL,
    LOW_SD,
    RollbackState,
    adapt_kl_coef,
    after_evaluation,
    mean_score,
    prompts_needed,
    require_kl_within,
)
from rlaif.algorithms.ppo.rollout import roll_out
from rlaif.algorithms.ppo.update import update
from rlaif.batching.encode import EncodedPrompt, encode_prompts, nth_batch
from rlaif.data.records import Prompt
from rlaif.distributed.processes import ProcessGroup
from rlaif.generation.base import Sampler, kv_cache_needed, require_attention
from rlaif.generation.engines import open_sampler
from rlaif.generation.remote.opening import open_rollout_workers
from rlaif.models.backbone import Backbone
from rlaif.models.lora_config import LoraConfig
from rlaif.models.reward_model import RewardFunction, backbones_of, reward_function, reward_identity
from rlaif.progress import progress
from rlaif.rewards.standardized import load_scales, scales_state, standardized
from rlaif.training.checks import memory_gib, report_skipped, require_context
from rlaif.training.config import TrainingError
from rlaif.training.learner import Learner
from rlaif.training.plain_text.score import TextForgetting
from rlaif.training.recompute import recompute_layers
from rlaif.training.run import Run, run_inputs


def train(
    config: PPOConfig,
    model: str,
    prompts: Sequence[Prompt],
    reward: Path | RewardFunction,
    out: Path,
    judge: HeldOutJudge | None = None,
) -> Path:
    """Train the policy against `reward`; returns `out`: a peft adapter, or (lora=null) a model.

    model: short name, folder or hub id of the base.
    reward: folder of a reward model (it becomes a role of the frozen base), or a callable
    (conversations, responses) → scores, None for a response without one.
    judge: called every eval_every iterations, and after the last, with the policy's responses to
    eval_prompts held-out prompts; when they get worse, the policy is rolled back to its best.
    A killed run resumes from the last checkpoint in `out`.
    Raises TrainingError, BatchError, BackboneError, SamplingError or RewardModelError.
    """
    # 1. The processes and the base.
    workers = ProcessGroup.current()
    _require_possible(config, judge, workers)
    policy = Backbone.load(
        model, config.dtype, config.lora is None, workers, config.chat_template_kwargs
    )
    require_attention(policy.model.config, policy.name)
    inputs = _inputs(config, policy, prompts) | {
        "engine": config.engine_for(workers.count),
        "reward": reward_identity(reward),
        "judge": None if judge is None else "callable",
    }

    # 2. The roles, and the prompts. With lora=null the policy's base moves, and the others live on
    #    a copy of it.
    frozen = policy if config.lora else policy.frozen_copy()
    policy.add_role("policy", config.lora, config.seed)
    recompute_layers(policy, config)
    critic = _critic(policy, frozen, config) if config.estimator.needs_value else None
    score = standardized(reward_function(reward, frozen), config.standardize_scores)
    for backbone in (policy, frozen, *backbones_of(score)):
        backbone.shard(workers)
    data = _prepare_data(policy, prompts, judge, config, workers)

    # 3. The optimizer, and the state of an earlier run.
    learner = _learner(policy, critic, config, workers)
    run = Run(out, inputs, config, workers)
    state = _resumed(run, learner, score, config)

    # 4. Iterations.
    if not state.finished(config):
        longest = data.longest_prompt + config.max_new_tokens
        most = max(config.responses, data.heldout_prompts)
        share = -(-most // max(1, config.rollout_workers))
        needed = kv_cache_needed(policy, share, longest)
        cache_gib = min(config.kv_cache_gib, needed)
        with closing(_sampler(config, policy, (longest, cache_gib), out, workers)) as sampler:
            models = PPOModels(policy, frozen, critic, score, sampler)
            iterate(models, data, learner, run, state, config, workers)

    # 5. The policy.
    run.save_policy(policy)
    return out


def _inputs(config: PPOConfig, policy: Backbone, prompts: Sequence[Prompt]) -> dict[str, Any]:
    inputs = run_inputs("ppo", config, policy, prompts)
    if not config.off_policy_steps:  # runs begun before there was this setting go on
        del inputs["config"]["off_policy_steps"]
    return inputs


def _sampler(
    config: PPOConfig, policy: Backbone, room: tuple[int, float], out: Path, workers: ProcessGroup
) -> Sampler:
    """What samples: this process, or its rollout workers. room: tokens, GiB of keys and values."""
    if not config.rollout_workers:
        return open_sampler(config.engine, policy, *room)
    with workers.raise_together():
        sampler = open_rollout_workers(
            config.engine, policy, room, config.lora, workers=config.rollout_workers,
            transport=config.rollout_weights, folder=out / "rollouts" / f"rank-{workers.rank}",
            ray=config.ray,
        )  # fmt: skip
    if config.off_policy_steps:  # it draws with weights that are not the trainer's any more
        sampler.exact = False
    return sampler


@dataclass(frozen=True, slots=True)
class PPOData:
    """The usable prompts, to train on and held out for a judge, and the held-out plain text."""

    prompts: list[EncodedPrompt]  # trained on
    evaluation: HeldOutEvaluation | None
    skipped: int  # prompts that do not fit
    text: TextForgetting

    @property
    def heldout_prompts(self) -> int:
        """Number of prompts held out for the judge; 0 without one."""
        return len(self.evaluation.prompts) if self.evaluation else 0

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt, held-out ones included."""
        heldout = self.evaluation.prompts if self.evaluation else []
        return max(len(prompt.ids) for prompt in (*self.prompts, *heldout))

    def batch(self, step: int, config: PPOConfig) -> list[EncodedPrompt]:
        """The prompts of an iteration: a function of it, so that a resumed run takes the same."""
        places = nth_batch(len(self.prompts), config.prompts_per_iteration, step, config.seed)
        return [self.prompts[i] for i in places]


@dataclass(frozen=True, slots=True)
class PPOState:
    """What the next iteration depends on besides weights and optimizer, as in checkpoints."""

    done: int  # finished iterations
    kl_coef: float
    rollback: RollbackState
    ahead: Mapping[str, Any] = field(default_factory=dict)  # drawn for the next (drawing/ahead.py)

    def finished(self, config: PPOConfig) -> bool:
        """Whether training ends: all iterations are done, or rollbacks ended it (guards.py)."""
        return self.done >= config.iterations or self.rollback.ended


def iterate(
    models: PPOModels,
    data: PPOData,
    learner: Learner,
    run: Run,
    state: PPOState,
    config: PPOConfig,
    workers: ProcessGroup,
) -> None:
    """Run the remaining iterations: roll out, update, adapt kl_coef, evaluate, save.

    Raises TrainingError as the guards do (guards.py). Metrics, besides those of roll_out and
    update:

    kl_coef, learning_rate     of this iteration
    judge_score                the judge's mean P(better than the start), when it is evaluated
    judge_fall                 mean of the best evaluation less this one, paired by prompt
    text_nll, text_nll_rise    of held-out plain text (training/plain_text/score.py), at evaluations
    rollback                   1 when policy and optimizer went back to the best evaluation's
    memory_gib                 peak memory so far, of the process with most
    skipped                    prompts left out because they do not fit
    """
    ahead = AheadOfTraining(models, lambda step: data.batch(step, config), config, workers)
    ahead.load(state.ahead)
    with progress("PPO", config.iterations, "iterations") as report:
        report(state.done)
        for step in run.within_budget(range(1, config.iterations + 1), state.done):
            kl_coef = state.kl_coef
            where = f"PPO, iteration {step}"
            rate = learner.schedule(step)

            batch, drawn = data.batch(step, config), ahead.take(step)
            rollout, metrics = roll_out(models, batch, step, kl_coef, config, workers, drawn)
            require_kl_within(metrics["kl_k1"], config.max_kl, where)
            ahead.start(step + 1)
            metrics |= update(models, learner, rollout, config, workers, step)
            ahead.finish()
            metrics |= {"kl_coef": kl_coef, "learning_rate": rate, "skipped": float(data.skipped)}
            if config.kl_target is not None:
                count, kl = len(rollout.rows), metrics["kl_k1"]
                kl_coef = adapt_kl_coef(kl_coef, kl, config.kl_target, count, config.horizon)
            metrics["memory_gib"] = workers.max(memory_gib())
            spent = run.spend(metrics["rollout_tokens"] + metrics["update_tokens"])

            # Evaluation may put the weights of the best checkpoint back, before they are saved.
            line, best, rollback = dict[str, float | None](metrics), None, state.rollback
            due = spent or _is_due(step, config)
            line |= data.text.metrics(models.policy) if due else {}
            evaluation = data.evaluation if due else None
            if evaluation is not None:
                scores = evaluation.scores(models, config, workers, where)
                looks, error = config.evaluations, config.rollback_error
                verdict = after_evaluation(rollback, scores, looks=looks, error=error)
                judge_score, rollback = mean_score(scores), verdict.state
                best = judge_score if verdict.decision == "new best" else None
                back = verdict.decision in ("roll back", "end")
                line |= {"judge_score": judge_score, "rollback": float(back)}
                line |= {"judge_fall": verdict.fall}
                if back:
                    _load_best(run, learner, where, rollback, workers)
                    ahead.drop()
            state = PPOState(step, kl_coef, rollback, ahead.state())
            run.log(step, line)
            saved = evaluation is not None or step % config.checkpoint_every == 0
            if saved or spent or state.finished(config):
                run.save(step, _checkpoint(learner, models.score, state), best)
            report(step, f"score {metrics['score']:.2f}, KL {metrics['kl_k1']:.2f}")
            if state.finished(config):
                break


def _is_due(step: int, config: PPOConfig) -> bool:
    return step % config.eval_every == 0 or step == config.iterations


def _load_best(
    run: Run, learner: Learner, where: str, rollback: RollbackState, workers: ProcessGroup
) -> None:
    """Policy, value function and optimizer as they were at the best evaluation."""
    with workers.raise_together():
        best = run.best()
        if best is None:
            raise TrainingError(
                f"{run.folder}: the judged policy got worse, and the best checkpoint is missing; "
                "start again in a new folder"
            )
    learner.load(best["learner"])
    if workers.is_main:
        end = "; training ends, since this is the second time" if rollback.ended else ""
        print(
            f"{where}: judged worse than at its best ({mean_score(rollback.best):.3f}, iteration "
            f"{best['step']}), beyond chance: back to that{end}",
            file=sys.stderr,
        )


def _checkpoint(learner: Learner, score: RewardFunction, state: PPOState) -> dict[str, object]:
    # "watch": the key that the first checkpoints have
    rest = {"kl_coef": state.kl_coef, "watch": asdict(state.rollback), "ahead": state.ahead}
    return {"learner": learner.state(), "scales": scales_state(score), **rest}


def _resumed(run: Run, learner: Learner, score: RewardFunction, config: PPOConfig) -> PPOState:
    saved = run.resume()
    if saved is None:
        return PPOState(0, config.kl_coef, RollbackState())
    learner.load(saved["learner"])
    load_scales(score, saved["scales"])
    watch = saved["watch"]
    rollback = RollbackState(tuple(watch["best"]), watch["rollbacks"])
    return PPOState(saved["step"], saved["kl_coef"], rollback, saved.get("ahead", {}))


def _prepare_data(
    policy: Backbone,
    prompts: Sequence[Prompt],
    judge: HeldOutJudge | None,
    config: PPOConfig,
    workers: ProcessGroup,
) -> PPOData:
    """The prompts that fit, with room for a response, some held out where there is a judge; and the
    plain text, scored under the start."""
    require_context(policy, config.max_tokens)
    prompt_tokens = config.max_tokens - config.max_new_tokens
    encoded, skipped = encode_prompts(policy.tokenizer, prompts, prompt_tokens, config.unusable)
    report_skipped(skipped)
    train, heldout = split_off(encoded, config.eval_prompts if judge else 0, config.seed)
    if judge:
        _say_if_blind(config, workers)
    evaluation = HeldOutEvaluation(judge, heldout) if judge else None
    text = TextForgetting.from_start(policy, config, workers)
    return PPOData(train, evaluation, len(skipped), text)


def _say_if_blind(config: PPOConfig, workers: ProcessGroup) -> None:
    """Print when there are too few held-out prompts to tell a worse policy from chance."""
    needed = prompts_needed(config.evaluations, LOW_SD, config.rollback_error)
    if config.eval_prompts < needed and workers.is_main:
        print(
            f"eval_prompts={config.eval_prompts} cannot tell a fall of {FALL} from chance in "
            f"{config.evaluations} evaluations: the policy is judged, and never rolled back; give "
            f"{needed} or more, or evaluate less often (eval_every)",
            file=sys.stderr,
        )


def _critic(policy: Backbone, frozen: Backbone, config: PPOConfig) -> Critic:
    if config.value == "head":
        return Critic.on_policy(policy)
    if frozen is not policy:
        recompute_layers(frozen, config)
    return Critic.beside(frozen, config.lora or LoraConfig(), config.seed + 1)


def _learner(
    policy: Backbone, critic: Critic | None, config: PPOConfig, workers: ProcessGroup
) -> Learner:
    """The optimizer of the policy, and of the value function at a learning rate of its own."""
    groups: list[tuple[Mapping[str, Tensor], float]] = [
        (policy.role_parameters("policy"), config.learning_rate)
    ]
    if critic is not None:
        groups.append((critic.parameters(), config.value_learning_rate))
    return Learner(groups, config.iterations, config, workers)


def _require_possible(config: PPOConfig, judge: HeldOutJudge | None, workers: ProcessGroup) -> None:
    """Raise TrainingError for settings that do not fit the judge or the processes; print when some
    processes wait during updates."""
    config.require_judge(judge is not None)
    if config.prompts_per_iteration < workers.count:
        raise TrainingError(
            f"prompts_per_iteration={config.prompts_per_iteration} is less than the "
            f"{workers.count} processes; raise it, or launch fewer"
        )
    if workers.is_main and (idle := idle_processes(config, workers.count)):
        print(idle, file=sys.stderr)
