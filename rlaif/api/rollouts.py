"""Training on the policy's own responses: PPO and ReST, against scores.

    reward    a reward model's folder ("reward"), "judge:HOST:PORT", "module:function", each with a
              weight as "0.5*reward"; a list of them, which is added up; or a Python function
              (conversations, responses) → one score or None per response

Both train on the train split of the prompts: the lines whose `split` is "train", or four in five
where no line names one (`sample(split="heldout")` takes the others).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from constitution import Constitution
from constitution.errors import UserError
from rlaif.algorithms.ppo.config import PPOConfig, idle_processes, require_prompts_left
from rlaif.algorithms.rest.config import ReSTConfig
from rlaif.api.encoding import examine_prompts
from rlaif.api.inputs import (
    Pathlike,
    PromptsLike,
    SamplesLike,
    prompts_of,
    report_split,
    samples_of,
)
from rlaif.api.judging import JudgeConnection, judge_of
from rlaif.api.plan import TrainingPlan, check
from rlaif.api.problems import Problems, checked
from rlaif.batching.origins import naming_files
from rlaif.data.prompt_split import require_splits_apart, text_of
from rlaif.data.records import Prompt, Sample
from rlaif.generation.base import require_attention_of
from rlaif.rewards.base import RewardError
from rlaif.rewards.sources import parse_source, require_source
from rlaif.training.preflight import launched_processes

if TYPE_CHECKING:
    from rlaif.algorithms.ppo.evaluation import HeldOutJudge
    from rlaif.batching.encode import EncodedPrompt
    from rlaif.feedback.labeler import LabelingClient
    from rlaif.models.reward_model import RewardFunction
    from rlaif.rewards.base import OpenJudge

RewardLike: TypeAlias = "Pathlike | Sequence[Pathlike] | Callable[..., Any]"


def train_ppo(
    prompts: PromptsLike,
    *,
    model: Pathlike,
    reward: RewardLike,
    out: Pathlike = "ppo",
    start: SamplesLike | None = None,
    judge: Pathlike = "",
    server: str | LabelingClient = "",
    constitution: str | os.PathLike[str] | Constitution = "",
    config: PPOConfig | Sequence[str] | None = None,
    **settings: Any,
) -> Path:
    """Proximal policy optimization (arXiv:1707.06347) against scores; also RLOO and GRPO.

    start: samples of the starting policy on these prompts, with a `judge` (a model, served for the
    length of the call) or a `server` ("HOST:PORT", or an open client). Every eval_every iterations
    that judge compares the policy's responses to held-out prompts with the start's, by the
    `constitution` ("": the server's own); when they get worse, the policy goes back to its best.
    Returns `out`, with the adapter (with lora=None: the model) and metrics.jsonl. Started again
    after a kill it resumes.

        rlaif.train_ppo("quickstart", model="smollm2-135m", reward="reward", iterations=20)
    """
    return plan_ppo(
        prompts,
        model=model,
        reward=reward,
        out=out,
        start=start,
        judge=judge,
        server=server,
        constitution=constitution,
        config=config,
        **settings,
    ).run()


def train_rest(
    prompts: PromptsLike,
    *,
    model: Pathlike,
    reward: RewardLike,
    out: Pathlike = "rest",
    config: ReSTConfig | Sequence[str] | None = None,
    **settings: Any,
) -> Path:
    """Reinforced self-training (arXiv:2308.08998): sample, keep what scores best, imitate it.

    Returns `out`, with the adapter (with lora=None: the model) and metrics.jsonl. Started again
    after a kill it resumes.

        rlaif.train_rest("quickstart", model="smollm2-135m", reward="reward", grow_steps=2)
    """
    return plan_rest(prompts, model=model, reward=reward, out=out, config=config, **settings).run()


# ── what is checked before anything is loaded ────────────────────────────────────────────────


def plan_ppo(
    prompts: PromptsLike,
    *,
    model: Pathlike,
    reward: RewardLike,
    out: Pathlike = "ppo",
    start: SamplesLike | None = None,
    judge: Pathlike = "",
    server: str | LabelingClient = "",
    constitution: str | os.PathLike[str] | Constitution = "",
    config: PPOConfig | Sequence[str] | None = None,
    **settings: Any,
) -> TrainingPlan:
    """`train_ppo`, checked and not started."""
    # Each argument by itself, so that everything that cannot be used is named.
    checks = check(PPOConfig, config, settings, model, out)
    problems, found, notes = checks.problems, checks.config, list[str]()
    trained = problems.attempt(_train_split, prompts)
    source = checked_reward(problems, reward)
    # The judge of held-out responses, and the start that it compares with: both or neither.
    judged = bool(judge or server)
    if judged != (start is not None):
        problems.found.append(UserError("the judge compares with start: give both, or neither"))
    comparer = problems.attempt(judge_of, judge, server, constitution) if judged else None
    first = None if start is None else problems.attempt(samples_of, start, "start")
    # Then the settings, beside the judge and the prompts.
    if checks.model is not None:
        problems.attempt(require_attention_of, checks.model)
    if found is not None:
        problems.attempt(found.engine_for, launched_processes())
        problems.attempt(found.require_judge, judged)
        notes += filter(None, [idle_processes(found, launched_processes())])
        if trained is not None and judged:
            distinct = len({text_of(prompt) for prompt in trained})
            problems.attempt(require_prompts_left, distinct, found.eval_prompts)

    def train() -> Path:
        from rlaif.algorithms.ppo.train import train

        assert source is not None, "refused above"
        named, given = checked(checks.model), checked(trained)
        with (
            open_reward(source) as score,
            _better_than(first, comparer, checks.out) as held_out_judge,
            naming_files((prompts, given)),
        ):
            return train(checked(found), named, given, score, checks.out, held_out_judge)

    def require_left(usable: Sequence[EncodedPrompt]) -> None:
        distinct = len({text_of(each.prompt) for each in usable})
        require_prompts_left(distinct, checked(found).eval_prompts if judged else 0)

    counts = {"prompts": len(trained or ())}
    steps = found.iterations if found else None
    examine = partial(examine_prompts, checks, prompts, trained, require_left)
    return TrainingPlan(
        found, checks.out, counts, steps, "iterations", problems.found, train, notes, examine
    )


def plan_rest(
    prompts: PromptsLike,
    *,
    model: Pathlike,
    reward: RewardLike,
    out: Pathlike = "rest",
    config: ReSTConfig | Sequence[str] | None = None,
    **settings: Any,
) -> TrainingPlan:
    """`train_rest`, checked and not started."""
    checks = check(ReSTConfig, config, settings, model, out)
    problems, found = checks.problems, checks.config
    trained = problems.attempt(_train_split, prompts)
    source = checked_reward(problems, reward)
    if checks.model is not None:
        problems.attempt(require_attention_of, checks.model)
    if found is not None:
        problems.attempt(found.engine_for, launched_processes())

    def train() -> Path:
        from rlaif.algorithms.rest.train import train

        assert source is not None, "refused above"
        named, given = checked(checks.model), checked(trained)
        with open_reward(source) as score, naming_files((prompts, given)):
            return train(checked(found), named, given, score, checks.out)

    counts, steps = {"prompts": len(trained or ())}, None
    if found is not None:
        counts["responses each"] = found.samples_per_prompt
        steps = found.grow_steps * len(found.quantiles)
    examine = partial(examine_prompts, checks, prompts, trained)
    return TrainingPlan(
        found, checks.out, counts, steps, "improve steps", problems.found, train, examine=examine
    )


def _train_split(prompts: PromptsLike) -> list[Prompt]:
    """The prompts to train on; prints how prompts without splits were split."""
    found = prompts_of(prompts)
    report_split(found)
    require_splits_apart(found)
    return found.of("train")


# ── rewards ──────────────────────────────────────────────────────────────────────────────────

NamedReward: TypeAlias = "list[str] | RewardFunction"


def checked_reward(problems: Problems, reward: RewardLike) -> NamedReward | None:
    """The function, or the sources as text, each of them checked by itself."""
    if callable(reward):
        return reward
    texts = [reward] if isinstance(reward, str | os.PathLike) else reward
    named = isinstance(texts, Sequence) and all(isinstance(t, str | os.PathLike) for t in texts)
    if not named or not texts:
        problems.found.append(
            RewardError(
                f"invalid reward: {reward!r}; give a reward model's folder, judge:HOST:PORT, "
                "module:function, a list of these texts, or a function"
            )
        )
        return None
    sources = [os.fspath(text) for text in texts]
    for text in sources:
        problems.attempt(require_source, text)
    return sources


@contextmanager
def open_reward(reward: NamedReward) -> Iterator[Path | RewardFunction]:
    """The reward as trainers take it: a reward model's folder if that is the only source, else a
    function."""
    if not isinstance(reward, list):
        yield reward
        return
    from rlaif.rewards.sources import open_rewards

    sources = [parse_source(text) for text in reward]
    if len(sources) == 1 and sources[0].kind == "folder" and sources[0].weight == 1:
        yield Path(sources[0].where)
        return
    open_judge: OpenJudge | None = None
    if any(source.kind == "judge" for source in sources):
        from rlaif.feedback.client import judge_reward

        open_judge = judge_reward
    with open_rewards(reward, open_judge) as score:
        yield score


@contextmanager
def _better_than(
    start: Sequence[Sample] | None, judge: JudgeConnection | None, out: Path
) -> Iterator[HeldOutJudge | None]:
    """Mean P(better than the start's first response) by a judge."""
    if start is None or judge is None:
        yield None
        return
    from rlaif.feedback.client import held_out_judge
    from rlaif.feedback.labeler import comparer

    with judge.connected(out / "judge.log") as client:
        compare = partial(comparer, constitution=judge.constitution)
        yield held_out_judge(compare(client, out / "answers.journal.jsonl"), start)
