"""DPO pairs per second: our trainer beside TRL's DPOTrainer (1.16, of the dev extra).

    python -m benchmarks.training.dpo_vs_trl [--full] [--data PAIRS.jsonl] [--batch 4] [--steps 4]
        [--max-tokens 512] [--dtype auto] [--threads N] [--rounds 2]

Both train the same model on the same pairs in the same order, as the same token ids, none cut;
AdamW without weight decay, the same learning rate falling linearly, the same clipping; gradient
checkpointing off; LoRA of one rank, alpha and targets that starts from the same weights, or with
--full all weights in float32. Both are timed from the end of one step to the end of the next, so
the first step is not counted; the median of all counted steps of all rounds is taken, and the
rounds alternate which side goes first.

The reference's log-probs: ours are computed once before the first step, the peer's in every step
(TRL's default). One epoch is run, which is the dearest case for ours: its pass is divided over
the steps and counted in. A second row of the peer computes them beforehand too
(precompute_ref_log_probs=True), counted in the same way; "steps alone" leaves that pass out. A
second epoch costs only "steps alone" on our side and on that row, and all again on the other.

Without --data the pairs are the worked examples of `hhh` after chats of others. Ours computes a
shared prompt once, so the gain grows with the prompts' share; their mean length is printed.

The last line is one JSON object: name, ours, peer, unit, ratio, against the peer's default.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks.peers import comparing, pairwise
from benchmarks.peers.sides import SideOutcome


def pairs_per_second(
    outcomes: Sequence[SideOutcome], batch: int, steps: int
) -> tuple[float, float]:
    """Pairs per second with the reference pass divided over the steps, and of the steps alone."""
    seconds = comparing.median_seconds(outcomes)
    passes = min(o.facts["reference_seconds"] for o in outcomes) / steps
    return batch / (seconds + passes), batch / seconds


def run(options: argparse.Namespace) -> dict[str, object]:
    """Measure ours, TRL, and TRL with precomputed reference log-probabilities."""
    job, work = pairwise.job_and_work(options, "dpo")
    job |= {"beta": 0.1}
    folder = comparing.folder(options)
    job = pairwise.prepared(job, work, folder)
    found = comparing.alternate(
        {
            "ours": pairwise.our_side(job),
            "TRL": pairwise.peer_side({**job, "precompute": False}),
            "TRL precomputing": pairwise.peer_side({**job, "precompute": True}),
        },
        options.rounds,
        folder,
    )
    speed = {n: pairs_per_second(o, options.batch, options.steps) for n, o in found.items()}
    print(f"{comparing.described(options, job)}; {work.described()}; {options.threads} threads")
    apart = comparing.show_losses(found["ours"][0], found["TRL"][0])
    ours = speed["ours"]
    comparing.show_table(
        ("side", "pairs/s", "ours is", "steps alone", "ours is", "peak GiB"),
        [
            (
                name,
                f"{whole:.3f}",
                f"{ours[0] / whole:.2f}x",
                f"{alone:.3f}",
                f"{ours[1] / alone:.2f}x",
                f"{comparing.peak_gib(found[name]):.2f}",
            )
            for name, (whole, alone) in speed.items()
        ],
    )
    return {
        "name": f"DPO, {comparing.described(options, job)}, {work.described()}",
        "ours": round(ours[0], 4),
        "peer": round(speed["TRL"][0], 4),
        "unit": "pairs/s",
        "ratio": round(ours[0] / speed["TRL"][0], 2),
        "ratio_to_precomputing_peer": round(ours[0] / speed["TRL precomputing"][0], 2),
        "ratio_of_steps_alone": round(ours[1] / speed["TRL precomputing"][1], 2),
        "largest_loss_difference": apart,
        "peak_gib": {n: round(comparing.peak_gib(o), 2) for n, o in found.items()},
        "threads": options.threads,
    }


if __name__ == "__main__":
    options = pairwise.options_of(__doc__)
    comparing.finish(run(options), options.out)
