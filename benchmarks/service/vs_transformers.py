"""Judgments per second: the service against a padded, batched transformers forward.

    python -m benchmarks.service.vs_transformers [--model smollm2-135m] [--pairs 6]
        [--principles 8] [--earlier 4] [--batch 8] [--rounds 2]

A judgment is both orders of a pair under every principle. Ours is end to end: texts from a client
in another process, over gRPC in one stream, a store on disk, votes and receipts returned. The peer
is what one would write by hand: the same prompts, to the token and prepared in advance, in batches
of similar length, left-padded, one forward, log-softmax of the last position; its averaging is not
timed. Both use the dtype of the model's config.json.

Rounds alternate which goes first; the first round is warm-up and is not counted. The texts of each
round are unique, so neither cache nor store has them. The result includes the agreement of the two:
the mean absolute difference of P(A is better) over the pairs.

The last line is one JSON object: name, ours, peer, unit, ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.service.served_judge import (
    ServedResult,
    Service,
    first_principles,
    pairs_of_round,
    prompts_of,
    serving,
)
from constitution import Constitution
from judge_service.engine import LabelLogprobs
from judge_service.judge import aggregation
from judge_service.judge.label_probs import interpret
from judge_service.types import Order
from rlaif.models import catalog


@torch.inference_mode()
def read_peer(
    model: Any, prompts: Sequence[tuple[int, ...]], labels: tuple[int, ...], batch: int
) -> list[tuple[float, ...]]:
    """Log-probabilities of the labels after each prompt."""
    device = next(model.parameters()).device
    answers: dict[int, tuple[float, ...]] = {}
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(prompts), batch):
        rows = by_length[start : start + batch]
        width = max(len(prompts[i]) for i in rows)
        ids = torch.zeros((len(rows), width), dtype=torch.long)  # (B, T), left-padded
        mask = torch.zeros_like(ids)
        for row, i in enumerate(rows):
            ids[row, width - len(prompts[i]) :] = torch.tensor(prompts[i])
            mask[row, width - len(prompts[i]) :] = 1
        logits = model(
            input_ids=ids.to(device), attention_mask=mask.to(device), logits_to_keep=1
        ).logits[:, -1]  # (B, V)
        logprobs = logits.float().log_softmax(-1)[:, list(labels)].cpu()
        for row, i in enumerate(rows):
            answers[i] = tuple(logprobs[row].tolist())
    return [answers[i] for i in range(len(prompts))]


def prob_a(reads: Sequence[tuple[float, ...]], constitution: Constitution) -> float:
    """P(A better) of one pair from its reads in order AB, then BA, averaged as the judge does."""
    k = len(constitution.principles)
    of_order = {Order.AB: reads[:k], Order.BA: reads[k:]}
    votes = [
        aggregation.vote(
            principle,
            [interpret(LabelLogprobs(of_order[o][i], 0, 0), o, "") for o in of_order],
            min_label_mass=0.0,
        )
        for i, principle in enumerate(constitution.principles)
    ]
    return aggregation.weighted_prob(
        [v for v in votes if v is not None], constitution.trait_weights
    )


async def one_round(
    service: Service, model: Any, options: argparse.Namespace, number: int
) -> tuple[float, float, float, float]:
    """(our judgments per second, the peer's, their mean difference in P(A), cached share)."""
    from judge_service.engines.warmup import warmup_prompt

    pairs = pairs_of_round(options.pairs, options.earlier, number)
    prompts = prompts_of(service.engine, pairs, service.constitution)
    labels = warmup_prompt(service.engine.tokenizer, options.model)[1]
    every = [prompt for of_pair in prompts for of_order in of_pair for prompt in of_order]

    async def ours() -> tuple[float, ServedResult]:
        result = await service.judge(pairs, use_store=True)
        return result.seconds, result

    def peer() -> tuple[float, list[tuple[float, ...]]]:
        started = time.perf_counter()
        reads = read_peer(model, every, labels, options.batch)
        return time.perf_counter() - started, reads

    if number % 2:
        our_seconds, result = await ours()
        peer_seconds, reads = peer()
    else:
        peer_seconds, reads = peer()
        our_seconds, result = await ours()
    assert result.reads == len(every)
    per_pair = len(every) // len(pairs)
    of_peer = [
        prob_a(reads[i * per_pair : (i + 1) * per_pair], service.constitution)
        for i in range(len(pairs))
    ]

    # How far the two agree.
    difference = statistics.mean(abs(a - b) for a, b in zip(result.probs, of_peer, strict=True))
    rates = len(pairs) / our_seconds, len(pairs) / peer_seconds
    print(f"round {number}: ours {rates[0]:.3f}, peer {rates[1]:.3f} judgments/s; {len(every)} "
          f"prompts of {sum(map(len, every)) / len(every):.0f} tokens", flush=True)  # fmt: skip
    return *rates, difference, result.cached_tokens / result.prompt_tokens


async def measure(options: argparse.Namespace) -> dict[str, object]:
    """Medians over the rounds, as the result object; one round before them is not counted."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = catalog.resolve(options.model)
    constitution = first_principles(options.principles)
    async with serving(options.model, constitution, options.kv_cache_gib) as service:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").to(device).eval()
        rounds = [await one_round(service, model, options, n) for n in range(options.rounds + 1)]
    ours, peer, difference, cached = (statistics.median(c) for c in zip(*rounds[1:], strict=True))
    return {
        "name": f"judgments over gRPC beside padded transformers, {options.model}, {device}, "
        f"{options.pairs} pairs x 2 orders x {options.principles} principles",
        "ours": round(ours, 4),
        "peer": round(peer, 4),
        "unit": "judgments/s",
        "ratio": round(statistics.median(r[0] / r[1] for r in rounds[1:]), 2),
        "cached_share": round(cached, 3),
        "mean_abs_prob_difference": round(difference, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--principles", type=int, default=8)
    parser.add_argument("--earlier", type=int, default=4, help="exchanges before each question")
    parser.add_argument("--batch", type=int, default=8, help="prompts of one forward of the peer")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--kv-cache-gib", type=float, default=1.0)
    parser.add_argument("--out", type=Path, help="also write the JSON object here")
    options = parser.parse_args()
    result = json.dumps(asyncio.run(measure(options)))
    if options.out:
        options.out.write_text(result + "\n", encoding="utf-8")
    print(result)


if __name__ == "__main__":
    main()
