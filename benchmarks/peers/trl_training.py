"""TRL's DPOTrainer, RewardTrainer and SFTTrainer on a job's token ids, in the job's order.

Their own code from the collator to the optimizer. Only this is set from outside: the rows come
tokenized (the same ids as ours), the sampler follows the given order, and the adapters and the
reward head start from the very weights that ours start from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import peft
import torch
import transformers
import trl
from safetensors.torch import load_file

from benchmarks.peers.sides import SideOutcome, StepClock, Stopwatch, answer, peak_gib

datasets.disable_progress_bars()


class Ticking(transformers.TrainerCallback):
    """Ticks the clock at the end of each of TRL's steps."""

    def __init__(self, clock: StepClock) -> None:
        self.clock = clock

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Called by the trainer after an optimizer step."""
        self.clock.tick()


def watched(trainer: type[Any], job: dict[str, Any], losses: list[torch.Tensor]) -> type[Any]:
    """The trainer with the job's rows and order; appends its losses to `losses`."""

    class Watched(trainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset  # already token ids

        def _get_train_sampler(self, *_: Any) -> list[int]:
            return [i for batch in job["order"] for i in batch]

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            found = super().compute_loss(*args, **kwargs)
            losses.append((found[0] if isinstance(found, tuple) else found).detach())
            return found

    return Watched


def arguments(job: dict[str, Any]) -> dict[str, Any]:
    """What all three configs share; everything else is TRL's default."""
    on_cpu = not torch.cuda.is_available()
    return {
        "output_dir": job["out"],
        "per_device_train_batch_size": len(job["order"][0]),
        "num_train_epochs": 1,  # the order holds every epoch
        "learning_rate": job["learning_rate"],
        "lr_scheduler_type": "linear",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "gradient_checkpointing": False,
        "bf16": job["autocast"],
        "max_length": job["max_tokens"],
        "model_init_kwargs": {"dtype": "float32" if job["full"] else job["dtype"]},
        "use_cpu": on_cpu,
        "dataloader_pin_memory": not on_cpu,
        "disable_tqdm": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "seed": 0,
    }


def adapters(job: dict[str, Any], **more: Any) -> peft.LoraConfig | None:
    """The same adapters as ours, as peft's configuration; None for full fine-tuning."""
    if job["full"]:
        return None
    lora = job["lora"]
    return peft.LoraConfig(
        r=lora["rank"], lora_alpha=lora["alpha"], target_modules=lora["targets"], **more
    )


def start_from_ours(model: Any, job: dict[str, Any]) -> None:
    """Our fresh adapters and head, instead of those that TRL made."""
    folder = Path(job["initial"])
    heads = folder / "heads.safetensors"
    scores = heads.exists() and any("score" in name for name, _ in model.named_parameters())
    score = {"score.weight": load_file(heads)["weight"]} if scores else {}
    if job["full"]:
        found = model.load_state_dict(score, strict=False)
    else:
        state = load_file(folder / "adapter_model.safetensors")
        state |= {f"base_model.model.{name}": weight for name, weight in score.items()}
        found = peft.set_peft_model_state_dict(model, state)
    assert not found.unexpected_keys, found.unexpected_keys


def dpo(job: dict[str, Any], build: Any) -> Any:
    """TRL's DPO trainer. build: makes a trainer from (class, config, rows, adapters)."""
    config = trl.DPOConfig(
        **arguments(job), beta=job["beta"], precompute_ref_log_probs=job["precompute"]
    )
    rows = [
        {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
        for prompt, chosen, rejected in job["rows"]
    ]
    return build(trl.DPOTrainer, config, rows, adapters(job, task_type="CAUSAL_LM"))


def reward(job: dict[str, Any], build: Any) -> Any:
    """TRL's reward trainer."""
    rows = [
        {"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected}
        for prompt, chosen, rejected in job["rows"]
    ]
    lora = adapters(job, task_type="SEQ_CLS", modules_to_save=["score"])
    return build(trl.RewardTrainer, trl.RewardConfig(**arguments(job)), rows, lora)


def sft(job: dict[str, Any], build: Any) -> Any:
    """TRL's SFT trainer, with the loss on the response alone."""
    config = trl.SFTConfig(**arguments(job), completion_only_loss=True)
    rows = [
        {
            "input_ids": prompt + chosen,
            "labels": [-100] * len(prompt) + chosen,  # TRL 1.16 reads these
            "completion_mask": [0] * len(prompt) + [1] * len(chosen),  # 1.12 these
        }
        for prompt, chosen, _ in job["rows"]
    ]
    return build(trl.SFTTrainer, config, rows, adapters(job, task_type="CAUSAL_LM"))


def measure(job: dict[str, Any]) -> SideOutcome:
    """Train by the job's algorithm from our starting weights, and time the steps."""
    clock, reference, losses = StepClock(), Stopwatch(), []

    def build(trainer: type[Any], config: Any, rows: list[Any], lora: Any) -> Any:
        kind = watched(trainer, job, losses)
        if hasattr(kind, "_precompute_ref_logps"):
            kind._precompute_ref_logps = reference.around(kind._precompute_ref_logps)
        return kind(
            model=job["model"],
            args=config,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=transformers.AutoTokenizer.from_pretrained(job["model"]),
            peft_config=lora,
            callbacks=[Ticking(clock)],
        )

    trainer = {"dpo": dpo, "reward": reward, "sft": sft}[job["algorithm"]](job, build)
    start_from_ours(trainer.model, job)
    trainer.train()
    facts = {"reference_seconds": sum(reference.seconds), "trl": trl.__version__}
    return SideOutcome(clock.seconds(), [float(loss) for loss in losses], peak_gib(), facts)


if __name__ == "__main__":
    answer(measure)
