"""Judge reads per second: our engine (vLLM, prefix caching) beside a padded transformers forward.

The same prompts, to the token, for both: the worked examples of the shipped constitution `hhh`,
in both orders, under PRINCIPLES principles each. The peer is what one would write by hand: batches
of equal-length-sorted prompts, left-padded, one forward, the last position's log-softmax. Rounds
alternate; the first of each is discarded. Every round uses other texts, so that no round finds
another's prefixes in the cache.

The last line is one JSON object: name, ours, peer, unit, ratio, and how far the numbers agree.

    python benchmarks/reads_vs_transformers.py --model smollm2-135m --rounds 3
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from constitution import Constitution
from judge_service.engines.vllm import VLLMEngine
from judge_service.prompting import READINGS
from judge_service.template import Template
from rlaif import models

PAIRS, PRINCIPLES, BATCH = 8, 4, 8


def prompts_of_round(template: Template, law: Constitution, place: int) -> list[list[int]]:
    """PAIRS comparisons x both orders x PRINCIPLES suffixes, with texts no other round has."""
    examples = [example for principle in law.principles for example in principle.examples][:PAIRS]
    found = []
    for example in examples:
        a, b = (f"{text} ({place})" for text in (example.response_a, example.response_b))
        for first, second in ((a, b), (b, a)):
            prefix = template.prefix(example.conversation, (first, second)).ids
            for principle in law.principles[:PRINCIPLES]:
                found.append([*prefix, *template.suffix(principle.compare)])
    return found


async def read_ours(
    engine: VLLMEngine, prompts: list[list[int]], labels: tuple[int, ...]
) -> list[tuple[float, ...]]:
    """As the judge does: each prefix's first principle goes ahead of the others."""

    async def one_prefix(group: list[list[int]]) -> list[tuple[float, ...]]:
        first = await engine.read(group[0], labels)
        rest = await asyncio.gather(*(engine.read(prompt, labels) for prompt in group[1:]))
        return [answer.logprobs for answer in (first, *rest)]

    groups = [prompts[i : i + PRINCIPLES] for i in range(0, len(prompts), PRINCIPLES)]
    return [answer for group in await asyncio.gather(*map(one_prefix, groups)) for answer in group]


@torch.inference_mode()
def read_peer(
    model: torch.nn.Module, prompts: list[list[int]], labels: tuple[int, ...]
) -> list[tuple[float, ...]]:
    device = next(model.parameters()).device
    answers: dict[int, tuple[float, ...]] = {}
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(prompts), BATCH):
        rows = by_length[start : start + BATCH]
        width = max(len(prompts[i]) for i in rows)
        ids = torch.zeros((len(rows), width), dtype=torch.long)  # (B, T), left-padded
        mask = torch.zeros_like(ids)
        for place, i in enumerate(rows):
            ids[place, width - len(prompts[i]) :] = torch.tensor(prompts[i])
            mask[place, width - len(prompts[i]) :] = 1
        logits = model(
            input_ids=ids.to(device), attention_mask=mask.to(device), logits_to_keep=1
        ).logits[:, -1]  # (B, V)
        logprobs = logits.float().log_softmax(-1)[:, list(labels)].cpu()
        for place, i in enumerate(rows):
            answers[i] = tuple(logprobs[place].tolist())
    return [answers[i] for i in range(len(prompts))]


async def measure(name: str, rounds: int) -> dict[str, object]:
    folder = models.resolve(name)
    law = Constitution.load("hhh")
    engine = VLLMEngine(folder, kv_cache_gib=1.0)
    await engine.start()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").to(device).eval()
    template = Template(engine.tokenizer, READINGS["pairwise"].direct)
    labels = template.label_ids
    ours, peer, gaps = [], [], []
    try:
        for place in range(rounds + 1):
            prompts = prompts_of_round(template, law, place)
            start = time.perf_counter()
            from_ours = await read_ours(engine, prompts, labels)
            between = time.perf_counter()
            from_peer = read_peer(model, prompts, labels)
            end = time.perf_counter()
            if place:  # the first round warms both up
                ours.append(len(prompts) / (between - start))
                peer.append(len(prompts) / (end - between))
            gaps += [
                abs(a - b)
                for one, other in zip(from_ours, from_peer, strict=True)
                for a, b in zip(one, other, strict=True)
            ]
            print(f"round {place}: ours {len(prompts) / (between - start):.2f} reads/s, "
                  f"peer {len(prompts) / (end - between):.2f} reads/s")  # fmt: skip
    finally:
        await engine.close()
    return {
        "name": f"judge reads, {name}, {PRINCIPLES} principles x 2 orders, {device}",
        "ours": round(statistics.median(ours), 2),
        "peer": round(statistics.median(peer), 2),
        "unit": "reads/s",
        "ratio": round(statistics.median(ours) / statistics.median(peer), 2),
        "mean_abs_logprob_difference": round(statistics.mean(gaps), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write the JSON object here")
    options = parser.parse_args()
    result = json.dumps(asyncio.run(measure(options.model, options.rounds)))
    if options.out:
        options.out.write_text(result + "\n", encoding="utf-8")
    print(result)


if __name__ == "__main__":
    main()
