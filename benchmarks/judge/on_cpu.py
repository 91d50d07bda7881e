"""A judge on a CPU: seconds per pair, time to the first label, latency of urgent calls under load.

    python -m benchmarks.judge.on_cpu [--model qwen2.5-coder-1.5b] [--data PAIRS.jsonl]
        [--pairs 16] [--urgent 5] [--ways float32 float32:256 float32:4096 bfloat16]
        [--seconds 600] [--out FILE]

Each of the --ways is a dtype and, after a colon, the prompt tokens of one engine step; without it,
as many as the server chooses. `float32:4096` is how engines without chunked prefill behave: one
step computes everything that waits. Each runs in its own server (`rlaif serve`, no store), called
over gRPC:

    bulk      the pairs in one stream, both orders, one principle: seconds to the first label and
              to all, and prompt tokens computed per second
    urgent    the same stream again with other pairs, and meanwhile interactive comparisons, one
              after the other: median and slowest

On a host that multiplies bfloat16 natively, `ONEDNN_MAX_CPU_ISA=AVX2` in the environment and
`--ways bfloat16` show the slow case of one that does not.

Without --data the pairs are the worked examples of `hhh`. Configurations that take longer than
--seconds are aborted and reported as such. The last line is one JSON object: figures per way.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from constitution import Constitution
from constitution.schema import Message
from judge_service.client.sync import JudgeClient
from judge_service.types import Comparison, JudgeOptions, Judgment
from rlaif.feedback.client import judge_client
from rlaif.labels.calibrate import comparison, load_gold

BULK = JudgeOptions(interactive=False, use_store=False)
URGENT = JudgeOptions(interactive=True, use_store=False)


@dataclass(frozen=True)
class Figures:
    """The result of one configuration; None if it was aborted. seconds: of `pairs` in bulk."""

    way: str
    dtype: str
    pairs: int
    first_label_s: float | None
    seconds: float | None
    seconds_per_pair: float | None
    tokens_per_second: float | None
    urgent_median_s: float | None
    urgent_slowest_s: float | None


def examples(number: int) -> list[Comparison]:
    """The worked examples of `hhh`, repeated with a remark that makes them new pairs."""
    worked = [
        (example.prompt, example.response_a, example.response_b)
        for principle in Constitution.load("hhh").principles
        for example in principle.examples
        if isinstance(example.prompt, str)
    ]
    pairs = []
    for n in range(number):
        prompt, a, b = worked[n % len(worked)]
        remark = f" (Question {n}.)" if n >= len(worked) else ""
        pairs.append(Comparison(str(n), (Message(role="user", content=prompt + remark),), a, b))
    return pairs


def measure(
    way: str, model: str, pairs: Sequence[Comparison], urgent: int, limit: float
) -> Figures:
    """Start a server for one configuration and measure it."""
    dtype, _, step = way.partition(":")
    flags = ["--dtype", dtype, "--no-store", *(("--step-tokens", step) if step else ())]
    half = len(pairs) // 2
    with (
        tempfile.TemporaryDirectory() as folder,
        judge_client(model, "overall", Path(folder) / "judge.log", flags=flags) as client,
    ):
        info = client.server_info()
        assert info.model is not None
        client.compare(pairs[0].conversation, "Yes.", "No.", options=URGENT)  # warm-up

        # Urgent calls only if bulk ended in time: else the server is still busy with it.
        first, seconds, tokens = within(limit, lambda: bulk(client, pairs[:half]))
        calls: list[float] = []
        if seconds is not None and urgent:
            calls = time_urgent_calls(client, pairs[half:], urgent)
    return Figures(
        way=way,
        dtype=info.model.dtype,
        pairs=half,
        first_label_s=first,
        seconds=seconds,
        seconds_per_pair=seconds and seconds / half,
        tokens_per_second=seconds and tokens / seconds,
        urgent_median_s=statistics.median(calls) if calls else None,
        urgent_slowest_s=max(calls, default=None),
    )


def within(limit, work):  # type: ignore[no-untyped-def]
    """The result of `work`, or Nones after `limit` seconds; its thread ends with the server."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(work).result(limit)
    except TimeoutError:
        return None, None, 0
    finally:
        pool.shutdown(wait=False)


def bulk(client: JudgeClient, pairs: Sequence[Comparison]) -> tuple[float, float, int]:
    """(seconds to the first label, to all of them, prompt tokens computed)."""
    start, first, tokens = time.monotonic(), 0.0, 0
    for _, answer in client.stream(pairs, options=BULK):
        assert isinstance(answer, Judgment), answer
        first = first or time.monotonic() - start
        tokens += answer.usage.prompt_tokens - answer.usage.cached_tokens
    return first, time.monotonic() - start, tokens


def time_urgent_calls(client: JudgeClient, pairs: Sequence[Comparison], urgent: int) -> list[float]:
    """Seconds of each urgent comparison while a bulk stream runs."""
    stream = threading.Thread(target=lambda: bulk(client, pairs))
    stream.start()
    time.sleep(1)  # its first items are in the engine
    seconds = []
    for n in range(urgent):
        if not stream.is_alive():
            break
        pair = replace(pairs[n], id="urgent")
        question = (Message(role="user", content=f"Urgent question {n}: why?"),)
        start = time.monotonic()
        client.compare(question, pair.response_a, pair.response_b, options=URGENT)
        seconds.append(time.monotonic() - start)
    stream.join()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="qwen2.5-coder-1.5b")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--urgent", type=int, default=5)
    parser.add_argument("--ways", nargs="+", default=["float32", "float32:256", "float32:4096"])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    pairs = examples(2 * options.pairs)
    if options.data:
        pairs = [comparison(gold) for gold in load_gold(options.data, 2 * options.pairs)]
    results = []
    for way in options.ways:
        figures = measure(way, options.model, pairs, options.urgent, options.seconds)
        results.append(asdict(figures))
        print(figures, flush=True)
    line = json.dumps({"name": "judge_on_cpu", "model": options.model, "ways": results})
    print(line)
    if options.out:
        options.out.write_text(line + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
