"""Our trainers as they ship, called with a job. Timed from outside: when Run.log is called for a
step, that step is over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.peers.sides import SideOutcome, StepClock, Stopwatch, answer, peak_gib
from rlaif.data.records import Preference, Sample, read_jsonl
from rlaif.models.backbone import Backbone
from rlaif.models.lora_config import LoraConfig
from rlaif.training.run import Run


def watch(clock: StepClock, losses: list[float]) -> None:
    """Tick when a step's metrics arrive, before they are written."""
    plain = Run.log

    def log(self: Run, step: int, metrics: Any) -> None:
        clock.tick()
        losses.append(float(metrics["loss"]))
        plain(self, step, metrics)

    Run.log = log  # type: ignore[method-assign]


def lora_of(job: dict[str, Any]) -> LoraConfig | None:
    """The adapters' shape; None for full fine-tuning."""
    return None if job["full"] else LoraConfig.model_validate(job["lora"])


def settings(job: dict[str, Any]) -> dict[str, Any]:
    """What all our configs share; everything else is our default."""
    return {
        "dtype": job["dtype"],
        "lora": lora_of(job),
        "learning_rate": job["learning_rate"],
        "warmup": 0.0,  # linear decay from the first step on, as on the other side
        "max_tokens": job["max_tokens"],
        "checkpoint_every": 1_000_000,  # none inside the timed steps, as on the other side
    }


def pairs_of(job: dict[str, Any]) -> list[Preference]:
    """The pairs that `PairJob.write` wrote."""
    return read_jsonl(Path(job["preferences"]), Preference)


def dpo(job: dict[str, Any], reference: Stopwatch) -> None:
    """Train DPO. reference: times the reference model's pass."""
    from rlaif.algorithms.dpo import train as dpo

    dpo.reference_logprobs = reference.around(dpo.reference_logprobs)
    config = dpo.DPOConfig(
        **settings(job),
        epochs=job["epochs"],
        batch_size=job["batch"],
        beta=job["beta"],
        loss="sigmoid",
        text_eval=None,  # as on the other side
    )
    dpo.train(config, job["model"], pairs_of(job), Path(job["out"]))


def reward(job: dict[str, Any], _: Stopwatch) -> None:
    """Train a reward model."""
    from rlaif.algorithms.reward import train as reward_model

    config = reward_model.RewardConfig(
        **settings(job), epochs=job["epochs"], batch_size=job["batch"], centering=0.0
    )
    reward_model.train(config, job["model"], pairs_of(job), Path(job["out"]), {})


def sft(job: dict[str, Any], _: Stopwatch) -> None:
    """Train on the chosen responses, or on the job's samples."""
    from rlaif.algorithms.sft import train as sft

    lessons = read_jsonl(Path(job["samples"]), Sample) if "samples" in job else pairs_of(job)
    config = sft.SFTConfig(
        **settings(job), epochs=job["epochs"], batch_size=job["batch"], text_eval=None
    )
    sft.train(config, job["model"], [sft.SFTSource("responses", lessons)], Path(job["out"]))


def prepare(job: dict[str, Any]) -> SideOutcome:
    """Write the adapters and the head that training starts from, for the other side to take."""
    from rlaif.models.reward.heads import RewardHeads
    from rlaif.models.reward.weights import Weighing
    from rlaif.models.reward_model import RewardModel

    role = "reward" if job["algorithm"] == "reward" else "policy"
    folder = Path(job["initial"])
    folder.mkdir(parents=True, exist_ok=True)
    backbone = Backbone.load(job["model"], job["dtype"])
    backbone.add_role(role, LoraConfig.model_validate(job["lora"]), 0)
    if role == "policy":
        backbone.save_role("policy", folder)
    else:
        heads = RewardHeads((), backbone.hidden_size)  # the label's alone: pairs have no traits
        heads.randomize(0)
        RewardModel(backbone, heads, Weighing({}, {})).save(folder)
    return SideOutcome([], [], peak_gib())


def measure(job: dict[str, Any]) -> SideOutcome:
    """Train by the job's algorithm, and time the steps; or only prepare, if the job says so."""
    if job["prepare"]:
        return prepare(job)
    clock, reference, losses = StepClock(), Stopwatch(), []
    watch(clock, losses)
    {"dpo": dpo, "reward": reward, "sft": sft}[job["algorithm"]](job, reference)
    return SideOutcome(
        clock.seconds(), losses, peak_gib(), {"reference_seconds": sum(reference.seconds)}
    )


if __name__ == "__main__":
    answer(measure)
