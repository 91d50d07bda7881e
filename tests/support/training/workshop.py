"""Graphs over made-up samples and labels, whose trainers and samplers are stand-ins."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from rlaif.data.records import Sample, write_jsonl
from rlaif.feedback.labeler import label
from rlaif.feedback.pairs import pairs_from_samples
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.graph import build_graph
from tests.support.feedback.scripted_judge import ScriptedJudge
from tests.support.training.recipes import a_recipe

TRAINERS = {
    "sft": "rlaif.algorithms.sft.train.train",
    "reward": "rlaif.algorithms.reward.train.train",
    "dpo": "rlaif.algorithms.dpo.train.train",
    "ppo": "rlaif.algorithms.ppo.train.train",
    "rest": "rlaif.algorithms.rest.train.train",
}
POLICY = "/models/org/policy"
FROM_SFT = {name: {"model": "sft"} for name in ("reward", "dpo", "ppo", "rest")}


class WorkShop:
    """Graphs over made-up samples and labels; `got` has what each trainer was handed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.got = {}
        self.merged = []

    def make(self, stages=None, **changes):
        recipe = a_recipe(stages, **changes)
        self.graph, self.context = build_graph(recipe, self.folder), RunContext(recipe, self.folder)
        return self

    def prepare(self, stages=None, **changes):
        self.make(stages, **changes)
        samples, labels = self.graph["samples"], self.graph["labels"]
        answers = [
            Sample(
                prompt=p, index=i, response="word " * (3 + 2 * i), tokens=5, complete=True, seed=0
            )
            for p in self.context.prompts("train")
            for i in range(2)
        ]
        samples.folder.mkdir(parents=True, exist_ok=True)
        write_jsonl(samples.outputs.paths[0], answers)
        pairs = pairs_from_samples(answers)
        label(pairs.comparisons, ScriptedJudge(), labels.folder, constitution="hhh")
        return self

    def train(self):
        for stage in self.graph.stages:
            if stage.kind in {*TRAINERS, "merge"}:
                stage.folder.mkdir(exist_ok=True)
                stage.run(self.context)
        return self

    def trainer(self, name, leaves="adapter_config.json"):
        def train(config, model, records, *rest, **named):
            out = next(item for item in rest if isinstance(item, Path) and item.name == name)
            (out / leaves).write_text("{}")
            self.got[name] = SimpleNamespace(
                config=config, model=model, records=records, rest=rest, named=named
            )

        return train
