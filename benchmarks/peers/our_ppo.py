"""Our PPO as it ships, called with a job; its parts timed from outside, as the other side's are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.peers.our_training import settings
from benchmarks.peers.sides import SideOutcome, StepClock, Stopwatch, answer, peak_gib
from rlaif.algorithms.ppo import train as ppo
from rlaif.data.records import Prompt, read_jsonl
from rlaif.generation.base import Sampler
from rlaif.generation.engines import choose_engine
from rlaif.models.backbone import Backbone
from rlaif.models.lora_config import LoraConfig
from rlaif.models.reward.heads import RewardHeads
from rlaif.models.reward.weights import Weighing
from rlaif.models.reward_model import RewardModel
from rlaif.training.run import Run


class TimedSampler:
    """A sampler that appends each iteration's seconds of sync and generation to `seconds`."""

    def __init__(self, sampler: Sampler, seconds: list[float]) -> None:
        self.sampler, self.seconds = sampler, seconds
        self.exact = sampler.exact
        self._sync = Stopwatch()

    def sync(self) -> None:
        """As Sampler.sync, timed."""
        self._sync.around(self.sampler.sync)()

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As Sampler.generate, timed together with the sync before it."""
        drawing = Stopwatch()
        found = drawing.around(self.sampler.generate)(*args, **kwargs)
        self.seconds.append(self._sync.seconds[-1] + drawing.seconds[0])
        return found

    def close(self) -> None:
        """As Sampler.close."""
        self.sampler.close()


def prepare(job: dict[str, Any]) -> SideOutcome:
    """Write a reward model with a random head over the base.

    PPO's work is the same whatever it has learned, and the other side's is then the base with this
    head: nothing to convert.
    """
    backbone = Backbone.load(job["model"], job["dtype"])
    backbone.add_role("reward", LoraConfig.model_validate(job["lora"]), 0)
    heads = RewardHeads((), backbone.hidden_size)
    heads.randomize(0)
    RewardModel(backbone, heads, Weighing({}, {})).save(Path(job["reward"]))
    return SideOutcome([], [], peak_gib())


def config_of(job: dict[str, Any]) -> ppo.PPOConfig:
    """Our PPO with the settings that the other side has too."""
    several_steps = job["epochs"] > 1 or len(job["prompts"]) > job["update_batch"]
    # never reached: every update is made, as on the other side; before the first none could be
    ceiling = {"kl_ceiling": 1e6} if several_steps else {}
    return ppo.PPOConfig(
        **settings(job),
        iterations=job["iterations"],
        prompts_per_iteration=len(job["prompts"]) // job["group"],
        group_size=job["group"],
        max_new_tokens=job["response_tokens"],
        update_batch_size=job["update_batch"],
        epochs=job["epochs"],
        value=job["value"],
        value_learning_rate=job["learning_rate"],  # the other side has one rate
        missing_eos_penalty=0.0,  # no response ends by itself here
        engine=job["engine"],
        text_eval=None,  # as on the other side
        **ceiling,
    )


def measure(job: dict[str, Any]) -> SideOutcome:
    """Train, and time the parts of each iteration; or only prepare, if the job says so."""
    if job["prepare"]:
        return prepare(job)
    clock, updating = StepClock(), Stopwatch()
    generation: list[float] = []
    logged: list[dict[str, Any]] = []
    plain, open_sampler = Run.log, ppo.open_sampler

    def log(self: Run, step: int, metrics: Any) -> None:
        clock.tick()
        logged.append(dict(metrics))
        plain(self, step, metrics)

    Run.log = log  # type: ignore[method-assign]
    ppo.open_sampler = lambda *a, **k: TimedSampler(open_sampler(*a, **k), generation)
    ppo.update = updating.around(ppo.update)
    prompts = read_jsonl(Path(job["records"]), Prompt)
    ppo.train(config_of(job), job["model"], prompts, Path(job["reward"]), Path(job["out"]))
    return SideOutcome(
        clock.seconds(),
        [line["score"] for line in logged],
        peak_gib(),
        {
            "generation_seconds": generation[1:],
            "update_seconds": updating.seconds[1:],
            "response_length": sum(line["response_length"] for line in logged) / len(logged),
            "kl_k1": [line["kl_k1"] for line in logged],
            "engine": choose_engine(job["engine"], 1),
        },
    )


if __name__ == "__main__":
    answer(measure)
