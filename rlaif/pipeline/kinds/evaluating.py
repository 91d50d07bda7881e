"""What evaluating stages share: who labeled, the reward model's scores, KL to the start, gold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rlaif.data.cut_off import ResponseText
from rlaif.data.records import Sample
from rlaif.pipeline.recipe import ModelSpec
from rlaif.pipeline.stage import ArtifactType, Source, Stage, is_model

if TYPE_CHECKING:
    from judge_service.planted.file import PlantedJudge
    from rlaif.evaluation.judges.column import Labelers
    from rlaif.evaluation.policies import KL
    from rlaif.models.reward_model import RewardModel


def stages_before(stage: Stage) -> list[Stage]:
    """All stages that a stage depends on."""
    found: dict[Stage, None] = {}
    waiting: list[Stage] = [stage]
    while waiting:
        each = waiting.pop()
        if each not in found:
            found[each] = None
            waiting += each.predecessors
    return list(found)[1:]


def label_sources(stages: Iterable[Stage]) -> list[Source]:
    """The labels that these stages were trained on, each file once; of lessons from revisions the
    pairs, whose receipts say who chose them."""
    found: dict[str, Source] = {}
    for stage in stages:
        for slot, sources in stage.sources.items():
            if ArtifactType.PREFERENCES in stage.takes[slot].takes:
                for source in filter(None, map(_labeled, sources)):
                    found.setdefault(str(source.file), source)
    return list(found.values())


def _labeled(source: Source) -> Source | None:
    """The source itself, where it is labels or a file; the labels beside what a stage gives; None
    where there are none."""
    stage = source.stage
    if stage is None or stage.gives is ArtifactType.PREFERENCES:
        return source
    for part, given in stage.parts.items():
        if given is ArtifactType.PREFERENCES:
            return replace(source, part=part)
    return None


def labelers_of_stages(stages: Sequence[Stage]) -> Labelers:
    """Who labeled what these stages were trained on; incomplete where a judge's scores were the
    reward, or a reward model is from elsewhere."""
    from rlaif.feedback.labelers import labelers_of

    found = labelers_of(source.file for source in label_sources(stages))
    rewards = (s for stage in stages for s in stage.sources.get("reward", ()))
    unknown = any(not isinstance(source.origin, Stage) for source in rewards)
    return replace(found, complete=found.complete and not unknown)


# ── scores ───────────────────────────────────────────────────────────────────────────────────


def reward_model_of(stage: Stage) -> RewardModel | None:
    """The reward model in a stage's input `reward`; None where it has none."""
    from rlaif.models.reward_model import RewardModel

    if "reward" not in stage.sources:
        return None
    reward = stage.source("reward").stage
    assert reward is not None
    assert reward.base is not None
    return RewardModel.load(reward.base.model, reward.folder)


def reward_scores(model: RewardModel, samples: Sequence[Sample]) -> list[float | None]:
    """The model's score of every response; None for an empty one."""
    return model.overall_scores(
        [sample.prompt.messages for sample in samples],
        [ResponseText(s.response, s.complete, s.end_token) for s in samples],
    )


def planted_among(judges: Iterable[Source]) -> tuple[int, PlantedJudge] | None:
    """(its place, the judge) of the first planted judge, which knows gold."""
    from judge_service.planted.file import PlantedJudge

    for place, source in enumerate(judges):
        if isinstance(source.judge, ModelSpec) and source.judge.is_planted:
            return place, PlantedJudge.load(source.judge.model)
    return None


def kl_to_start(policy: Source, start: Source, samples: Sequence[Sample]) -> KL:
    """KL of a policy to the start on its own samples, whatever the policy began from."""
    from rlaif.evaluation.policies import estimate_kl
    from rlaif.models.sample_logprobs import response_logprobs

    trained = policy.stage
    # A whole model is read by itself, an adapter over the model that it was trained on.
    if trained is None or is_model(trained.folder):
        logprobs = response_logprobs(policy.model, None, template_kwargs=policy.template_kwargs)
        return estimate_kl(samples, logprobs.policy, _reference(start))
    assert trained.base is not None
    kwargs = policy.template_kwargs
    logprobs = response_logprobs(trained.base.model, trained.folder, template_kwargs=kwargs)
    same = (trained.base.model, kwargs) == (start.model, start.template_kwargs)
    reference = logprobs.reference if same else _reference(start)
    return estimate_kl(samples, logprobs.policy, reference)


def _reference(start: Source) -> Any:
    """Log-probs under the start: a whole model, or an adapter over its base."""
    from rlaif.models.sample_logprobs import response_logprobs

    trained, kwargs = start.stage, start.template_kwargs
    if trained is None or is_model(trained.folder):
        return response_logprobs(start.model, None, template_kwargs=kwargs).reference
    assert trained.base is not None
    return response_logprobs(trained.base.model, trained.folder, template_kwargs=kwargs).policy
