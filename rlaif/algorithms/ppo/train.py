"""Proximal policy optimization (arXiv:1707.06347) of responses against a score.

    A        advantages, (B, R): gae, rloo or grpo            advantages.py
    ratio    = exp(log π - log π_old)
    w        = min(π_old / sampler, importance_cap)           no gradient; 1 with an exact sampler
    L_π      = w·max(-A·ratio, -A·clip(ratio, 1±clip))        Eq. 7, arXiv:1707.06347
    L_V      = ½·max((v-R)², (clip(v, v_old±value_clip)-R)²)  gae alone; V in ppo_value.py
    L        = mean over counted tokens of L_π + vf_coef·L_V,
               with grpo + kl_coef·k3(π, reference)           Eq. 4, arXiv:2402.03300

    log π_old, log π_ref, V   old_logprobs, ref_logprobs, values, at the token they lead to
    score                     of the whole response, less a penalty when it has no end token

w corrects for a sampler that is not quite the trainer's policy (Yao et al. 2025, "Your Efficient
RL Framework Secretly Brings You Off-Policy RL Training"): its expectation over what was sampled
is that of π_old, but for the truncation, which bounds the variance. A sampler that computes with
the trainer's own forward is exact: its log-probs are π_old, and the policy's forward is saved.

    one iteration    roll out (ppo_rollout.py) → updates (ppo_update.py) → adapt kl_coef
    guards           adaptive KL, KL guard, max_kl, rollback to the best judged policy (guard.py)

A response whose score is None is masked out of everything and counted (unscored), never scored 0.
The mean is over the tokens of an optimizer step's batch for all three: rloo's paper sums over a
response's tokens (another step size), grpo's divides by each response's length (which favors
short good and long bad ones, arXiv:2503.20783).
Left out: an entropy bonus, whitening of scores, sequence-level importance weights.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from rlaif.algorithms.ppo.config import PPOConfig
from rlaif.algorithms.ppo.critic import Critic
from rlaif.algorithms.ppo.evaluation import HeldOutEvaluation, HeldOutJudge, split_off
from rlaif.algorithms.ppo.guards import (
    RollbackState,
    adapt_kl_coef,
    after_evaluation,
    require_kl_within,
)
from rlaif.algorithms.ppo.rollout import PPOModels, roll_out
from rlaif.algorithms.ppo.update import update
from rlaif.batching.encode import EncodedPrompt, encode_prompts, nth_batch
from rlaif.data.records import Prompt
from rlaif.distributed.processes import ProcessGroup
from rlaif.generation.samplers import choose_engine, kv_cache_needed, open_sampler
from rlaif.models.backbone import Backbone, LoraConfig
from rlaif.models.reward_model import RewardFunction, backbones_of, reward_function, reward_identity
from rlaif.progress import progress
from rlaif.training.config import (
    Learner,
    Run,
    TrainingError,
    memory_gib,
    report_skipped,
    require_context,
    run_inputs,
)

__all__ = ["HeldOutJudge", "PPOConfig", "train"]


def train(
    config: PPOConfig,
    model: str,
    prompts: Sequence[Prompt],
    reward: Path | RewardFunction,
    out: Path,
    judge: HeldOutJudge | None = None,
) -> Path:
    """Train the policy against `reward`; returns `out`: a peft adapter, or (lora=null) a model.

    reward: the folder of a reward model (it becomes a role of the frozen base), or a callable
    (conversations, responses) → scores, None where one could not be had.
    judge: asked every eval_every iterations, and after the last, about responses to eval_prompts
    of the prompts, set aside for it; when they got worse, the policy goes back to its best.
    Resumes by itself. Raises TrainingError, BatchError, RolloutError or RewardModelError.
    """
    # 1. The processes, the base, the prompts.
    workers = ProcessGroup.current()
    _require_possible(config, judge, workers)
    policy = Backbone.load(model, config.dtype, config.lora is None, workers)
    require_context(policy, config.max_tokens)
    most = config.max_tokens - config.max_new_tokens
    encoded, skipped = encode_prompts(policy.tokenizer, prompts, most, config.unusable)
    if workers.is_main:
        report_skipped(skipped)
    encoded, aside = split_off(encoded, config.eval_prompts if judge else 0, config.seed)
    inputs = run_inputs("ppo", config, policy, prompts) | {
        "engine": choose_engine(config.engine, workers.count),
        "reward": reward_identity(reward),
        "judge": None if judge is None else "callable",
    }

    # 2. The roles. With lora=null the policy's base moves, and the others live on a copy of it.
    frozen = policy if config.lora else policy.frozen_copy()
    policy.add_role("policy", config.lora, config.seed)
    critic = _critic(policy, frozen, config) if config.advantages == "gae" else None
    score = reward_function(reward, frozen)
    for each in (policy, frozen, *backbones_of(score)):
        each.shard(workers)

    # 3. Where the run stands.
    trained: list[tuple[Mapping[str, Tensor], float]] = [
        (policy.role_parameters("policy"), config.learning_rate)
    ]
    if critic is not None:
        trained.append((critic.parameters(), config.value_learning_rate))
    learner = Learner(trained, config.iterations, config, workers)
    run = Run(out, inputs, config, workers)
    standing = _resumed(run, learner, config)

    # 4. Iterations.
    if not standing.finished(config):
        longest = max(len(prompt.ids) for prompt in (*encoded, *aside)) + config.max_new_tokens
        needed = kv_cache_needed(policy, max(config.responses, len(aside)), longest)
        room = min(config.kv_cache_gib, needed)
        with closing(open_sampler(config.engine, policy, longest, room)) as sampler:
            actors = PPOModels(policy, frozen, critic, score, sampler)
            asked = PPOData(
                encoded, HeldOutEvaluation(judge, aside) if judge else None, len(skipped)
            )
            iterate(actors, asked, learner, run, standing, config, workers)

    # 5. The policy as peft (or transformers) reads it.
    policy.gather(workers)
    if workers.is_main:
        policy.save_role("policy", out)
    workers.barrier()
    run.finish()
    return out


@dataclass(frozen=True, slots=True)
class PPOData:
    """What the policy is asked."""

    prompts: list[EncodedPrompt]  # trained on
    examination: HeldOutEvaluation | None
    skipped: int  # prompts that do not fit


@dataclass(frozen=True, slots=True)
class PPOState:
    """What the next iteration depends on, besides weights and optimizer."""

    done: int  # iterations
    kl_coef: float
    watch: RollbackState

    def finished(self, config: PPOConfig) -> bool:
        return self.done >= config.iterations or self.watch.ended


def iterate(
    actors: PPOModels,
    asked: PPOData,
    learner: Learner,
    run: Run,
    standing: PPOState,
    config: PPOConfig,
    workers: ProcessGroup,
) -> None:
    """Roll out, score, update, adapt; now and then be judged. Metrics, besides those of roll_out
    and update:

    kl_coef, learning_rate     of this iteration
    judge_score                the judge's mean P(better than the start), when it was asked
    rollback                   1 when policy and optimizer went back to the best judged ones
    memory_gib                 most memory held so far, of the process that holds most
    skipped                    prompts left out because they do not fit
    """
    prompts, examination = asked.prompts, asked.examination
    with progress("PPO", config.iterations, "iterations") as report:
        report(standing.done)
        while not standing.finished(config):
            step, kl_coef, watch = standing.done + 1, standing.kl_coef, standing.watch
            where = f"PPO, iteration {step}"
            rate = learner.schedule(step)
            which = nth_batch(len(prompts), config.prompts_per_iteration, step, config.seed)
            chosen = [prompts[i] for i in which]
            rollout, metrics = roll_out(actors, chosen, step, kl_coef, config, workers)
            require_kl_within(metrics["kl_k1"], config.max_kl, where)
            metrics |= update(actors, learner, rollout, config, workers, where)
            metrics |= {"kl_coef": kl_coef, "learning_rate": rate, "skipped": float(asked.skipped)}
            if config.kl_target is not None:
                count, kl = len(rollout.rows), metrics["kl_k1"]
                kl_coef = adapt_kl_coef(kl_coef, kl, config.kl_target, count, config.kl_horizon)
            line: dict[str, float | None] = {**metrics, "memory_gib": workers.max(memory_gib())}
            best = None
            due = examination is not None and _is_due(step, config)
            if examination is not None and due:
                judged = examination.score(actors, config, workers, where)
                watch, decision = after_evaluation(watch, judged, config.rollback_after)
                best = judged if decision == "new best" else None
                back = decision in ("roll back", "end")
                line |= {"judge_score": judged, "rollback": float(back)}
                if back:
                    _go_back(run, learner, where, watch, workers)
            standing = PPOState(step, kl_coef, watch)
            run.log(step, line)
            if due or step % config.checkpoint_every == 0 or standing.finished(config):
                run.save(step, _state(learner, standing), best)
            report(step, f"score {metrics['score']:.2f}, KL {metrics['kl_k1']:.2f}")


def _is_due(step: int, config: PPOConfig) -> bool:
    return step % config.eval_every == 0 or step == config.iterations


def _go_back(
    run: Run, learner: Learner, where: str, watch: RollbackState, workers: ProcessGroup
) -> None:
    """Policy, value function and optimizer as they were at the best evaluation."""
    best = run.best()
    if best is None:
        raise TrainingError(
            f"{run.folder}: the best checkpoint is gone, and the judged policy got worse; start "
            "again in a new folder"
        )
    learner.load(best["learner"])
    if workers.is_main:
        end = "; once more for the worse, so this is the end" if watch.ended else ""
        print(
            f"{where}: judged worse than at its best ({watch.best:.3f}, iteration {best['step']}) "
            f"too often: back to that{end}",
            file=sys.stderr,
        )


def _state(learner: Learner, standing: PPOState) -> dict[str, object]:
    rest = {"kl_coef": standing.kl_coef, "watch": asdict(standing.watch)}
    return {"learner": learner.state(), **rest}


def _resumed(run: Run, learner: Learner, config: PPOConfig) -> PPOState:
    saved = run.resume()
    if saved is None:
        return PPOState(0, config.kl_coef, RollbackState())
    learner.load(saved["learner"])
    return PPOState(saved["step"], saved["kl_coef"], RollbackState(**saved["watch"]))


def _critic(policy: Backbone, frozen: Backbone, config: PPOConfig) -> Critic:
    if config.value == "head":
        return Critic.on_policy(policy)
    return Critic.beside(frozen, config.lora or LoraConfig(), config.seed + 1)


def _require_possible(config: PPOConfig, judge: HeldOutJudge | None, workers: ProcessGroup) -> None:
    idle = [] if judge else config.set_for_a_judge()
    if idle:
        raise TrainingError(
            f"{', '.join(idle)}: there is no judge of held-out responses to ask; give one, or "
            "leave the setting out"
        )
    if config.prompts_per_iteration < workers.count:
        raise TrainingError(
            f"prompts_per_iteration={config.prompts_per_iteration} is less than the "
            f"{workers.count} processes; raise it, or launch fewer"
        )
