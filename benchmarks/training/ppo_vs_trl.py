"""PPO iterations, responses per second: our trainer beside TRL's PPOTrainer (1.12, its last).

    python -m benchmarks.training.ppo_vs_trl [--full] [--data PROMPTS.jsonl] [--prompts 8]
        [--response-tokens 48] [--group 1] [--update-batch 4] [--epochs 1] [--value head]
        [--engine auto] [--iterations 4] [--dtype auto] [--threads N] [--rounds 2]

TRL 1.12 gets an environment of its own under the cache folder (RLAIF_CACHE), made on the first
run; torch, transformers and peft are this environment's, so both sides compute with the same.

Both take the same prompts in every iteration, one response each by default, from the same model
made never to end a response by itself: all responses have --response-tokens tokens. Temperature 1,
nothing cut off the distribution. The score comes from a model of the same size with a scalar head,
the same weights on both sides (the peer takes nothing but such a module); the head is random, since
what it says changes nothing of the work. As many passes over a rollout and as many optimizer steps
on as many responses; AdamW without weight decay, one learning rate falling linearly; gradient
checkpointing off. LoRA on policy and value model of one rank, alpha and targets, or with --full all
weights of both in float32. Guards that would skip updates are off.

The value function is not the same work: ours is by default a head on the policy's own hidden states
(rlaif/algorithms/ppo/critic.py), which spares a forward per rollout and half of every update; the
peer has a value model of its own and no such choice. --value adapter gives ours one too, like for
like.

An iteration is timed from the end of the one before to its own, so the first is not counted; the
median of all counted iterations of all rounds is taken, and the rounds alternate which side goes
first. Generation (with ours the hand-over of weights to the engine included) and updates are timed
apart; "between" is the rest: score, reference, values, log-probs, advantages. The two samplers draw
other responses, and ours scores the text closed by an end token where the peer scores the tokens as
drawn, so there are no equal curves to show; each side's mean score and KL from the reference are
printed, and the KL of the first iteration says how far its log-probs agree with themselves: 0 would
be exact.

With --group N, as group baselines have it, N responses are drawn to each of so many fewer prompts:
ours computes a prompt once for them (rlaif/batching/prefix_sharing.py), the peer gets it N times.

Without --data the prompts are those that ship, and the worked examples of `hhh` after others.

The last line is one JSON object: name, ours, peer, unit, ratio, and the parts in seconds.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from itertools import chain

from benchmarks.peers import comparing, rolling
from benchmarks.peers.sides import SideOutcome
from benchmarks.peers.trl_environment import python_with_trl_112


def parts(outcomes: Sequence[SideOutcome]) -> dict[str, float]:
    """Median seconds of an iteration and of its parts."""

    def median(name: str) -> float:
        return statistics.median(chain.from_iterable(o.facts[name] for o in outcomes))

    generation, update = median("generation_seconds"), median("update_seconds")
    whole = comparing.median_seconds(outcomes)
    between = max(0.0, whole - generation - update)
    return {"whole": whole, "generation": generation, "between": between, "update": update}


def run(options: argparse.Namespace) -> dict[str, object]:
    """Measure ours beside TRL's PPO, part by part."""
    python = python_with_trl_112()
    folder = comparing.folder(options)
    job = {
        **rolling.job_of(options, folder, options.iterations, options.group),
        "engine": options.engine,
    }
    rolling.prepare(job, folder)
    sides = {
        "ours": comparing.side("our_ppo", job),
        "TRL 1.12": comparing.side("trl_ppo", job, python),
    }
    found = comparing.alternate(sides, options.rounds, folder)
    for name, outcomes in found.items():
        if any(o.facts["response_length"] < options.response_tokens for o in outcomes):
            raise SystemExit(f"{name}: some responses were shorter than --response-tokens")
    spent = {name: parts(outcomes) for name, outcomes in found.items()}
    speed = {name: len(job["prompts"]) / each["whole"] for name, each in spent.items()}
    engine = found["ours"][0].facts["engine"]
    print(f"{rolling.described(options, job)}; ours samples with {engine}, value {options.value}")
    for name, outcomes in found.items():
        pairs = zip(outcomes[0].losses, outcomes[0].facts["kl_k1"], strict=True)
        print(f"  {name}: score, KL  " + "  ".join(f"{s:.2f}, {kl:.3f}" for s, kl in pairs))
    comparing.show_table(
        ("side", "responses/s", "ours is", "generation s", "between s", "updates s", "peak GiB"),
        [
            (
                name,
                f"{speed[name]:.3f}",
                f"{speed['ours'] / speed[name]:.2f}x",
                *(f"{spent[name][part]:.2f}" for part in ("generation", "between", "update")),
                f"{comparing.peak_gib(found[name]):.2f}",
            )
            for name in found
        ],
    )
    ours, peer = speed["ours"], speed["TRL 1.12"]
    return {
        "name": f"PPO iterations, {rolling.described(options, job)}, {engine}, "
        f"value {options.value}",
        "ours": round(ours, 4),
        "peer": round(peer, 4),
        "unit": "responses/s",
        "ratio": round(ours / peer, 2),
        "seconds": {n: {p: round(s, 2) for p, s in each.items()} for n, each in spent.items()},
        "peak_gib": {n: round(comparing.peak_gib(o), 2) for n, o in found.items()},
        "value": options.value,
        "threads": options.threads,
    }


def main() -> None:
    parser = comparing.parser(__doc__)
    rolling.add_options(parser, prompts=8, response_tokens=48)
    parser.add_argument("--engine", choices=("auto", "vllm", "transformers"), default="auto")
    parser.add_argument("--group", type=int, default=1, help="responses to each prompt")
    parser.add_argument("--iterations", type=int, default=4, help="the first is not counted")
    options = parser.parse_args()
    if options.iterations < 2:
        parser.error("--iterations: at least 2, since the first is not counted")
    comparing.finish(run(options), options.out)


if __name__ == "__main__":
    main()
