"""TRL 1.12's PPOTrainer on a job's prompts: generation, the rest of the rollout and updates apart.

Its own code throughout. What is set from outside: LoRA on the value model too (the trainer puts it
on the policy alone; without, the other side would have a tenth of its optimizer's work), and the
reward model's head, which is ours. One forward per update batch: micro-batches of its own would
make fewer optimizer steps out of the same settings (accelerate counts them over update batches).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import datasets
import peft
import torch
import transformers
import trl
from safetensors.torch import load_file
from trl.experimental import ppo
from trl.experimental.ppo import ppo_trainer

from benchmarks.peers.sides import SideOutcome, StepClock, Stopwatch, answer, peak_gib
from benchmarks.peers.trl_training import Ticking


def scalar_model(job: dict[str, Any]) -> Any:
    """The base with a scalar head, ours: the reward model, and where the value model starts."""
    weights = torch.float32 if job["full"] else getattr(torch, job["dtype"])
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        job["model"], num_labels=1, dtype=weights
    )
    head = load_file(Path(job["reward"]) / "heads.safetensors")["weight"]
    with torch.no_grad():
        model.score.weight.copy_(head)
    return model


def lora(job: dict[str, Any], **more: Any) -> peft.LoraConfig:
    """The same adapters as ours, as peft's configuration."""
    shape = job["lora"]
    return peft.LoraConfig(
        r=shape["rank"], lora_alpha=shape["alpha"], target_modules=shape["targets"], **more
    )


def trainer_of(job: dict[str, Any], clock: StepClock) -> ppo.PPOTrainer:
    """TRL's PPO trainer with the settings that ours has too.

    clock: ticks at each iteration's end.
    """
    count, on_cpu = len(job["prompts"]), not torch.cuda.is_available()
    config = ppo.PPOConfig(
        output_dir=job["out"],
        total_episodes=count * job["iterations"],
        per_device_train_batch_size=count,
        gradient_accumulation_steps=1,
        num_mini_batches=count // job["update_batch"],
        num_ppo_epochs=job["epochs"],
        local_rollout_forward_batch_size=count,
        response_length=job["response_tokens"],
        temperature=1.0,
        num_sample_generations=0,
        learning_rate=job["learning_rate"],
        lr_scheduler_type="linear",
        weight_decay=0.0,
        gradient_checkpointing=False,
        bf16=job["autocast"],
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        disable_tqdm=True,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        seed=0,
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["model"], padding_side="left")
    weights = torch.float32 if job["full"] else getattr(torch, job["dtype"])
    policy = transformers.AutoModelForCausalLM.from_pretrained(job["model"], dtype=weights)
    value = scalar_model(job)
    if not job["full"]:
        shape = lora(job, task_type="SEQ_CLS", modules_to_save=["score"])
        value = peft.get_peft_model(value, shape).base_model.model
    return ppo.PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=None,  # a copy that it makes; with LoRA the policy without its adapters
        reward_model=scalar_model(job).eval().requires_grad_(False),
        value_model=value,
        train_dataset=datasets.Dataset.from_list([{"input_ids": ids} for ids in job["prompts"]]),
        peft_config=None if job["full"] else lora(job, task_type="CAUSAL_LM"),
        callbacks=[Ticking(clock)],
    )


def measure(job: dict[str, Any]) -> SideOutcome:
    """Train, and time the parts of each iteration."""
    clock, generation = StepClock(), Stopwatch()
    updates: list[float] = []  # when each iteration's first update began
    lengths: list[float] = []  # of responses, mean per iteration
    ppo_trainer.batch_generation = generation.around(ppo_trainer.batch_generation)
    plain = ppo_trainer.forward

    def forward(model: Any, query_responses: torch.Tensor, pad_token_id: int) -> Any:
        if torch.is_grad_enabled() and len(updates) == len(clock.ends):
            updates.append(time.perf_counter())
            real = query_responses[:, -job["response_tokens"] :] != pad_token_id
            lengths.append(float(real.sum(1).float().mean()))
        return plain(model, query_responses, pad_token_id)

    ppo_trainer.forward = forward
    trainer = trainer_of(job, clock)
    trainer.train()
    logged = [line for line in trainer.state.log_history if "objective/scores" in line]
    return SideOutcome(
        clock.seconds(),
        [line["objective/scores"] for line in logged],
        peak_gib(),
        {
            "generation_seconds": generation.seconds[1:],
            "update_seconds": [e - b for b, e in zip(updates, clock.ends, strict=True)][1:],
            "response_length": sum(lengths) / len(lengths),
            "kl_k1": [line["objective/kl"] for line in logged],
            "trl": trl.__version__,
        },
    )


if __name__ == "__main__":
    answer(measure)
