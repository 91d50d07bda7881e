"""Every command of the chain at a number of pairs, as a user would give it: CPU and bytes.

Each pair has a prompt and texts of its own, of random words. The commands are processes of their
own that know the server by its address alone. Of `sample` the driver is counted, not the process
that holds the policy: that is random and tiny here, and on a GPU anywhere else.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import rlaif
from benchmarks.scale.planning.commands import CommandUse, cpu_seconds, measured
from benchmarks.scale.planning.relay import CountingRelay, relayed
from benchmarks.scale.planning.server import CostedServer, started
from benchmarks.service.rate import pairs as pairs_of_words
from rlaif.batching.corpus.manifest import read_manifest
from rlaif.feedback.labeler import JOURNAL
from rlaif.sharding.run import look

_SAMPLING = ("n=2", "max_new_tokens=4", "engine=transformers", "dtype=float32")
_FEW = 32  # pairs whose journal is weighed


@dataclass(frozen=True, slots=True)
class ChainBench:
    """A server with a relay before it, and a tiny policy. tokenizer: whose model labels are
    prepared for."""

    folder: Path
    server: CostedServer
    relay: CountingRelay
    tokenizer: str
    policy: str
    shard_rows: int

    def figures(self, rows: int, number: int) -> dict[str, float]:
        """By name: cpu.COMMAND in seconds, size.WHAT in bytes, tokens, reads. number: no two calls
        may have the same; their texts differ."""
        folder = self.folder / f"{number}-{rows}"
        folder.mkdir()
        prompts, samples = write_texts(folder, number, rows)
        found = self._made(folder, prompts, samples)
        labels, found_labels = folder / "labels", self._labeled(folder)
        use = {
            "stats": measured("labels", "stats", labels, "-c", self.server.rules),
            "verify": measured("labels", "verify", labels, "--offline", "-c", self.server.rules),
            "export": measured("labels", "export", labels, "--out", folder / "export.jsonl"),
            "prepare": measured(
                "train", "prepare", "dpo", labels, "--model", self.tokenizer, "--out",
                folder / "corpus", "max_tokens=512",
            ),
        }  # fmt: skip
        kept = ("samples", "labels", "corpus")
        return {
            **found,
            **found_labels,
            **{f"cpu.{name}": cpu(one) for name, one in use.items()},
            **{f"size.{name}": float(bytes_in(folder / name)) for name in kept},
            "size.export": float((folder / "export.jsonl").stat().st_size),
            "tokens": float(read_manifest(folder / "corpus").tokens),
        }

    def _made(self, folder: Path, prompts: Path, samples: Path) -> dict[str, float]:
        size = ("--rows", str(self.shard_rows), "--out")
        split = measured("shards", "split", prompts, *size, folder / "prompts")
        sampled = measured(
            "sample", folder / "prompts", "--model", self.policy, "--out", folder / "drawn",
            *_SAMPLING, f"prompts_per_chunk={self.shard_rows}",
        )  # fmt: skip
        # What is labeled has texts of a usual length, which the tiny policy does not write.
        measured("shards", "split", samples, "--rows", str(2 * self.shard_rows), "--out",
                 folder / "samples")  # fmt: skip
        return {"cpu.split": cpu(split), "cpu.sample": sampled.cpu_s}

    def _labeled(self, folder: Path) -> dict[str, float]:
        before = cpu_seconds(self.server.pid), self.relay.count, self.server.store_bytes()
        use = measured(
            "label", folder / "samples", "--server", self.relay.address, "-c", self.server.rules,
            "--out", folder / "labels",
        )  # fmt: skip
        counts = look(folder / "labels").counts
        assert isinstance(counts["reads"], float | int)
        return {
            "cpu.label": cpu(use),
            "cpu.server": cpu_seconds(self.server.pid) - before[0],
            "size.rpc": float(self.relay.count - before[1]),
            "size.store": float(self.server.store_bytes() - before[2]),
            "reads": float(counts["reads"]),
        }

    def journal_bytes(self) -> float:
        """Bytes of a label in the journal."""
        folder = self.folder / "few"
        folder.mkdir()
        _, samples = write_texts(folder, 0, _FEW)
        rlaif.label(samples, server=self.server.address, out=folder / "labels")
        return (folder / "labels" / JOURNAL).stat().st_size / _FEW


@contextmanager
def bench(folder: Path, tokenizer: str, principles: int, shard_rows: int) -> Iterator[ChainBench]:
    """What a measurement needs, until the block ends."""
    from tests.support.training.tiny_model import save_tiny_model

    policy = save_tiny_model(folder / "policy")
    with (
        started(folder, tokenizer, principles) as server,
        relayed(server.address) as relay,
    ):
        yield ChainBench(folder, server, relay, tokenizer, policy, shard_rows)


def write_texts(folder: Path, number: int, rows: int) -> tuple[Path, Path]:
    """(prompts, samples) as JSONL: prompts of 70 words, two responses of 75."""
    prompts, samples = folder / "prompts.jsonl", folder / "samples.jsonl"
    with prompts.open("w") as short, samples.open("w") as long:
        for pair in pairs_of_words(number, rows):
            prompt = pair.conversation[0].content
            # The tiny policy has a context of 256 bytes.
            short.write(json.dumps({"prompt": prompt[:200]}) + "\n")
            row = {"prompt": prompt, "responses": [pair.response_a, pair.response_b]}
            long.write(json.dumps(row) + "\n")
    return prompts, samples


def cpu(use: CommandUse) -> float:
    """CPU seconds of a command and its children."""
    return use.cpu_s + use.children_cpu_s


def bytes_in(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def fsync_seconds(folder: Path, times: int = 30) -> float:
    """The median time of an fsync after 4 kB were appended."""
    taken = []
    with (folder / "fsync").open("ab", buffering=0) as file:
        for _ in range(times):
            file.write(b"x" * 4096)
            began = time.perf_counter()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)
