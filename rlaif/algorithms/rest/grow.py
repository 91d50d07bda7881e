"""The Grow step of ReST: n responses of the policy to every prompt, scored and kept on disk.

Each response has its own seed, made from (seed, prompt id, Grow step, index). A chunk of prompts is
in the step's file, one line per response, before the next begins; a killed run takes from the file
what is whole and was sampled under the same settings, and samples the rest. Several processes share
the chunks, and each writes a file of its own; a sharded model is gathered for the whole step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from rlaif.batching.encode import EncodedPrompt, in_groups
from rlaif.data.journal import Journal
from rlaif.distributed.processes import ProcessGroup
from rlaif.generation.offline import response_seed
from rlaif.generation.samplers import Sampler
from rlaif.models.backbone import Backbone, all_whole
from rlaif.models.reward_model import RewardFunction, checked_scores, require_a_score
from rlaif.progress import progress


class Growing(Protocol):
    """The settings of a Grow step, as ReSTConfig has them."""

    @property
    def seed(self) -> int: ...
    @property
    def samples_per_prompt(self) -> int: ...
    @property
    def max_new_tokens(self) -> int: ...
    @property
    def temperature(self) -> float: ...
    @property
    def prompts_per_chunk(self) -> int: ...


class GrownSample(BaseModel):
    """One response of a Grow step, as its file keeps it. `run` says under which settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    prompt: str  # its id
    index: int
    response: str
    ids: list[int]  # as sampled, end token included if it came
    complete: bool
    score: float | None


@dataclass(frozen=True, slots=True)
class GrowStep:
    """Who grows: the sampler with the policy's weights, the score, and where it is kept."""

    sampler: Sampler
    score: RewardFunction
    models: Sequence[Backbone]  # that these two compute with
    prompts: Sequence[EncodedPrompt]
    tokenizer: Any
    out: Path
    run: str  # digest of the run's inputs
    config: Growing
    workers: ProcessGroup

    def grow(self, step: int) -> list[GrownSample]:
        """D_g, all processes together. What the step's file has is not sampled again."""
        kept = self._kept(step)
        with all_whole(self.models):
            own = self._share_of(step, kept)
        found = [entry for chunk in self.workers.gather(own) for entry in chunk]
        require_a_score([entry.score for entry in found], f"ReST, grow {step}")
        return found

    def _kept(self, step: int) -> dict[tuple[str, int], GrownSample]:
        """What the step's files have, however many processes wrote them."""
        files = sorted(self.out.glob(f"grow-{step:02d}*.jsonl"))
        read = self.workers.gather([_entries(file) for file in self.workers.shard(files)])
        return {(e.prompt, e.index): e for file in read for e in file if e.run == self.run}

    def _share_of(
        self, step: int, kept: dict[tuple[str, int], GrownSample]
    ) -> list[list[GrownSample]]:
        """This process's chunks of D_g; what is not in `kept` is sampled, and joins it."""
        chunks = self.workers.shard(list(in_groups(self.prompts, self.config.prompts_per_chunk)))
        with Journal(self._file(step), GrownSample) as journal:
            found: list[list[GrownSample]] = []
            synced = False
            with progress(f"ReST, grow {step}", len(chunks), "chunks") as report:
                for number, chunk in enumerate(chunks):
                    report(number)
                    wanted = [(p.prompt.id, i) for p in chunk for i in self._indices()]
                    if not all(key in kept for key in wanted):
                        if not synced:
                            self.sampler.sync()
                            synced = True
                        for entry in self._sample(step, chunk):
                            journal.append(entry)
                            kept[entry.prompt, entry.index] = entry
                    found.append([kept[key] for key in wanted])
                report(len(chunks))
        return found

    def forget(self) -> None:
        """Remove what earlier runs kept (resume=never)."""
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
        asked = [(p, i) for p in chunk for i in self._indices()]
        seeds = [
            response_seed(self.config.seed, f"{p.prompt.id}, grow {step}", i) for p, i in asked
        ]
        drawn = self.sampler.generate(
            [p.ids for p, _ in asked], self.config.max_new_tokens, self.config.temperature, seeds
        )
        texts = [self.tokenizer.decode(g.ids, skip_special_tokens=True) for g in drawn]
        scores = checked_scores(
            self.score, [p.prompt for p, _ in asked], texts, f"ReST, grow {step}"
        )
        return [
            GrownSample(
                run=self.run, prompt=p.prompt.id, index=i, response=text, ids=g.ids,
                complete=g.complete, score=score,
            )
            for (p, i), g, text, score in zip(asked, drawn, texts, scores, strict=True)
        ]  # fmt: skip


def _entries(file: Path) -> list[GrownSample]:
    with Journal(file, GrownSample) as journal:
        return [entry for _, entry in journal.scan()]
