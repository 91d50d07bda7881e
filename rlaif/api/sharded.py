"""Folders of shards: sampling and labeling that any number of processes share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from constitution.errors import UserError
from judge_service.types import JudgeOptions
from rlaif.api.inputs import Pathlike, config_of
from rlaif.api.judging import judge_of, judge_options
from rlaif.api.problems import Problems, checked
from rlaif.api.rollouts import checked_reward
from rlaif.data.files import RecordError, as_path
from rlaif.data.shards.folder import Holds, is_shard_folder, read_list
from rlaif.data.shards.split import Split
from rlaif.data.shards.split import split as write_shards
from rlaif.distributed.fleet import RayFleet
from rlaif.feedback.revisions.gate import DEFAULT_GATE
from rlaif.generation.config import SamplingConfig
from rlaif.generation.engines import choose_engine
from rlaif.models import catalog
from rlaif.rewards.base import RewardError
from rlaif.sharding.jobs import ShardJob
from rlaif.sharding.labeling import LabelShards
from rlaif.sharding.part import WHOLE, Part
from rlaif.sharding.run import ShardsReport, make_shards
from rlaif.sharding.sampling import SampleShards
from rlaif.training.preflight import require_folder, require_packages


def split_shards(
    *sources: Pathlike, out: Pathlike, rows: int = 2000, holds: Holds | None = None
) -> Split:
    """Write the rows of files as a folder of shards of about `rows` rows, in constant memory.

    holds: prompts, samples or preferences; by default seen by the first row. A killed call goes on
    with the shards that are missing.

        rlaif.split_shards("prompts.jsonl", out="prompts", rows=2000)
    """
    if not sources:
        raise UserError("no file to split; give at least one")
    if type(rows) is not int or rows < 1:
        raise UserError(f"invalid rows: {rows!r}; give the rows of a shard, 1 or more")
    files = [as_path(source, "source") for source in sources]
    folder = as_path(out, "out")
    require_packages(("pyarrow",))
    require_folder(folder)
    return write_shards(files, folder, rows, holds)


def sample_shards(
    prompts: Pathlike,
    *,
    model: Pathlike,
    out: Pathlike = "samples",
    split: str = "",
    part: str = "",
    fleet: RayFleet | None = None,
    config: SamplingConfig | Sequence[str] | None = None,
    **settings: Any,
) -> ShardsReport:
    """Sample responses to a folder of prompts, as `sample`, into a folder of as many shards.

    part: "I/N", the shards of one of N processes (all of them by default). fleet: the Ray cluster
    that makes them; None: this process. Shards that are there, or that another process makes, are
    left alone, so that a killed call resumes.

        rlaif.sample_shards("prompts", model="smollm2-135m", out="samples", part="0/8", n=2)
    """
    problems = Problems()
    source = problems.attempt(_folder_of, prompts, "prompts")
    folder = problems.attempt(as_path, out, "out")
    found = problems.attempt(config_of, SamplingConfig, config, settings)
    name = problems.attempt(catalog.resolve, model)
    own = problems.attempt(_part, part)
    if found is not None:
        problems.attempt(choose_engine, found.engine)
    problems.attempt(require_packages, ("torch", "transformers", "pyarrow"))
    problems.attempt(require_folder, folder or Path())
    problems.refuse()
    job = SampleShards(checked(name), checked(found), split)
    report = make_shards(checked(source), checked(folder), job, checked(own), fleet)
    if split and report.there == report.shards and not report.rows:
        raise RecordError(f"{source}: no prompts of split {split!r} in any of its shards")
    return report


def label_shards(
    samples: Pathlike,
    *,
    out: Pathlike = "labels",
    judge: Pathlike = "",
    server: str = "",
    constitution: Pathlike = "",
    wait: float | None = None,
    part: str = "",
    fleet: RayFleet | None = None,
    pairs_per_prompt: int | None = 1,
    max_length_ratio: float | None = None,
    sample_principles: int | None = None,
    seed: int | None = None,
    options: JudgeOptions | None = None,
    filter_margin: float | None = None,
) -> ShardsReport:
    """Label a folder of samples, as `label`, into a folder of as many shards.

    part, fleet: as of `sample_shards`; a judge to be served is served by every worker, on its GPUs.
    Every answer is saved as it comes; a killed call resumes. What a
    training takes as labels may be the folder.

        rlaif.label_shards("samples", server="127.0.0.1:50051", out="labels", part="0/8")
    """
    problems = Problems()
    source = problems.attempt(_folder_of, samples, "samples")
    folder = problems.attempt(as_path, out, "out")
    asked = problems.attempt(judge_options, options, sample_principles, seed)
    by = problems.attempt(judge_of, judge, server, constitution, wait)
    rules = problems.attempt(_name_or_file, constitution)
    own = problems.attempt(_part, part)
    problems.attempt(require_packages, ("pyarrow",))
    problems.attempt(require_folder, folder or Path())
    problems.refuse()
    judged = checked(by)
    job: ShardJob = LabelShards(
        judged.model,
        server,
        checked(rules),
        judged.wait,
        pairs_per_prompt,
        max_length_ratio,
        filter_margin,
        checked(asked),
        gpus=_gpus_of(fleet),
    )
    return make_shards(checked(source), checked(folder), job, checked(own), fleet)


def revise_shards(
    samples: Pathlike,
    *,
    out: Pathlike = "revisions",
    judge: Pathlike = "",
    server: str = "",
    constitution: Pathlike = "",
    wait: float | None = None,
    part: str = "",
    fleet: RayFleet | None = None,
    rounds: int = 1,
    gate: float | None = DEFAULT_GATE,
    max_tokens: int = 256,
    temperature: float = 1.0,
    sample_principles: int | None = None,
    seed: int | None = None,
) -> ShardsReport:
    """Revise a folder of samples, as `revise`, into a folder of lessons; `out`/pairs is a folder of
    labels. part, fleet: as of `label_shards`.

        rlaif.revise_shards("samples", server="127.0.0.1:50051", out="revisions", part="0/8")
    """
    from rlaif.feedback.revisions.lessons import RevisionMethod
    from rlaif.sharding.revising import ReviseShards

    problems = Problems()
    source = problems.attempt(_folder_of, samples, "samples")
    folder = problems.attempt(as_path, out, "out")
    asked = problems.attempt(judge_options, None, sample_principles, seed)
    by = problems.attempt(judge_of, judge, server, constitution, wait)
    rules = problems.attempt(_name_or_file, constitution)
    own = problems.attempt(_part, part)
    problems.attempt(require_packages, ("pyarrow",))
    problems.attempt(require_folder, folder or Path())
    problems.refuse()
    judged, options = checked(by), checked(asked)
    method = RevisionMethod(
        checked(rules), rounds, gate, None, max_tokens, temperature, options.seed,
        options.sample_principles,
    )  # fmt: skip
    names = read_list(checked(source)).shards
    job = ReviseShards(method, names, judged.model, server, judged.wait, _gpus_of(fleet))
    return make_shards(checked(source), checked(folder), job, checked(own), fleet)


def score_shards(
    samples: Pathlike,
    *,
    reward: Pathlike | Sequence[Pathlike],
    out: Pathlike = "scores",
    part: str = "",
    fleet: RayFleet | None = None,
) -> ShardsReport:
    """Score a folder of samples, as `score`, into a folder of as many shards.

    part, fleet: as of `sample_shards`; a source is named as its workers find it.

        rlaif.score_shards("samples", reward="reward", out="scores", part="0/8")
    """
    from rlaif.sharding.scoring import ScoreShards

    problems = Problems()
    source = problems.attempt(_folder_of, samples, "samples")
    folder = problems.attempt(as_path, out, "out")
    sources = problems.attempt(_named, reward)
    own = problems.attempt(_part, part)
    problems.attempt(require_packages, ("torch", "transformers", "pyarrow"))
    problems.attempt(require_folder, folder or Path())
    problems.refuse()
    job = ScoreShards(checked(sources))
    return make_shards(checked(source), checked(folder), job, checked(own), fleet)


def _folder_of(given: Pathlike, name: str) -> Path:
    path = as_path(given, name)
    if not is_shard_folder(path):
        raise UserError(
            f"{path}: not a folder of shards; make one with `rlaif shards split {path} --out …`, "
            f"or leave out --part"
        )
    read_list(path)
    return path


def _named(reward: Pathlike | Sequence[Pathlike]) -> tuple[str, ...]:
    """Sources that can be sent to another process."""
    if callable(reward):
        raise RewardError(
            f"invalid reward: {reward!r}; name a function as module:function, which every process "
            "can import"
        )
    problems = Problems()
    found = checked_reward(problems, reward)
    problems.refuse()
    assert isinstance(found, list)
    return tuple(found)


def _gpus_of(fleet: RayFleet | None) -> int:
    """GPUs over which a worker's own judge is split; 0: what it finds."""
    return int(fleet.gpus) if fleet and fleet.gpus > 1 else 0


def _name_or_file(constitution: Any) -> str:
    """A constitution that can be sent to another process."""
    if not isinstance(constitution, str | os.PathLike):
        raise UserError(
            f"invalid constitution: {type(constitution).__name__}; give a name or a YAML file"
        )
    return os.fspath(constitution)


def _part(text: str) -> Part:
    return Part.parse(text) if text else WHOLE
