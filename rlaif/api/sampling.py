"""Responses of a policy, their scores by a reward, and an adapter as a model of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from constitution.errors import UserError
from hardware.model_folder import inspect_model_folder
from rlaif.api.inputs import Pathlike, PromptsLike, config_of, prompts_of, report_split
from rlaif.api.problems import Problems, checked
from rlaif.data.files import as_path
from rlaif.data.prompt_split import PromptSet
from rlaif.data.records import Prompt, Sample
from rlaif.data.samples import iter_samples
from rlaif.generation.base import naming_prompts
from rlaif.generation.config import SamplingConfig
from rlaif.generation.engines import choose_engine
from rlaif.models import catalog
from rlaif.models.lora_config import TrainDtype
from rlaif.rewards.base import RewardError
from rlaif.training.preflight import require_folder, require_packages

if TYPE_CHECKING:
    from rlaif.api.rollouts import RewardLike
    from rlaif.rewards.scoring import ScoringSummary


def sample(
    prompts: PromptsLike,
    *,
    model: Pathlike,
    out: Pathlike = "samples.jsonl",
    split: str = "",
    limit: int | None = None,
    config: SamplingConfig | Sequence[str] | None = None,
    **settings: Any,
) -> list[Sample]:
    """Sample responses from a policy into the file `out`, and return them.

    prompts: 'quickstart', a file, or prompts in memory (a text is one user turn). split: "train" or
    "heldout" prompts only, "" all; where the prompts name no split, one in five is held out. limit:
    the first N only. Settings: n, temperature, max_new_tokens, ... (`rlaif sample --help`). A
    killed call resumes.

        rlaif.sample("quickstart", model="smollm2-135m", split="train", n=2)
    """
    # Everything is checked, and nothing is loaded.
    problems = Problems()
    file = problems.attempt(as_path, out, "out") or Path()
    found = problems.attempt(config_of, SamplingConfig, config, settings)
    name = problems.attempt(catalog.resolve, model)
    prompt_set = problems.attempt(prompts_of, prompts)
    selected = None
    if prompt_set is not None:
        selected = problems.attempt(_selected, prompt_set, split, limit)
    if found is not None:
        problems.attempt(choose_engine, found.engine)
    problems.attempt(require_packages, ("torch", "transformers"))
    problems.attempt(require_folder, file.parent)
    if file.is_dir() and file != Path():
        problems.found.append(
            UserError(f"out is a folder: {file}; give a file, such as {file / 'samples.jsonl'}")
        )
    problems.refuse()
    # The prompts of the split, to a process of their own that holds the model.
    if split:
        report_split(checked(prompt_set))
    from rlaif.generation import offline

    asked = checked(selected)
    with naming_prompts(prompts, asked):
        return offline.sample(checked(name), asked, file, checked(found))


def _selected(prompts: PromptSet, split: str, limit: int | None) -> list[Prompt]:
    if not isinstance(split, str):
        raise UserError(f"invalid split: {split!r}; give train, heldout, or '' for all prompts")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise UserError(f"invalid limit: {limit}; give 1 or more, or None for all prompts")
    return prompts.of(split)[:limit]


def merge_adapter(
    model: Pathlike, adapter: Pathlike, *, out: Pathlike = "merged", dtype: TrainDtype = "auto"
) -> Path:
    """Merge a trained adapter into its base: an ordinary model folder for `sample`, vLLM or
    transformers. Returns `out`, which must not exist yet.

    dtype: of the saved weights, by default the base's; bfloat16 rounds small updates away.

        rlaif.merge_adapter("smollm2-135m", "dpo", out="dpo-model")
    """
    problems = Problems()
    folder = problems.attempt(as_path, out, "out")
    trained = problems.attempt(as_path, adapter, "adapter")
    if folder is not None and folder.exists():
        problems.found.append(
            UserError(f"output folder exists already: {folder}; give one that does not exist yet")
        )
    if trained is not None and not inspect_model_folder(trained).is_adapter:
        problems.found.append(
            UserError(
                f"{trained}: not a LoRA adapter (adapter_config.json is missing); give a folder "
                "that training wrote. A policy trained with lora=null needs no merging"
            )
        )
    if dtype not in get_args(TrainDtype):
        known = ", ".join(get_args(TrainDtype))
        problems.found.append(UserError(f"invalid dtype: {dtype!r}; expected one of: {known}"))
    base = problems.attempt(catalog.resolve, model)
    problems.attempt(require_packages, ("torch", "transformers", "peft"))
    problems.refuse()
    # torch is imported only once the arguments are known to be valid
    from rlaif.models.merge import merge_adapter as merge

    return merge(checked(base), checked(trained), checked(folder), dtype)


def score(samples: Pathlike, *, reward: RewardLike, out: Pathlike = "scores") -> ScoringSummary:
    """Score the responses of a file; `out`/scores.parquet has its rows with a column `score`.

    reward: as of `train_ppo`. A response that cannot be scored has None.
    Scores are kept as they come, and a killed call resumes. What reads samples reads the result.

        rlaif.score("samples.jsonl", reward="reward", out="scores").mean
    """
    from rlaif.api.rollouts import checked_reward
    from rlaif.feedback.client import judge_reward
    from rlaif.rewards.scoring import scorer, write_scores

    problems = Problems()
    source = problems.attempt(as_path, samples, "samples")
    folder = problems.attempt(as_path, out, "out")
    by = checked_reward(problems, reward)
    problems.attempt(require_packages, ("torch", "transformers", "pyarrow"))
    problems.attempt(require_folder, folder or Path())
    problems.refuse()
    if next(iter_samples(checked(source)), None) is None:  # also where it cannot be read
        raise RewardError(f"{source}: holds no responses to score")
    assert by is not None
    with scorer(by, judge_reward) as opened:
        return write_scores(iter_samples(checked(source)), opened, checked(folder))
