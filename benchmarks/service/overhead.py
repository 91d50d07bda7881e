"""Overhead of the service: judge reads per second over gRPC against the bare engine.

    python -m benchmarks.service.overhead [--model smollm2-135m] [--pairs 16] [--principles 4]
        [--earlier 2] [--rounds 3]

Three modes on one AsyncLLM, in rotating order, each with an empty prefix cache:

    bare      the prompts' token ids directly into AsyncLLM.generate, with as many pairs in flight
              as a stream allows, and the first prompt of each prefix before the others, as the
              judge does; nothing is tokenized or parsed
    service   pairs of texts from a client in another process, over one stream: tokenized, judged,
              stored on disk, answered with votes and receipts
    bypass    the same without the store (CACHE_MODE_BYPASS)

All three read the same prompts, to the token, as the digests in the receipts prove. The texts of
each round are new to the store. The client shares the machine's cores with the engine.

The last line is one JSON object: name, ours, peer, unit, ratio; medians over the rounds, of which
the first, a warm-up, is not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
import uuid
from pathlib import Path
from typing import Any

from benchmarks.service.served_judge import (
    Prompts,
    Service,
    first_principles,
    pairs_of_round,
    prompts_of,
    serving,
)
from judge_service.judge.template import prompt_sha256
from judge_service.settings import ServerSettings

IN_FLIGHT = ServerSettings.model_fields["max_stream_in_flight"].default


async def bare(llm: Any, prompts: list[Prompts], label_ids: tuple[int, ...]) -> float:
    """Seconds for all prompts."""
    from vllm import SamplingParams
    from vllm.inputs import tokens_input
    from vllm.sampling_params import RequestOutputKind

    gate = asyncio.Semaphore(IN_FLIGHT)

    async def read(prompt: tuple[int, ...]) -> None:
        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            logprob_token_ids=list(label_ids),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        async for _ in llm.generate(tokens_input(list(prompt)), params, uuid.uuid4().hex):
            pass

    async def one_order(group: list[tuple[int, ...]]) -> None:
        # As the judge does: the first prompt fills the prefix cache for the others.
        await read(group[0])
        await asyncio.gather(*map(read, group[1:]))

    async def one_pair(groups: Prompts) -> None:
        async with gate:
            await asyncio.gather(*map(one_order, groups))

    started = time.perf_counter()
    await asyncio.gather(*map(one_pair, prompts))
    return time.perf_counter() - started


async def one_round(service: Service, options: argparse.Namespace, number: int) -> dict[str, float]:
    """Reads per second of each mode; the order of the modes rotates with the round."""
    from judge_service.engines.warmup import warmup_prompt

    pairs = pairs_of_round(options.pairs, options.earlier, number)
    prompts = prompts_of(service.engine, pairs, service.constitution)
    label_ids = warmup_prompt(service.engine.tokenizer, options.model)[1]
    every = [prompt for of_pair in prompts for of_order in of_pair for prompt in of_order]
    modes = ["bare", "service", "bypass"]
    rates = {}
    for mode in modes[number % 3 :] + modes[: number % 3]:
        await service.engine.forget_prefixes()
        if mode == "bare":
            seconds = await bare(service.engine._llm, prompts, label_ids)  # the very same engine
        else:
            result = await service.judge(pairs, use_store=mode == "service")
            assert result.reads == len(every), f"{result.reads} reads of {len(every)} were computed"
            digests = sorted(prompt_sha256(prompt, label_ids) for prompt in every)
            assert digests == sorted(result.digests), "the service read other prompts"
            seconds = result.seconds
        rates[mode] = len(every) / seconds
    summary = ", ".join(f"{mode} {rates[mode]:.2f}" for mode in modes)
    print(f"round {number}: reads/s {summary}; {len(every)} prompts of "
          f"{sum(map(len, every)) / len(every):.0f} tokens", flush=True)  # fmt: skip
    return rates


async def measure(options: argparse.Namespace) -> dict[str, object]:
    """Medians over the rounds, as the result object; one round before them is not counted."""
    constitution = first_principles(options.principles)
    async with serving(options.model, constitution, options.kv_cache_gib) as service:
        rounds = [await one_round(service, options, n) for n in range(options.rounds + 1)][1:]
    medians = {mode: statistics.median(r[mode] for r in rounds) for mode in rounds[0]}
    return {
        "name": f"judge reads over gRPC beside AsyncLLM, {options.model}, {options.pairs} pairs x "
        f"2 orders x {options.principles} principles",
        "ours": round(medians["service"], 2),
        "peer": round(medians["bare"], 2),
        "unit": "reads/s",
        "ratio": round(statistics.median(r["service"] / r["bare"] for r in rounds), 3),
        "ratio_without_store": round(statistics.median(r["bypass"] / r["bare"] for r in rounds), 3),
        "ratios": [round(r["service"] / r["bare"], 3) for r in rounds],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--principles", type=int, default=4)
    parser.add_argument("--earlier", type=int, default=2, help="exchanges before each question")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kv-cache-gib", type=float, default=1.0)
    parser.add_argument("--out", type=Path, help="also write the JSON object here")
    options = parser.parse_args()
    result = json.dumps(asyncio.run(measure(options)))
    if options.out:
        options.out.write_text(result + "\n", encoding="utf-8")
    print(result)


if __name__ == "__main__":
    main()
