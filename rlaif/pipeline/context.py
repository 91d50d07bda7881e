"""What each stage of a recipe does: which model it takes, from which files, into which folder.

running.py says in what order, and on what each stage's outcome depends.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import date
from functools import cached_property
from pathlib import Path

from constitution import Constitution, Message
from judge_service.client.sync import JudgeClient
from rlaif.algorithms.dpo import train as dpo
from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.ppo import train as ppo
from rlaif.algorithms.ppo.evaluation import HeldOutJudge
from rlaif.algorithms.rest import train as rest
from rlaif.algorithms.reward import train as reward_model
from rlaif.algorithms.sft import train as sft
from rlaif.algorithms.sft.config import SFTConfig
from rlaif.algorithms.sft.lessons import SFTSource
from rlaif.data.prompt_split import PromptSet, SplitRule
from rlaif.data.prompts import read_prompts
from rlaif.data.records import Preference, Prompt, Sample, read_jsonl, read_preferences, write_json
from rlaif.evaluation import policies as evaluation
from rlaif.feedback.client import held_out_judge, judge_client
from rlaif.feedback.earlier_labels import Earlier
from rlaif.feedback.labeler import comparer, label
from rlaif.feedback.pairs import pairs_from_samples
from rlaif.generation import offline as sampling
from rlaif.models import backbone, sample_logprobs
from rlaif.models import catalog as models
from rlaif.models.reward_model import RewardFunction, RewardModel
from rlaif.pipeline.recipe import Recipe, RecipeError
from rlaif.report.page import write_report


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
        found = self.prompt_set.of(split)
        limit = self.recipe.train_prompts if split == "train" else self.recipe.heldout_prompts
        if not self.recipe.system:
            return found[:limit]
        system = Message(role="system", content=self.recipe.system)
        return [p.model_copy(update={"messages": (system, *p.messages)}) for p in found[:limit]]

    # models
    def fetch(self) -> None:
        for name in (self.recipe.policy, self.recipe.judge):
            if name in models.KNOWN:
                models.fetch(name)
            else:
                models.resolve(name)

    @property
    def policy(self) -> str:
        return models.resolve(self.recipe.policy)

    @property
    def start(self) -> str:
        """The model that reward model, DPO, PPO and ReST begin from."""
        if self.recipe.start == "policy":
            return self.policy
        return str(self.sft if is_model(self.sft) else self.sft / "model")

    # sample
    def draw(self) -> None:
        sampling.sample(self.policy, self.prompts("train"), self.samples, self.recipe.sample)

    # label
    def judge(self) -> None:
        pairs = pairs_from_samples(
            read_jsonl(self.samples, Sample), pairs_per_prompt=self.recipe.label.pairs_per_prompt
        )
        with self.court(self.folder / "judge.log") as client:
            label(
                pairs.comparisons,
                client,
                self.labels.parent,
                constitution=self.constitution.name,
                options=self.recipe.label.options(),
                identical=pairs.identical,
                earlier=Earlier.OVERWRITE,  # a changed recipe; the journal has every answer
            )

    def court(self, log: Path) -> AbstractContextManager[JudgeClient]:
        """A judge server of our own, and a client to it."""
        r = self.recipe
        flags = ("--dtype", r.judge_dtype, *r.judge_flags)
        return judge_client(r.judge, r.constitution, log, flags=flags)

    # sft
    def train_sft(self) -> None:
        config = self.recipe.sft
        assert config is not None, "a stage that the recipe leaves out"
        train, heldout = self.pairs_for(config)
        sft.train(config, self.policy, [SFTSource("chosen", train)], self.sft, heldout)
        if self.recipe.start == "sft" and not is_model(self.sft):
            backbone.merge_adapter(self.policy, self.sft, self.sft / "model", "float32")

    def pairs_for(self, config: SFTConfig | DPOConfig) -> tuple[list[Preference], list[Preference]]:
        """(to train on, to look at meanwhile): all to train on, unless its settings ask for both.

        Those looked at are the reward model's held-out ones.
        """
        if self.heldout_share(config) is None:
            return read_preferences(self.labels), []
        return self.split_labels()

    def heldout_share(self, config: SFTConfig | DPOConfig | None) -> float | None:
        """reward_heldout where the settings ask for held-out pairs; part of a stage's inputs."""
        keeps_best = isinstance(config, DPOConfig) and config.keep == "best"
        looks = config is not None and config.eval_every is not None
        return self.recipe.reward_heldout if looks or keeps_best else None

    # reward
    def train_reward(self) -> None:
        train, heldout = self.split_labels()
        weights = self.constitution.trait_weights
        reward_model.train(self.recipe.reward, self.start, train, self.reward, weights, heldout)

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
        train, heldout = self.pairs_for(self.recipe.dpo)
        dpo.train(self.recipe.dpo, self.start, train, self.policies["DPO"], heldout)

    # ppo
    def train_ppo(self) -> None:
        r, out = self.recipe, self.policies["PPO"]
        what = (r.ppo, self.start, self.prompts("train"), self.reward_source(), out)
        if not self.judges_ppo:
            ppo.train(*what)
            return
        with self.court(out / "judge.log") as client:
            ppo.train(*what, judge=self.better_than_the_start(client))

    @property
    def judges_ppo(self) -> bool:
        """Whether the recipe sets eval_every, or what else only a judge makes use of."""
        return bool(self.recipe.ppo.set_for_a_judge())

    def reward_source(self) -> Path | RewardFunction:
        """The reward model as a role of the policy's backbone, or beside it when it is whole."""
        if is_model(self.reward):
            return RewardModel.load(self.start, self.reward).overall_scores
        return self.reward

    def better_than_the_start(self, client: JudgeClient) -> HeldOutJudge:
        """How PPO is judged underway: mean P(better than the start's first sample for the prompt).

        On training prompts, of which PPO sets some aside: the held-out ones stay for `evaluate`.
        """
        start = [s for s in read_jsonl(self.samples, Sample) if s.index == 0]
        journal = self.policies["PPO"] / "answers.journal.jsonl"
        return held_out_judge(self.comparer(client, journal), start)

    def comparer(self, client: JudgeClient, journal: Path) -> evaluation.Compare:
        name, options = self.constitution.name, self.recipe.evaluate.options()
        return comparer(client, journal, constitution=name, options=options)

    # rest
    def train_rest(self) -> None:
        config = self.recipe.rest
        assert config is not None, "a stage that the recipe leaves out"
        prompts, out = self.prompts("train"), self.policies["ReST"]
        rest.train(config, self.start, prompts, self.reward_source(), out)

    # respond
    def respond(self) -> None:
        folder, prompts = self.folder / "responses", self.prompts("heldout")
        sampling.sample(self.policy, prompts, folder / "start.jsonl", self.recipe.respond)
        for name, trained in self.policies.items():
            out = folder / f"{name}.jsonl"
            with whole_model(self.base_of(name), trained, folder / f"{name}-merged") as model:
                sampling.sample(model, prompts, out, self.recipe.respond)

    def base_of(self, name: str) -> str:
        """The model that a policy began from."""
        return self.policy if name == "SFT" else self.start

    # evaluate
    def evaluate(self) -> None:
        scorer = RewardModel.load(self.start, self.reward)
        start = self.policy_run("start", scorer)
        trained = [self.policy_run(name, scorer) for name in self.policies]
        with self.court(self.folder / "judge.log") as client:
            compare = self.comparer(client, self.folder / "evaluation" / "answers.journal.jsonl")
            result = evaluation.evaluate(start, trained, compare)
        result.save(self.folder / "evaluation" / "evaluation.json")

    def policy_run(self, name: str, scorer: RewardModel) -> evaluation.PolicyRun:
        path = self.folder / "responses" / f"{name}.jsonl"
        samples = read_jsonl(path, Sample)
        kl = self.kl(name, samples) if name in self.policies else None
        rewards = scorer.overall_scores(
            [s.prompt.messages for s in samples], [s.response for s in samples]
        )
        return evaluation.PolicyRun(name, samples, rewards, kl, sampling.tokens_per_second(path))

    def kl(self, name: str, samples: Sequence[Sample]) -> evaluation.KL:
        """KL to the policy that the recipe names, whatever this one began from."""
        trained, base = self.policies[name], self.base_of(name)
        whole = is_model(trained)
        found = sample_logprobs.response_logprobs(
            *((str(trained), None) if whole else (base, trained))
        )
        reference = found.reference
        if whole or base != self.policy:
            reference = sample_logprobs.response_logprobs(self.policy, None).reference
        return evaluation.estimate_kl(samples, found.policy, reference)

    # last, and every time: it costs seconds
    def report(self) -> None:
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
    """A trained policy as a model folder: itself, or its adapter merged for the while."""
    if is_model(trained):
        yield str(trained)
        return
    backbone.merge_adapter(base, trained, merged, "float32")
    try:
        yield str(merged)
    finally:
        shutil.rmtree(merged)
