"""dpo: direct preference optimization on soft labels."""

from __future__ import annotations

from typing import Any

from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.data.prompt_split import TRAIN
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.stage import ArtifactType, Stage, labels_by_file, names_of, one


class DPOStage(Stage):
    """Trains a policy directly on labels."""

    kind = "dpo"
    takes = {
        "model": one(ArtifactType.MODEL, "what training begins from, and the reference"),
        "labels": one(ArtifactType.PREFERENCES, "what it learns", many=True, files=True),
    }
    gives = ArtifactType.POLICY
    settings_class = DPOConfig
    grows_with = TRAIN

    def does(self, context: RunContext) -> str:
        return f"training {self.source('model').title} on {names_of(self.sources['labels'])}"

    def inputs(self, context: RunContext) -> dict[str, Any]:
        return {"split": context.split_inputs(holds_out=self.holds_out)}

    def run(self, context: RunContext) -> None:
        from rlaif.algorithms.dpo.train import train
        from rlaif.batching.origins import naming_files
        from rlaif.feedback.undecided import report_undecided, undecided_in

        files = labels_by_file(self.sources["labels"])
        labels = [label for _, of_file in files for label in of_file]
        report_undecided(undecided_in(label.prob_chosen for label in labels))
        split = context.split(labels, looks=self.looks, holds_out=self.holds_out)
        model = self.source("model").model
        with naming_files(*files):
            train(self.settings, model, split.train, self.folder, split.heldout)

    @property
    def looks(self) -> bool:
        """Whether training looks at held-out pairs."""
        return self.settings.eval_every is not None or self.settings.keep == "best"
