"""Cost of K principles: our prompts (data first, principle last) against independent ones.

    python -m benchmarks.judge.principles [--model smollm2-135m] [--data PAIRS.jsonl] [--pairs 6]
        [--prompt-tokens 400 800] [--principles 1 4 16] [--json]

The longer the data, the more is shared: --prompt-tokens keeps pairs whose conversation and
responses have a number of tokens in this range; the mean is printed. Without --data the pairs are
the worked examples of `hhh`, each after a chat of other examples of that length.

Three kinds of prompts, on the same engine, settings and pairs, in both orders:

    shared        the judge as shipped: a prefix per order, computed once, then K suffixes
    principle 1st the order of Constitutional AI: the principle before the options, so that little
                  more than the system message is shared
    independent   our prompts, each computed from its first token on (no cache hits)

"independent" starts every prompt with a unique token, so that no block matches, as on an engine
without a prefix cache. The cache is emptied before each measurement. Accuracy, with --data, is that
of the averaged orders; "longer" is the accuracy of picking the longer response.

The last line is one JSON object: name, ours, peer, unit, ratio, for the largest K.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from constitution import Constitution
from constitution.schema import Message
from judge_service.engine import LabelLogprobs
from judge_service.engines.vllm import VLLMEngine
from judge_service.judge.calibration_metrics import accuracy
from judge_service.judge.label_probs import PROTOCOLS, interpret
from judge_service.judge.prompt_runner import run_prompts
from judge_service.judge.prompts import PROTOCOL_PROMPTS
from judge_service.judge.template import Prefix, Template
from judge_service.types import Comparison, Order
from rlaif.labels.calibrate import GoldPair, comparison, load_gold, longer_is_right
from rlaif.models import catalog

PAIR = PROTOCOL_PROMPTS["pairwise"].direct


@dataclass(frozen=True)
class Measurement:
    """Speed of judging all pairs under K principles, and P(A) of each pair."""

    judgments_per_second: float
    cached_share: float
    probs: tuple[float, ...]


ReadPair = Callable[[VLLMEngine, Comparison, Sequence[str]], Awaitable[list[list[LabelLogprobs]]]]
"""(engine, pair, principles) -> the answers of order AB and of order BA, one per principle."""


def replies(pair: Comparison) -> dict[Order, tuple[str, str]]:
    """The pair's responses in the order in which each prompt shows them."""
    return {
        Order.AB: (pair.response_a, pair.response_b),
        Order.BA: (pair.response_b, pair.response_a),
    }


async def shared(
    engine: VLLMEngine, pair: Comparison, principles: Sequence[str]
) -> list[list[LabelLogprobs]]:
    """All principles after one prefix, as the judge reads them."""
    template = Template(engine.tokenizer, PAIR)
    prefixes = {o: template.prefix(pair.conversation, r) for o, r in replies(pair).items()}
    suffixes = [template.suffix(principle) for principle in principles]

    async def read(_: Order, prompt: tuple[int, ...]) -> LabelLogprobs:
        return await engine.read(prompt, template.label_ids)

    answers = await run_prompts(prefixes, suffixes, read)
    return [[answers[order, k] for k in range(len(principles))] for order in prefixes]


async def independent(
    engine: VLLMEngine, pair: Comparison, principles: Sequence[str]
) -> list[list[LabelLogprobs]]:
    """The same prompts with a unique first token each, so that none shares a prefix."""
    template = Template(engine.tokenizer, PAIR)
    suffixes = [template.suffix(principle) for principle in principles]

    async def read(prefix: Prefix, suffix: tuple[int, ...]) -> LabelLogprobs:
        global _unique_token
        _unique_token += 1
        return await engine.read((_unique_token, *prefix.ids, *suffix), template.label_ids)

    prefixes = [template.prefix(pair.conversation, r) for r in replies(pair).values()]
    return [list(await asyncio.gather(*(read(p, s) for s in suffixes))) for p in prefixes]


_unique_token = 1000  # ordinary tokens, a new one for every prompt


async def principle_first(
    engine: VLLMEngine, pair: Comparison, principles: Sequence[str]
) -> list[list[LabelLogprobs]]:
    """The principle in the system message, before everything else."""

    async def read(order: Order, principle: str) -> LabelLogprobs:
        spec = replace(PAIR, system=f"The principle is: {principle.strip()} {PAIR.system}")
        template = Template(engine.tokenizer, spec)
        prefix = template.prefix(pair.conversation, replies(pair)[order])
        return await engine.read((*prefix.ids, *template.suffix("")), template.label_ids)

    return [list(await asyncio.gather(*(read(o, p) for p in principles))) for o in Order]


PROMPT_KINDS: dict[str, ReadPair] = {
    "shared": shared,
    "principle first": principle_first,
    "independent": independent,
}


async def measure(
    engine: VLLMEngine, read_pair: ReadPair, pairs: Sequence[Comparison], principles: Sequence[str]
) -> Measurement:
    """Judge all pairs under these principles, from an empty prefix cache."""
    await engine.forget_prefixes()
    started = time.perf_counter()
    answers = await asyncio.gather(*(read_pair(engine, pair, principles) for pair in pairs))
    seconds = time.perf_counter() - started
    reads = [read for of_pair in answers for of_order in of_pair for read in of_order]
    return Measurement(
        judgments_per_second=len(pairs) / seconds,
        cached_share=sum(r.cached_tokens for r in reads) / sum(r.prompt_tokens for r in reads),
        probs=tuple(map(averaged, answers)),
    )


def averaged(answers: Sequence[Sequence[LabelLogprobs]]) -> float:
    """P(A) over both orders, with equal weights over the principles."""
    probs = []
    for k in range(len(answers[0])):
        reads = [interpret(of_order[k], o, "") for o, of_order in zip(Order, answers, strict=True)]
        prob = PROTOCOLS["pairwise"]([read for read in reads if read is not None])
        probs.append(0.5 if prob is None else prob)
    return sum(probs) / len(probs)


def example_pairs(earlier: int) -> list[GoldPair]:
    """The worked examples of the shipped constitution `hhh`, each after `earlier` others."""
    constitution = Constitution.load("hhh")
    examples = [e for principle in constitution.principles for e in principle.examples]
    exchanges: list[tuple[tuple[Message, ...], str, str]] = []
    for example in (e for e in examples if e.preferred != "TIE"):
        a_first = example.preferred == "A"
        good, bad = example.response_a, example.response_b
        if not a_first:
            good, bad = bad, good
        exchanges.append((example.conversation, good, bad))
    pairs = []
    for n, (question, good, bad) in enumerate(exchanges):
        before = [exchanges[(n + 5 * i) % len(exchanges)] for i in range(1, earlier + 1)]
        chat = [m for prompt, reply, _ in before for m in (*prompt, _assistant(reply))]
        pairs.append(GoldPair(id=str(n), prompt=(*chat, *question), chosen=good, rejected=bad))
    return pairs


def _assistant(reply: str) -> Message:
    return Message(role="assistant", content=reply)


def choose_pairs(
    engine: VLLMEngine, data: Path | None, tokens: tuple[int, int], count: int
) -> tuple[list[GoldPair], float]:
    """Up to `count` pairs whose prefix length is in the range `tokens`, and its mean."""
    template = Template(engine.tokenizer, PAIR)
    candidates = load_gold(data) if data else [p for n in range(3, 9) for p in example_pairs(n)]
    least, most = tokens
    fitting: dict[str, tuple[GoldPair, int]] = {}
    for pair in candidates:
        length = len(template.prefix(pair.prompt, (pair.chosen, pair.rejected)).ids)
        if least <= length <= most:
            fitting.setdefault(pair.id, (pair, length))
    chosen = list(fitting.values())[:: max(1, len(fitting) // count)][:count]
    if not chosen:
        raise SystemExit(f"no pair has from {least} to {most} tokens; widen --prompt-tokens")
    return [pair for pair, _ in chosen], sum(n for _, n in chosen) / len(chosen)


async def run(options: argparse.Namespace) -> dict[str, object]:
    """Measure each kind of prompt for each number of principles; returns the last result."""
    principles = [principle.compare for principle in Constitution.load("hhh").principles]
    engine = VLLMEngine(catalog.resolve(options.model), kv_cache_gib=options.kv_cache_gib)
    await engine.start()
    table = Table(
        "K", "prompts", "judgments/s", "cached", "against independent", "accuracy", "longer"
    )
    result: dict[str, object] = {}
    try:
        gold, length = choose_pairs(engine, options.data, options.prompt_tokens, options.pairs)
        pairs = [comparison(pair) for pair in gold]

        # "independent" is the baseline of each K.
        for k in options.principles:
            measured = {
                name: await measure(engine, read_pair, pairs, principles[:k])
                for name, read_pair in PROMPT_KINDS.items()
            }
            base = measured["independent"].judgments_per_second
            for name, measurement in measured.items():
                right = [
                    p if pair.response_a == known.chosen else 1.0 - p
                    for p, pair, known in zip(measurement.probs, pairs, gold, strict=True)
                ]
                table.add_row(
                    str(k),
                    name,
                    f"{measurement.judgments_per_second:.3f}",
                    f"{measurement.cached_share:.0%}",
                    f"{measurement.judgments_per_second / base:.2f}x",
                    f"{accuracy(right):.2f}",
                    f"{longer_is_right(gold):.2f}",
                )
            ours = measured["shared"]
            result = {
                "name": f"judgments with {k} principles x 2 orders, {options.model}, "
                f"{len(pairs)} pairs of {length:.0f} tokens",
                "ours": round(ours.judgments_per_second, 4),
                "peer": round(base, 4),
                "unit": "judgments/s",
                "ratio": round(ours.judgments_per_second / base, 2),
                "cached_share": round(ours.cached_share, 3),
            }
    finally:
        await engine.close()
    if not options.json:
        Console(width=110).print(table)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", type=Path, help="gold pairs (JSONL)")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--prompt-tokens", type=int, nargs=2, default=(400, 800))
    parser.add_argument("--principles", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--kv-cache-gib", type=float, default=2.0)
    parser.add_argument("--json", action="store_true", help="print only the last line")
    print(json.dumps(asyncio.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
