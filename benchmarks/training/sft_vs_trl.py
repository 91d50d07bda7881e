"""Supervised fine-tuning, responses per second: our trainer beside TRL's SFTTrainer (1.16).

    python -m benchmarks.training.sft_vs_trl [--full] [--data PAIRS.jsonl] [--batch 4] [--steps 4]
        [--max-tokens 512] [--dtype auto] [--threads N] [--rounds 2]

Both imitate the chosen responses of the same pairs in the same order, as the same token ids, none
cut, the loss on the response's tokens alone; AdamW without weight decay, the same learning rate
falling linearly, the same clipping; gradient checkpointing and packing off; LoRA of one rank, alpha
and targets that starts from the same weights, or with --full all weights in float32. Both are
timed from the end of one step to the end of the next, so the first step is not counted; the median
of all counted steps of all rounds is taken, and the rounds alternate which side goes first.

The difference is the head: ours computes logits for response tokens only, and in chunks; the peer
for every token of the padded batch. It grows with the prompts' share; their mean length is printed.

The last line is one JSON object: name, ours, peer, unit, ratio.
"""

from __future__ import annotations

from benchmarks.peers import comparing, pairwise

if __name__ == "__main__":
    options = pairwise.options_of(__doc__)
    comparing.finish(pairwise.compare(options, "sft", "SFT", "responses/s"), options.out)
