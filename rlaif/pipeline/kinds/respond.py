"""respond: the responses of several policies to the same held-out prompts."""

from __future__ import annotations

import shutil
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field

from rlaif.data.prompt_split import HELD_OUT
from rlaif.data.prompts import load_prompts
from rlaif.data.records import Prompt
from rlaif.generation.config import SamplingConfig
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.options import HeldOutPromptOptions
from rlaif.pipeline.stage import ArtifactType, Files, Slot, Source, Stage, is_model, names_of

FACTS = "facts"  # the shipped prompts
FACT_TOKENS = 32  # longest answer: two short sentences

START = "start"
"""The name of the first policy, with which the others are compared."""


class RespondConfig(SamplingConfig):
    """Sampling, one response per prompt by default."""

    n: int = Field(1, ge=1, description="responses per prompt")


class RespondOptions(HeldOutPromptOptions):
    """Which prompts policies respond to, and whether they are asked facts, too."""

    facts: bool = Field(
        default=False,
        description="also ask the 50 questions of common knowledge that ship, greedily, for shares "
        "of right, wrong and declined answers",
    )


class RespondStage(Stage):
    """Lets policies answer the held-out prompts; the first of them is the start."""

    kind = "respond"
    takes = {
        "policies": Slot(
            (ArtifactType.POLICY, ArtifactType.MODEL, ArtifactType.SAMPLER),
            "the start, then the policies to compare with it",
            many=True,
            least=2,
        )
    }
    gives = ArtifactType.RESPONSES
    settings_class = RespondConfig
    options_class = RespondOptions
    grows_with = HELD_OUT

    def does(self, context: RunContext) -> str:
        prompts = len(context.prompts(self.options.prompts))
        facts = ", and questions of common knowledge" if self.options.facts else ""
        return f"{names_of(self.sources['policies'])} answer {prompts} held-out prompts{facts}"

    def inputs(self, context: RunContext) -> dict[str, Any]:
        return {"prompts": context.prompts(self.options.prompts), **self.template_kwargs}

    def run(self, context: RunContext) -> None:
        from rlaif.generation.base import naming_prompts
        from rlaif.generation.offline import sample

        prompts = context.prompts(self.options.prompts)
        for name, policy in self.policies.items():
            kwargs = {"chat_template_kwargs": policy.template_kwargs}
            settings = self.settings.model_copy(update=kwargs)
            if isinstance(policy.stage, SamplerStage):
                with naming_prompts(context.recipe.prompts, prompts):
                    policy.stage.answer(prompts, self.responses(name), settings)
                continue
            with (
                whole_model(policy, self.folder / f"{name}-merged") as model,
                naming_prompts(context.recipe.prompts, prompts),
            ):
                sample(model, prompts, self.responses(name), settings)
                if name in self.asked_facts:
                    sample(model, load_prompts(FACTS), self.facts(name), greedy(settings))

    @property
    def policies(self) -> dict[str, Source]:
        """The policies by the name that results show: `start` for the first."""
        first, *others = self.sources["policies"]
        return {START: first} | {policy.text: policy for policy in others}

    @property
    def template_kwargs(self) -> dict[str, Any]:
        """Variables for the policies' chat templates, as a part of a stage's inputs."""
        given = {n: policy.template_kwargs for n, policy in self.policies.items()}
        return {"chat_template_kwargs": given} if any(given.values()) else {}

    def responses(self, name: str) -> Path:
        """The samples of a policy."""
        return self.folder / f"{name}.jsonl"

    def facts(self, name: str) -> Path:
        """The answers of a policy to the questions of common knowledge, with the option `facts`."""
        return self.folder / f"{name}.facts.jsonl"

    @property
    def outputs(self) -> Files:
        """Each policy's samples and their speed, and its answers to facts."""
        endings = (".jsonl", ".speed.json")
        responses = (self.folder / f"{n}{end}" for n in self.policies for end in endings)
        return Files((*responses, *map(self.facts, self.asked_facts)))

    @property
    def asked_facts(self) -> list[str]:
        """The policies that answer facts: the models, since a greedy answer leaves nothing to pick
        for a way to sample."""
        models = (
            n for n, each in self.policies.items() if not isinstance(each.stage, SamplerStage)
        )
        return list(models) if self.options.facts else []


def greedy(settings: RespondConfig) -> RespondConfig:
    """The same sampling for facts: one answer each, the likeliest tokens, and not a long one."""
    how = {"n": 1, "temperature": 0.0, "top_p": 1.0, "max_new_tokens": FACT_TOKENS}
    return settings.model_copy(update=how)


class SamplerStage(Stage):
    """A stage that gives a way to answer: it samples from its input `model` in a way of its own."""

    gives = ArtifactType.SAMPLER

    @abstractmethod
    def answer(self, prompts: Sequence[Prompt], out: Path, settings: RespondConfig) -> None:
        """Write `settings.n` responses to every prompt, in order, and the speed file beside `out`;
        a killed call resumes."""


@contextmanager
def whole_model(policy: Source, merged: Path) -> Iterator[str]:
    """Yields a whole model for a policy; an adapter is merged into the folder `merged`, which is
    deleted afterwards."""
    trained = policy.stage
    if trained is None or is_model(trained.folder):
        yield policy.model
        return
    from rlaif.models.merge import merge_adapter

    assert trained.base is not None
    merge_adapter(trained.base.model, trained.folder, merged, "float32")
    try:
        yield str(merged)
    finally:
        shutil.rmtree(merged)
