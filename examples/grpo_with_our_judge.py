"""Training with TRL's GRPOTrainer on the scores of our judge.

    rlaif models fetch smollm2-135m qwen2.5-coder-1.5b
    rlaif serve --model qwen2.5-coder-1.5b        (in a second terminal)
    python examples/grpo_with_our_judge.py

Requires TRL: pip install '.[train]' 'trl>=1.16,<1.17', in the checkout.
"""

from __future__ import annotations

import argparse

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from judge_service.client.sync import AsyncJudgeClient
from rlaif.data.prompts import load_prompts
from rlaif.feedback.trl_reward import TRLJudgeReward
from rlaif.models import catalog


def main() -> None:
    """Train with GRPO and save the policy to --out."""
    parser = argparse.ArgumentParser(description="GRPO on the scores of our judge.")
    parser.add_argument("--model", default="smollm2-135m", help="short name, folder or hub id")
    parser.add_argument("--server", default="127.0.0.1:50051", help="a running `rlaif serve`")
    parser.add_argument("--constitution", default="", help="of the server; default: its first")
    parser.add_argument("--prompts", default="quickstart", help="as for `rlaif train ppo`")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", default="grpo")
    arguments = parser.parse_args()

    prompts = load_prompts(arguments.prompts, "train")
    rows = [{"prompt": [message.model_dump() for message in p.messages]} for p in prompts]
    gpu = torch.cuda.is_available()
    reward = TRLJudgeReward(lambda: AsyncJudgeClient(arguments.server), arguments.constitution)
    trainer = GRPOTrainer(
        model=catalog.resolve(arguments.model),
        reward_funcs=reward,
        args=GRPOConfig(
            output_dir=arguments.out,
            max_steps=arguments.steps,
            num_generations=4,
            per_device_train_batch_size=8,
            max_completion_length=96,
            logging_steps=1,
            report_to=[],
            use_cpu=not gpu,
            bf16=gpu,
        ),
        train_dataset=Dataset.from_list(rows),
    )
    trainer.train()
    trainer.save_model(arguments.out)
    print(f"policy: {arguments.out}; unrated responses: {dict(reward.unrated) or 'none'}")


if __name__ == "__main__":
    main()
