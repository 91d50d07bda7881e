"""Prompts → samples: every shard is one job of a process that keeps the model loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rlaif.data.prompt_split import in_split
from rlaif.data.prompts import stream_prompts
from rlaif.data.records import write_parquet
from rlaif.data.shards.folder import Holds
from rlaif.data.shards.parquet import sample_schema
from rlaif.feedback.pairs import digest
from rlaif.generation.config import SamplingConfig
from rlaif.generation.engines import choose_engine
from rlaif.generation.offline import SamplerProcess, model_content, sample
from rlaif.sharding.jobs import Made, discard_log, own_log

_NO_MATTER = {"prompts_per_chunk", "kv_cache_gib"}  # settings that responses do not depend on


@dataclass(frozen=True, slots=True)
class SampleShards:
    """Sample responses to the prompts of a split ("": all). model: folder or hub id."""

    model: str
    config: SamplingConfig
    split: str = ""

    takes: ClassVar[Holds] = "prompts"
    gives: ClassVar[Holds] = "samples"

    @contextmanager
    def opened(self, out: Path) -> Iterator[SamplingWorker]:
        """The worker; its process starts with the first shard that is to be made."""
        log = own_log(out, "sampler")
        process = SamplerProcess(log)
        settings = {
            "model": digest(model_content(self.model)),
            "split": self.split,
            **self.config.model_dump(exclude=_NO_MATTER),
            "engine": choose_engine(self.config.engine),
        }
        try:
            yield SamplingWorker(self, settings, process)
        finally:
            process.close()
        discard_log(log)


@dataclass(frozen=True, slots=True)
class SamplingWorker:
    """Samples shard after shard with one loaded model."""

    job: SampleShards
    settings: Mapping[str, Any]
    process: SamplerProcess

    def make(self, shard: Path, folder: Path) -> Made:
        """The responses to a shard's prompts. Raises SamplingError or RecordError."""
        prompts = [p for p in stream_prompts(shard) if in_split(p.split, self.job.split)]
        drawn = []
        if prompts:
            drawn = sample(
                self.job.model, prompts, folder / "samples.jsonl", self.job.config, self.process
            )
        file = folder / "samples.parquet"
        write_parquet(file, (response.model_dump() for response in drawn), sample_schema())
        counts = {
            "prompts": len(prompts),
            "responses": len(drawn),
            "tokens": sum(response.tokens for response in drawn),
            "complete": sum(response.complete for response in drawn),
        }
        return Made(file, len(drawn), {name: float(n) for name, n in counts.items()})
