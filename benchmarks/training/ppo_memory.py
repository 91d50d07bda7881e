"""What PPO holds in memory over SFT of the same model and batch: ours, and TRL 1.12 beside it.

    python -m benchmarks.training.ppo_memory [--full] [--data PROMPTS.jsonl] [--prompts 8]
        [--response-tokens 48] [--value head] [--dtype auto] [--threads N]

The textbook keeps four models for PPO: policy, reference, value, reward. Each side runs two
iterations of PPO and, in a process of its own, two steps of SFT on one batch of the same shape: as
many rows, of the same prompts with as many response tokens, all in one optimizer step. LoRA on
policy and value model, or with --full all their weights; gradient checkpointing off. Both sides
sample with transformers; ours with vLLM is shown beside, where it is installed: a second engine
with weights and a cache of its own, as large as the responses need, which is what its speed costs.
--value head: V off the policy's own hidden states; adapter: a LoRA role of its own, as the peer's
value model is a model of its own.

"peak" is the most that was resident at any time, loading included (on a GPU: held by torch), and
"over imports" the same less what the process held before it loaded a model: a few hundred MiB of
libraries flatter the plain ratio. Ratios are PPO's over SFT's of the same side.

The last line is one JSON object: name, ours and peer (the ratios of peaks), unit, ratio (how many
times ours the peer's is), and the GiB.
"""

from __future__ import annotations

import argparse
import importlib.util

from benchmarks.peers import comparing, rolling
from benchmarks.peers.sides import SideOutcome
from benchmarks.peers.trl_environment import python_with_trl_112


def run(options: argparse.Namespace) -> dict[str, object]:
    """Measure the peaks of PPO and SFT on each side, in one round."""
    python = python_with_trl_112()
    folder = comparing.folder(options)
    options.update_batch = options.prompts  # one optimizer step, as SFT's
    job = rolling.job_of(options, folder, iterations=2)
    job["engine"] = "transformers"
    rolling.prepare(job, folder)
    sft = rolling.sft_job(job, folder)
    sides = {
        "ours, SFT": comparing.side("our_training", sft),
        "ours, PPO": comparing.side("our_ppo", job),
        "TRL 1.12, SFT": comparing.side("trl_training", sft, python),
        "TRL 1.12, PPO": comparing.side("trl_ppo", job, python),
    }
    if importlib.util.find_spec("vllm") is not None:
        sides["ours, PPO with vLLM"] = comparing.side("our_ppo", {**job, "engine": "vllm"})
    found = {name: each[0] for name, each in comparing.alternate(sides, 1, folder).items()}
    print(rolling.described(options, job))
    ratios = {name: of_sft(name, found) for name in found}
    comparing.show_table(
        ("side", "peak GiB", "of its SFT", "over imports GiB", "of its SFT"),
        [
            (
                name,
                f"{outcome.peak_gib:.2f}",
                f"{ratios[name][0]:.2f}x",
                f"{over_imports(outcome):.2f}",
                f"{ratios[name][1]:.2f}x",
            )
            for name, outcome in found.items()
        ],
    )
    ours, peer = ratios["ours, PPO"][0], ratios["TRL 1.12, PPO"][0]
    return {
        "name": f"peak memory of PPO over SFT's, {rolling.described(options, job)}",
        "ours": round(ours, 2),
        "peer": round(peer, 2),
        "unit": "PPO's peak / SFT's peak",
        "ratio": round(peer / ours, 2),
        "over_imports": {name: round(each[1], 2) for name, each in ratios.items()},
        "peak_gib": {name: round(outcome.peak_gib, 2) for name, outcome in found.items()},
        "value": options.value,
    }


def of_sft(name: str, found: dict[str, SideOutcome]) -> tuple[float, float]:
    """Peak, and peak over imports, as multiples of the same side's SFT."""
    own = found[f"{name.split(', ')[0]}, SFT"]
    outcome = found[name]
    return outcome.peak_gib / own.peak_gib, over_imports(outcome) / over_imports(own)


def over_imports(outcome: SideOutcome) -> float:
    """Peak memory above what the imports take, GiB."""
    return outcome.peak_gib - float(outcome.facts["floor_gib"])


def main() -> None:
    parser = comparing.parser(__doc__)
    rolling.add_options(parser, prompts=8, response_tokens=48)
    options = parser.parse_args()
    comparing.finish(run(options), options.out)


if __name__ == "__main__":
    main()
