"""Reward-model training, pairs per second: our trainer beside TRL's RewardTrainer (1.16).

    python -m benchmarks.training.reward_vs_trl [--full] [--data PAIRS.jsonl] [--batch 4]
        [--steps 4] [--max-tokens 512] [--dtype auto] [--threads N] [--rounds 2]

Both train the same model with one scalar head on the same pairs in the same order, as the same
token ids, none cut; AdamW without weight decay, the same learning rate falling linearly, the same
clipping; gradient checkpointing off; LoRA of one rank, alpha and targets, or with --full all
weights in float32. Adapters and head start from the same weights; the score is read at the end
token on both sides. No centering and no soft labels, which the peer lacks or leaves off, so that
both losses are -log sigmoid(Δ). Both are timed from the end of one step to the end of the next, so
the first step is not counted; the median of all counted steps of all rounds is taken, and the
rounds alternate which side goes first.

Our head is float32; with --dtype bfloat16 the peer's copy of it is computed in bfloat16 under LoRA,
which shows in the loss curves (a score near 2 is rounded to 0.008), not in the speed. With
--dtype float32 they agree to float32's rounding.

Without --data the pairs are the worked examples of `hhh` after chats of others. Ours computes a
shared prompt once, so the gain grows with the prompts' share; their mean length is printed.

The last line is one JSON object: name, ours, peer, unit, ratio.
"""

from __future__ import annotations

from benchmarks.peers import comparing, pairwise

if __name__ == "__main__":
    options = pairwise.options_of(__doc__)
    result = pairwise.compare(options, "reward", "reward model", "pairs/s")
    comparing.finish(result, options.out)
