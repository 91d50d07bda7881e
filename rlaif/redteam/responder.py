"""Responses of a local model, one to each prompt, none of them drawn twice.

The model is sampled as by `rlaif sample`, in a process of its own and with a seed for each prompt;
every response is then appended to a journal under a digest of model, settings and prompt. A run
that was killed asks only for the rest, and gets the same texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from rlaif.data.journal import Journal
from rlaif.data.records import Prompt, Sample
from rlaif.feedback.pairs import digest
from rlaif.generation import offline
from rlaif.generation.config import ResponseConfig, SamplingConfig


class Responder(Protocol):
    """What is attacked, or attacks. name: what a person calls it."""

    name: str

    def respond(self, prompts: Sequence[Prompt]) -> list[Sample]:
        """One response to each prompt, in order."""


class KeptResponse(BaseModel):
    """A line of a responder's journal; `key` identifies model, settings and prompt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    response: str
    tokens: int
    complete: bool
    seed: int
    end_token: str


class LocalModel:
    """A model folder or hub id (`rlaif.models.catalog.resolve` gives it) that responds.

    name: for people. journal: the file that keeps its responses.
    """

    def __init__(self, name: str, model: str, config: ResponseConfig, journal: Path) -> None:
        self.name = name
        self._model = model
        kept = config.model_dump(include=set(ResponseConfig.model_fields))
        self._config = SamplingConfig(n=1, **kept)
        self._journal = journal

    def respond(self, prompts: Sequence[Prompt]) -> list[Sample]:
        """One response to each prompt, in order. Raises SamplingError as `offline.sample`, and
        RecordError where another process uses the journal."""
        keys = {prompt.id: self._key(prompt) for prompt in prompts}
        with Journal(self._journal, KeptResponse) as journal:
            known = {entry.key: entry for _, entry in journal.scan()}
            missing = [prompt for prompt in prompts if keys[prompt.id] not in known]
            for sample in self._sampled(missing):
                entry = KeptResponse(
                    key=keys[sample.prompt.id],
                    **sample.model_dump(include=KeptResponse.model_fields.keys() - {"key"}),
                )
                journal.append(entry)
                known[entry.key] = entry
        for file in (self._part, self._part.with_suffix(".speed.json")):  # the journal has them
            file.unlink(missing_ok=True)
        return [
            Sample(
                prompt=prompt, index=0, **known[keys[prompt.id]].model_dump(exclude={"key"})
            )
            for prompt in prompts
        ]  # fmt: skip

    def _sampled(self, prompts: Sequence[Prompt]) -> list[Sample]:
        if not prompts:
            return []
        return offline.sample(self._model, prompts, self._part, self._config)

    @property
    def _part(self) -> Path:
        """Where samples lie until the journal has them."""
        return self._journal.with_name(self._journal.name.split(".")[0] + ".part.jsonl")

    @cached_property
    def _content(self) -> str:
        return digest([offline.model_content(self._model), self._config.model_dump(mode="json")])

    def _key(self, prompt: Prompt) -> str:
        return digest([self._content, prompt.id, [[m.role, m.content] for m in prompt.messages]])
