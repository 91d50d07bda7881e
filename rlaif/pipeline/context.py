"""What each stage of a recipe does: which model it takes, from which files, into which folder.

stages.py has their order, and what each one's outcome depends on. Trainers, engines and the report
are imported by the stage that needs them: `--dry-run` and an error in a recipe load none of them.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from constitution import Constitution, Message
from rlaif.data.datasets import read_preferences
from rlaif.data.prompt_split import PromptSet, SplitRule
from rlaif.data.prompts import read_prompts
from rlaif.data.records import Preference, Prompt, Sample, read_jsonl, write_json
from rlaif.models import catalog
from rlaif.pipeline.recipe import Recipe, RecipeError

if TYPE_CHECKING:
    from judge_service.client.sync import JudgeClient
    from rlaif.algorithms.dpo.config import DPOConfig
    from rlaif.algorithms.ppo.evaluation import HeldOutJudge
    from rlaif.algorithms.sft.config import SFTConfig
    from rlaif.evaluation.policies import KL, Compare, PolicyRun
    from rlaif.models.reward_model import RewardFunction, RewardModel


class RunContext:
    """A recipe at work in one folder; one method per stage."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        self.folder = folder
        self.constitution = Constitution.load(recipe.constitution)
        self.samples = folder / "samples" / "samples.jsonl"
        self.labels = folder / "labels" / "preferences.parquet"
        self.sft = folder / "sft"
        self.reward = folder / "reward"
        trained = {"SFT": recipe.sft, "DPO": recipe.dpo, "PPO": recipe.ppo, "ReST": recipe.rest}
        self.policies = {
            name: folder / name.lower() for name, config in trained.items() if config is not None
        }

    @cached_property
    def prompt_set(self) -> PromptSet:
        """All prompts that the recipe names, each with its split."""
        rule = SplitRule(self.recipe.heldout_share, self.recipe.split_seed)
        return read_prompts(self.recipe.prompts, rule)

    def prompts(self, split: str) -> list[Prompt]:
        """The recipe's prompts of a split, its system message before each."""
        prompts = self.prompt_set.of(split)
        limit = self.recipe.train_prompts if split == "train" else self.recipe.heldout_prompts
        if not self.recipe.system:
            return prompts[:limit]
        system = Message(role="system", content=self.recipe.system)
        return [p.model_copy(update={"messages": (system, *p.messages)}) for p in prompts[:limit]]

    # models
    def fetch(self) -> None:
        for name in (self.recipe.policy, self.recipe.judge):
            if name in catalog.KNOWN:
                catalog.fetch(name)
            else:
                catalog.resolve(name)

    @property
    def policy(self) -> str:
        return catalog.resolve(self.recipe.policy)

    @property
    def start(self) -> str:
        """The model that reward model, DPO, PPO and ReST begin from."""
        if self.recipe.start == "policy":
            return self.policy
        return str(self.sft if is_model(self.sft) else self.sft / "model")

    # sample
    def draw(self) -> None:
        from rlaif.generation.offline import sample

        sample(self.policy, self.prompts("train"), self.samples, self.recipe.sample)

    # label
    def judge(self) -> None:
        from rlaif.feedback.earlier_labels import Earlier
        from rlaif.feedback.labeler import label
        from rlaif.feedback.pairs import pairs_from_samples

        pairs = pairs_from_samples(
            read_jsonl(self.samples, Sample), pairs_per_prompt=self.recipe.label.pairs_per_prompt
        )
        with self.judge_client(self.folder / "judge.log") as client:
            label(
                pairs.comparisons,
                client,
                self.labels.parent,
                constitution=self.constitution.name,
                options=self.recipe.label.options(),
                identical=pairs.identical,
                earlier=Earlier.OVERWRITE,  # a changed recipe; the journal has every answer
            )

    def judge_client(self, log: Path) -> AbstractContextManager[JudgeClient]:
        """A judge server of our own, and a client to it."""
        from rlaif.feedback.client import judge_client

        r = self.recipe
        flags = ("--dtype", r.judge_dtype, *r.judge_flags)
        return judge_client(r.judge, r.constitution, log, flags=flags)

    # sft
    def train_sft(self) -> None:
        from rlaif.algorithms.sft.sources import SFTSource
        from rlaif.algorithms.sft.train import train
        from rlaif.models.backbone import merge_adapter

        config = self.recipe.sft
        assert config is not None, "a stage that the recipe leaves out"
        pairs, heldout = self.pairs_for(config)
        train(config, self.policy, [SFTSource("chosen", pairs)], self.sft, heldout)
        if self.recipe.start == "sft" and not is_model(self.sft):
            merge_adapter(self.policy, self.sft, self.sft / "model", "float32")

    def pairs_for(self, config: SFTConfig | DPOConfig) -> tuple[list[Preference], list[Preference]]:
        """(to train on, held out): all are trained on, unless the stage's settings use held-out
        pairs; those are the reward model's."""
        if self.heldout_share(config) is None:
            return read_preferences(self.labels), []
        return self.split_labels()

    def heldout_share(self, config: SFTConfig | DPOConfig | None) -> float | None:
        """reward_heldout where the settings use held-out pairs; part of a stage's inputs."""
        keeps_best = getattr(config, "keep", None) == "best"
        looks = config is not None and config.eval_every is not None
        return self.recipe.reward_heldout if looks or keeps_best else None

    # reward
    def train_reward(self) -> None:
        from rlaif.algorithms.reward.train import train

        pairs, heldout = self.split_labels()
        weights = self.constitution.trait_weights
        train(self.recipe.reward, self.start, pairs, self.reward, weights, heldout)

    def split_labels(self) -> tuple[list[Preference], list[Preference]]:
        """(to train the reward model on, kept to evaluate it): by prompt, decided by its text."""
        train: list[Preference] = []
        heldout: list[Preference] = []
        for preference in read_preferences(self.labels):
            text = "\0".join(message.content for message in preference.prompt)
            place = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32
            (heldout if place < self.recipe.reward_heldout else train).append(preference)
        if not train or not heldout:
            raise RecipeError(
                f"reward_heldout={self.recipe.reward_heldout} leaves {len(train)} pairs to train "
                f"on and {len(heldout)} to evaluate; label more pairs or change it"
            )
        return train, heldout

    # dpo
    def train_dpo(self) -> None:
        from rlaif.algorithms.dpo.train import train

        pairs, heldout = self.pairs_for(self.recipe.dpo)
        train(self.recipe.dpo, self.start, pairs, self.policies["DPO"], heldout)

    # ppo
    def train_ppo(self) -> None:
        from functools import partial

        from rlaif.algorithms.ppo.train import train

        out, prompts = self.policies["PPO"], self.prompts("train")
        run = partial(train, self.recipe.ppo, self.start, prompts, self.reward_source(), out)
        if not self.judges_ppo:
            run()
            return
        with self.judge_client(out / "judge.log") as client:
            run(judge=self.better_than_the_start(client))

    @property
    def judges_ppo(self) -> bool:
        """Whether the recipe sets eval_every, or another setting that only a judge uses."""
        return bool(self.recipe.ppo.set_for_a_judge())

    def reward_source(self) -> Path | RewardFunction:
        """The reward model: a role of the policy's backbone, or a whole model of its own."""
        from rlaif.models.reward_model import RewardModel

        if is_model(self.reward):
            return RewardModel.load(self.start, self.reward).overall_scores
        return self.reward

    def better_than_the_start(self, client: JudgeClient) -> HeldOutJudge:
        """How PPO is judged during training: mean P(better than the start's first sample).

        On training prompts, some of which PPO holds out: the held-out ones stay for `evaluate`.
        """
        from rlaif.feedback.client import held_out_judge

        start = [s for s in read_jsonl(self.samples, Sample) if s.index == 0]
        journal = self.policies["PPO"] / "answers.journal.jsonl"
        return held_out_judge(self.comparer(client, journal), start)

    def comparer(self, client: JudgeClient, journal: Path) -> Compare:
        from rlaif.feedback.labeler import comparer

        name, options = self.constitution.name, self.recipe.evaluate.options()
        return comparer(client, journal, constitution=name, options=options)

    # rest
    def train_rest(self) -> None:
        from rlaif.algorithms.rest.train import train

        config = self.recipe.rest
        assert config is not None, "a stage that the recipe leaves out"
        prompts, out = self.prompts("train"), self.policies["ReST"]
        train(config, self.start, prompts, self.reward_source(), out)

    # respond
    def respond(self) -> None:
        from rlaif.generation.offline import sample

        folder, prompts = self.folder / "responses", self.prompts("heldout")
        sample(self.policy, prompts, folder / "start.jsonl", self.recipe.respond)
        for name, trained in self.policies.items():
            out = folder / f"{name}.jsonl"
            with whole_model(self.base_of(name), trained, folder / f"{name}-merged") as model:
                sample(model, prompts, out, self.recipe.respond)

    def base_of(self, name: str) -> str:
        """The model that a policy began from."""
        return self.policy if name == "SFT" else self.start

    # evaluate
    def evaluate(self) -> None:
        from rlaif.evaluation.policies import evaluate
        from rlaif.models.reward_model import RewardModel

        scorer = RewardModel.load(self.start, self.reward)
        start = self.policy_run("start", scorer)
        trained = [self.policy_run(name, scorer) for name in self.policies]
        with self.judge_client(self.folder / "judge.log") as client:
            compare = self.comparer(client, self.folder / "evaluation" / "answers.journal.jsonl")
            result = evaluate(start, trained, compare)
        result.save(self.folder / "evaluation" / "evaluation.json")

    def policy_run(self, name: str, scorer: RewardModel) -> PolicyRun:
        from rlaif.evaluation.policies import PolicyRun
        from rlaif.generation.offline import tokens_per_second

        path = self.folder / "responses" / f"{name}.jsonl"
        samples = read_jsonl(path, Sample)
        kl = self.kl(name, samples) if name in self.policies else None
        rewards = scorer.overall_scores(
            [s.prompt.messages for s in samples], [s.response for s in samples]
        )
        return PolicyRun(name, samples, rewards, kl, tokens_per_second(path))

    def kl(self, name: str, samples: Sequence[Sample]) -> KL:
        """KL to the policy that the recipe names, whatever this one began from."""
        from rlaif.evaluation.policies import estimate_kl
        from rlaif.models.sample_logprobs import response_logprobs

        trained, base = self.policies[name], self.base_of(name)
        # A whole model is read by itself, an adapter over the model that it was trained on.
        if is_model(trained):
            logprobs = response_logprobs(str(trained), None)
        else:
            logprobs = response_logprobs(base, trained)
        reference = logprobs.reference
        if is_model(trained) or base != self.policy:
            reference = response_logprobs(self.policy, None).reference
        return estimate_kl(samples, logprobs.policy, reference)

    # last, and every time: it costs seconds
    def report(self) -> None:
        from rlaif.report.page import write_report

        facts = {
            "recipe": self.recipe.name,
            "policy": self.recipe.policy,
            "begins from": "the policy" if self.recipe.start == "policy" else "the SFT model",
            "judge": self.recipe.judge,
            "constitution": f"{self.constitution.name} {self.constitution.version} "
            f"(sha256 {self.constitution.digest[:16]})",
            "sampling seed": str(self.recipe.sample.seed),
            "date": date.today().isoformat(),
        }
        write_json(self.folder / "run.json", facts)
        write_report(self.folder, self.folder / "report.html")


def is_model(folder: Path) -> bool:
    """Whether a trainer left a whole model there (lora: null) and not an adapter."""
    return (folder / "config.json").is_file()


@contextmanager
def whole_model(base: str, trained: Path, merged: Path) -> Iterator[str]:
    """Yields a full-model folder for a trained policy; an adapter is merged into `merged`, which
    is deleted afterwards."""
    from rlaif.models.backbone import merge_adapter

    if is_model(trained):
        yield str(trained)
        return
    merge_adapter(base, trained, merged, "float32")
    try:
        yield str(merged)
    finally:
        shutil.rmtree(merged)
