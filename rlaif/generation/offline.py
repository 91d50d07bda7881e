"""Sampling of n responses to every prompt, each from its own seed, saved chunk by chunk.

Each response has its own seed, made from (seed, prompt id, index), so that it does not depend on
the other prompts. Prompts are sampled in chunks; a finished chunk is on disk (`<out>.unfinished`)
before the next begins, and a killed run resumes after the last complete one, with the same text as
if never interrupted. The model runs in a process of its own (worker.py).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import Any

from rlaif.data.files import file_sha256
from rlaif.data.records import Prompt, Sample, write_json, write_jsonl
from rlaif.generation.base import SamplingError, response_seed
from rlaif.generation.config import SamplingConfig
from rlaif.generation.engines import choose_engine
from rlaif.generation.worker import Job, Request
from rlaif.progress import progress


def sample(
    model: str,
    prompts: Sequence[Prompt],
    out: Path,
    config: SamplingConfig,
    process: SamplerProcess | None = None,
) -> list[Sample]:
    """Sample `config.n` responses to each prompt, and write them to `out` (JSONL), in order.

    model: folder or hub id (`rlaif.models.catalog.resolve` gives it). process: holds the model
    after this call, too; None: one for this call alone. A killed run resumes after its last
    complete chunk. Raises SamplingError for two prompts with one id, a prompt longer than
    the context, an engine that is not installed, a model that cannot be loaded, a full disk, or
    another process that samples into the same file.
    """
    _check(prompts)
    # Chunks hold all responses to their prompts, so that the engine reads each prompt once.
    chunks = [
        [_request(prompt, index, config.seed) for prompt in group for index in range(config.n)]
        for group in _groups(prompts, config.prompts_per_chunk)
    ]
    engine = choose_engine(config.engine)
    with _Unfinished(out, _fingerprint(model, engine, prompts, config)) as kept:
        done = kept.read()  # what an earlier run of the same inputs finished is not sampled again
        if len(done) < len(chunks):
            settings = config.model_dump(
                include={
                    "dtype", "max_new_tokens", "temperature", "top_p", "kv_cache_gib",
                    "chat_template_kwargs",
                }
            )  # fmt: skip
            job = Job(model=model, engine=engine, start=len(done), chunks=chunks, **settings)
            done += _collect(job, kept, len(prompts), config.prompts_per_chunk, process)
        # The samples first: the speed file belongs to a finished one.
        samples = _samples(prompts, chunks, done)
        write_jsonl(out, samples)
        tokens, seconds = sum(s.tokens for s in samples), sum(chunk["seconds"] for chunk in done)
        write_json(_speed_file(out), {"tokens": tokens, "seconds": seconds, "engine": engine})
        kept.path.unlink()
    return samples


def tokens_per_second(out: Path) -> float:
    """Response tokens per second of the run that wrote `out`, without loading the model.

    Raises OSError if there is no such run.
    """
    speed = json.loads(_speed_file(out).read_text(encoding="utf-8"))
    return float(speed["tokens"]) / float(speed["seconds"])


def _check(prompts: Sequence[Prompt]) -> None:
    if not prompts:
        raise SamplingError("no prompts to sample responses to; give at least one")
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise SamplingError(f"two prompts have the same id: {prompt.id!r}; give each its own")
        seen.add(prompt.id)


def _groups(prompts: Sequence[Prompt], size: int) -> list[Sequence[Prompt]]:
    return [prompts[start : start + size] for start in range(0, len(prompts), size)]


def _request(prompt: Prompt, index: int, seed: int) -> Request:
    messages = [{"role": m.role, "content": m.content} for m in prompt.messages]
    return Request(prompt.id, messages, index, response_seed(seed, prompt.id, index))


def model_content(model: str) -> list[tuple[str, str]] | str:
    """What a model's texts depend on: name and sha256 of a folder's files, wherever it lies; of a
    hub id its name."""
    files = sorted(file for file in Path(model).glob("*.*") if file.is_file())
    return [(file.name, file_sha256(file)) for file in files] or model


def _fingerprint(model: str, engine: str, prompts: Sequence[Prompt], config: SamplingConfig) -> str:
    """A digest of all that the text depends on: a chunk of another model or config is not kept."""
    texts = [prompt.model_dump(include={"id", "messages"}) for prompt in prompts]
    whole = json.dumps([model_content(model), engine, config.model_dump(), texts])
    return hashlib.sha256(whole.encode()).hexdigest()


class _Unfinished:
    """The finished chunks of a run that is not: a fingerprint, then one line per chunk.

    One process at a time may have it open; its lock ends with the process, however that ends.
    Use as a context manager. Raises SamplingError where another one samples into the same file.
    """

    def __init__(self, out: Path, fingerprint: str) -> None:
        self.path = out.with_name(out.name + ".unfinished")
        self._header = json.dumps({"fingerprint": fingerprint}).encode() + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise SamplingError(
                f"{out}: another process samples into this file; wait for it or stop it"
            ) from error

    def read(self) -> list[dict[str, Any]]:
        """The whole chunks that belong to this run; all else in the file is cut away."""
        self._file.seek(0)
        lines = self._file.readlines()
        whole = [line for line in lines[1:] if line.endswith(b"\n")]  # the last may be half written
        if lines and lines[0] == self._header:
            self._file.truncate(len(lines[0]) + sum(map(len, whole)))
            return [json.loads(line) for line in whole]
        if whole:
            print(
                f"{self.path}: is of other prompts, settings or another model; sampling anew",
                file=sys.stderr,
            )
        self._file.truncate(0)
        self._write(self._header)
        return []

    def append(self, chunk: dict[str, Any]) -> None:
        self._write(json.dumps(chunk).encode() + b"\n")

    def _write(self, line: bytes) -> None:
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> _Unfinished:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _collect(
    job: Job, kept: _Unfinished, prompts: int, size: int, process: SamplerProcess | None
) -> list[dict[str, Any]]:
    """Run the job in a process of its own, or in one that stays; every chunk is on disk before it
    counts."""
    log = process.log if process else kept.path.with_suffix(".log")
    working = process.working_on(job) if process else _worker(job, log)
    arrived: list[dict[str, Any]] = []
    tokens = seconds = 0.0
    done = job.start
    with progress("sampling", prompts, "prompts") as report, working as messages:
        report(done * size, "loading the model")
        for message in messages:
            if "error" in message:
                raise SamplingError(f"sampling stopped: {message['error']}")
            if "responses" not in message:
                continue
            _keep(kept, message, (done + len(arrived)) * size, prompts)
            arrived.append(message)
            tokens += sum(response["tokens"] for response in message["responses"])
            seconds += message["seconds"]
            finished = min((done + len(arrived)) * size, prompts)
            report(finished, f"{tokens / seconds:.0f} tokens/s")
    if done + len(arrived) < len(job.chunks):
        raise SamplingError(
            "the sampler's process ended by itself, as it does when memory runs out (then lower "
            "kv_cache_gib or prompts_per_chunk); run again to go on "
            f"after {(done + len(arrived)) * size} of {prompts} prompts. Its log: {log}"
        )
    if not process:
        log.unlink()
    return arrived


def _keep(kept: _Unfinished, chunk: dict[str, Any], done: int, prompts: int) -> None:
    try:
        kept.append(chunk)
    except OSError as error:
        raise SamplingError(
            f"{kept.path}: cannot be written ({error.strerror}); make room and run again to go on "
            f"after {done} of {prompts} prompts"
        ) from error


class SamplerProcess:
    """A process that holds a model for one job after another; it starts with the first of them.

    log: where its output goes. After a job that failed, the next one starts a new process.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        self._process: subprocess.Popen[str] | None = None

    @contextmanager
    def working_on(self, job: Job) -> Iterator[Iterator[dict[str, Any]]]:
        """The messages that come while the job is done."""
        if self._process is None:
            self._process = _start(job.model, self.log)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            with suppress(BrokenPipeError):  # it died at once; the missing chunks are reported
                self._process.stdin.write(json.dumps(asdict(job)) + "\n")
                self._process.stdin.flush()  # left open: its end tells the process we are gone
            messages = map(json.loads, self._process.stdout)
            yield takewhile(lambda message: "done" not in message, messages)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the process and free its memory; may be called again."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        process.wait()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.close()
        with suppress(BrokenPipeError):
            process.stdin.close()


def _start(model: str, log: Path) -> subprocess.Popen[str]:
    quiet = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in its process: starts in 4 s instead of 17
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the default keeps a core for itself
        "GOMP_SPINCOUNT": "1000",  # waiting threads yield: spinning starves beside other work
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if Path(model).is_dir():
        quiet["HF_HUB_OFFLINE"] = "1"  # nothing to ask a hub for
    here = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    with log.open("w") as stderr:
        return subprocess.Popen(
            [sys.executable, "-m", "rlaif.generation.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=quiet | os.environ | {"PYTHONPATH": path},
            text=True,
            encoding="utf-8",
        )


@contextmanager
def _worker(job: Job, log: Path) -> Iterator[Iterator[dict[str, Any]]]:
    """The messages of a process that does this job alone; it is gone when the block ends."""
    process = SamplerProcess(log)
    try:
        with process.working_on(job) as messages:
            yield messages
    finally:
        process.close()


def _samples(
    prompts: Sequence[Prompt], chunks: Sequence[Sequence[Request]], done: Sequence[dict[str, Any]]
) -> list[Sample]:
    by_id = {prompt.id: prompt for prompt in prompts}
    return [
        Sample(
            prompt=by_id[request.prompt],
            index=request.index,
            response=response["text"],
            tokens=response["tokens"],
            complete=response["complete"],
            seed=request.seed,
            end_token=response.get("end_token", ""),  # files of earlier versions lack it
        )
        for requests, chunk in zip(chunks, done, strict=True)
        for request, response in zip(requests, chunk["responses"], strict=True)
    ]


def _speed_file(out: Path) -> Path:
    return out.with_suffix(".speed.json")
