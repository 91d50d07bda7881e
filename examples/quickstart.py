"""From prompts to a policy trained on a judge's labels, and compared with its start, in Python.

    rlaif models fetch smollm2-135m qwen2.5-coder-1.5b
    python examples/quickstart.py                              # serves the judge by itself
    python examples/quickstart.py --server 127.0.0.1:50051     # asks a running `rlaif serve`

Every step is saved under --out, and a killed run resumes where it stopped. quickstart.ipynb is the
same as a notebook; `rlaif run quickstart` does more, and fits it to the machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import rlaif


def main() -> None:
    """Sample, label, train and evaluate, as the arguments say."""
    parser = argparse.ArgumentParser(description="Labels, a reward model, DPO, evaluation.")
    parser.add_argument("--model", default="smollm2-135m", help="the policy: name, folder, hub id")
    parser.add_argument("--judge", default="qwen2.5-coder-1.5b", help="the model that judges")
    parser.add_argument("--server", default="", help="HOST:PORT of a judge, in place of --judge")
    parser.add_argument("--prompts", type=int, default=64, help="trained on; half of it held out")
    parser.add_argument("--engine", default="auto", help="what samples: auto, vllm, transformers")
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart-py"))
    asked = parser.parse_args()
    judge = {"server": asked.server} if asked.server else {"judge": asked.judge}
    sampling = {"engine": asked.engine, "max_new_tokens": 64}

    # Two responses to every prompt, and a label for every pair of them.
    samples = rlaif.sample(
        "quickstart", model=asked.model, out=asked.out / "samples.jsonl", split="train",
        limit=asked.prompts, n=2, **sampling,
    )  # fmt: skip
    labels = asked.out / "labels"
    summary = rlaif.label(samples, out=labels, **judge)
    print(f"{summary.judged} labels, mean P(chosen) {summary.mean_prob_chosen:.2f}")

    # Two ways to learn from them: a reward model (for train_ppo and train_rest), and DPO.
    reward = rlaif.train_reward(labels, model=asked.model, out=asked.out / "reward", epochs=1)
    adapter = rlaif.train_dpo(labels, model=asked.model, out=asked.out / "dpo", beta=0.1)
    print(f"reward model: {reward}, policy: {adapter}")

    # The trained policy and its start answer prompts that neither has seen.
    policy = asked.out / "dpo-model"
    if not policy.exists():
        rlaif.merge_adapter(asked.model, adapter, out=policy)
    start, dpo = (
        rlaif.sample(
            "quickstart", model=model, out=asked.out / f"{name}.jsonl", split="heldout",
            limit=max(1, asked.prompts // 2), n=1, **sampling,
        )
        for name, model in (("start", asked.model), ("dpo", policy))
    )  # fmt: skip
    result = rlaif.evaluate({"dpo": dpo}, start=start, out=asked.out / "evaluation", **judge)
    for row in result.policies[1:]:
        print(f"{row.name} wins against the start: {row.win_rate} (unjudged: {row.unjudged})")


if __name__ == "__main__":
    main()
