"""The Grow step of ReST: n responses of the policy to every prompt, scored and kept on disk.

Each response has its own seed, made from (seed, prompt id, Grow step, index). A chunk of prompts is
in the step's file, one line per response, before the next begins; a resumed run reads the complete
lines that were sampled under the same settings, and samples the rest. Several processes share the
chunks, and each writes a file of its own; a sharded model is gathered for the whole step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from rlaif.algorithms.rest.config import ReSTConfig
from rlaif.batching.encode import EncodedPrompt, in_groups
from rlaif.data.journal import Journal
from rlaif.distributed.processes import ProcessGroup
from rlaif.generation.base import Sampler, response_seed, response_text
from rlaif.models.backbone import Backbone, all_whole
from rlaif.models.reward_model import RewardFunction, require_a_score
from rlaif.progress import progress
from rlaif.rewards.standardized import StandardizedReward, raw_scores, settle


class GrownSample(BaseModel):
    """One scored response of a Grow step, a line of its file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str  # digest of the run's inputs
    prompt: str  # the prompt's id
    index: int  # among the responses to one prompt, from 0
    response: str
    ids: list[int]  # token ids as sampled, with the end token if there is one
    complete: bool  # ended by an end token, not by max_new_tokens
    score: float | None
    # raw scores by source, where some are standardized; `score` is None in the file then
    raw: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class GrowStep:
    """Samples and scores the responses of Grow steps, and keeps them in files under `out`."""

    sampler: Sampler
    score: RewardFunction
    models: Sequence[Backbone]  # those of sampler and score
    prompts: Sequence[EncodedPrompt]
    tokenizer: Any
    out: Path
    run: str  # digest of the run's inputs
    config: ReSTConfig
    workers: ProcessGroup

    def grow(self, step: int) -> list[GrownSample]:
        """D_g, the responses of all processes; those in the step's files are not sampled again.

        step: g, from 1. Collective. Raises RewardModelError when no response has a score.
        """
        saved = self._saved(step)
        with all_whole(self.models), self.workers.raise_together():
            own = self._own_chunks(step, saved)
        samples = self._scored([s for chunk in self.workers.gather(own) for s in chunk])
        require_a_score([sample.score for sample in samples], f"ReST, grow {step}")
        return samples

    def _scored(self, samples: list[GrownSample]) -> list[GrownSample]:
        """With the scores of standardized sources, which take those of the whole first step."""
        if not isinstance(self.score, StandardizedReward):
            return samples
        # every process has all samples: the estimate is one process's
        scores = settle(self.score, [s.raw for s in samples], ProcessGroup(self.workers.rank, 1))
        return [
            s.model_copy(update={"score": score}) for s, score in zip(samples, scores, strict=True)
        ]

    def _saved(self, step: int) -> dict[tuple[str, int], GrownSample]:
        """The responses in the step's files, however many processes wrote them."""
        files = sorted(self.out.glob(f"grow-{step:02d}*.jsonl"))
        read = self.workers.gather([_samples_in(file) for file in self.workers.shard(files)])
        return {(s.prompt, s.index): s for file in read for s in file if s.run == self.run}

    def _own_chunks(
        self, step: int, saved: dict[tuple[str, int], GrownSample]
    ) -> list[list[GrownSample]]:
        """This process's chunks of D_g; chunks that `saved` lacks are sampled and added to it."""
        chunks = self.workers.shard(list(in_groups(self.prompts, self.config.prompts_per_chunk)))
        grown: list[list[GrownSample]] = []
        synced = False
        with (
            Journal(self._file(step), GrownSample) as journal,
            progress(f"ReST, grow {step}", len(chunks), "chunks") as report,
        ):
            for number, chunk in enumerate(chunks):
                report(number)
                keys = [(p.prompt.id, i) for p in chunk for i in self._indices()]
                if not all(key in saved for key in keys):
                    if not synced:  # a step that is all on disk copies no weights
                        self.sampler.sync()
                        synced = True
                    for sample in self._sample(step, chunk):
                        journal.append(sample)
                        saved[sample.prompt, sample.index] = sample
                    journal.sync()  # before the chunk is reported
                grown.append([saved[key] for key in keys])
            report(len(chunks))
        return grown

    def forget(self) -> None:
        """Delete the files of earlier runs (resume=never)."""
        if self.workers.is_main:
            for path in self.out.glob("grow-*.jsonl"):
                path.unlink()
        self.workers.barrier()

    def _indices(self) -> range:
        return range(self.config.samples_per_prompt)

    def _file(self, step: int) -> Path:
        rank = "" if self.workers.is_main else f".rank-{self.workers.rank}"
        return self.out / f"grow-{step:02d}{rank}.jsonl"

    def _sample(self, step: int, chunk: Sequence[EncodedPrompt]) -> list[GrownSample]:
        repeated = [(prompt, i) for prompt in chunk for i in self._indices()]
        seeds = [
            response_seed(self.config.seed, f"{prompt.prompt.id}, grow {step}", i)
            for prompt, i in repeated
        ]
        generated = self.sampler.generate(
            [prompt.ids for prompt, _ in repeated],
            self.config.max_new_tokens,
            self.config.temperature,
            seeds,
        )
        texts = [response_text(self.tokenizer, g) for g in generated]
        prompts = [prompt.prompt for prompt, _ in repeated]
        raws = raw_scores(self.score, prompts, texts, f"ReST, grow {step}")
        pending = isinstance(self.score, StandardizedReward)
        return [
            GrownSample(
                run=self.run, prompt=prompt.prompt.id, index=i, response=text, ids=g.ids,
                complete=g.complete, score=None if pending or raw is None else raw[0],
                raw=raw if pending else None,
            )
            for (prompt, i), g, text, raw in zip(repeated, generated, texts, raws, strict=True)
        ]  # fmt: skip


def _samples_in(file: Path) -> list[GrownSample]:
    with Journal(file, GrownSample) as journal:
        return [sample for _, sample in journal.scan()]
