"""reward: a reward model on soft labels."""

from __future__ import annotations

from typing import Any

from rlaif.algorithms.reward.config import RewardConfig
from rlaif.data.prompt_split import TRAIN
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.options import ConstitutionOptions
from rlaif.pipeline.stage import ArtifactType, Stage, labels_by_file, one


class RewardStage(Stage):
    """Trains a reward model: a head for the label, and one per trait of the constitution."""

    kind = "reward"
    takes = {
        "model": one(ArtifactType.MODEL, "what training begins from"),
        "labels": one(ArtifactType.PREFERENCES, "what it learns", many=True, files=True),
    }
    gives = ArtifactType.REWARD_MODEL
    settings_class = RewardConfig
    options_class = ConstitutionOptions  # gives the traits their weights
    grows_with = TRAIN

    def does(self, context: RunContext) -> str:
        return "training the reward model on the soft labels"

    def inputs(self, context: RunContext) -> dict[str, Any]:
        return {
            "split": context.split_inputs(holds_out=True),
            "label_weights": context.constitution(self.options.constitution).label_weights,
        }

    def run(self, context: RunContext) -> None:
        from rlaif.algorithms.reward.train import train
        from rlaif.batching.origins import naming_files
        from rlaif.feedback.undecided import report_undecided, undecided_in

        files = labels_by_file(self.sources["labels"])
        labels = [label for _, of_file in files for label in of_file]
        report_undecided(undecided_in(label.prob_chosen for label in labels))
        split = context.split(labels, looks=True)
        weights = context.constitution(self.options.constitution).label_weights
        model = self.source("model").model
        with naming_files(*files):
            train(self.settings, model, split.train, self.folder, weights, split.heldout)

    @property
    def looks(self) -> bool:
        """Always: a reward model is reported by its held-out pairs."""
        return True
