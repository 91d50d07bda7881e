"""sft: supervised fine-tuning on chosen responses, samples, demonstrations or plain text."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rlaif.algorithms.sft.config import SFTConfig
from rlaif.data.datasets import read_lessons
from rlaif.data.prompt_split import TRAIN
from rlaif.data.records import Lesson
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.stage import ArtifactType, Slot, Stage, names_of, one


class SFTStage(Stage):
    """Trains a policy to imitate responses, from one source or a weighted mix."""

    kind = "sft"
    takes = {
        "model": one(ArtifactType.MODEL, "what training begins from"),
        "data": Slot(
            (ArtifactType.PREFERENCES, ArtifactType.SAMPLES, ArtifactType.DEMONSTRATIONS),
            "what to imitate; of preferences, the chosen response",
            many=True,
            weighted=True,
            moving=True,
            files=True,
        ),
    }
    gives = ArtifactType.POLICY
    settings_class = SFTConfig
    grows_with = TRAIN

    def does(self, context: RunContext) -> str:
        return (
            f"training {self.source('model').title} to imitate the responses of "
            f"{names_of(self.sources['data'])}"
        )

    def inputs(self, context: RunContext) -> dict[str, Any]:
        return {"split": context.split_inputs(holds_out=self.holds_out)}

    def run(self, context: RunContext) -> None:
        from rlaif.algorithms.sft.sources import SFTSource
        from rlaif.algorithms.sft.train import train
        from rlaif.batching.origins import naming_files

        # Every source is split by prompt; what is held out of any is looked at together.
        mix: list[SFTSource] = []
        heldout: list[Lesson] = []
        files: list[tuple[Path, list[Lesson]]] = []
        labels = Counter(each.label for each in self.sources["data"])
        for each in self.sources["data"]:
            records = read_lessons(each.file)
            files.append((each.file, records))
            split = context.split(records, looks=self.looks, holds_out=self.holds_out)
            # Of files with the same name in different folders, the whole path is the name.
            name = each.label if labels[each.label] == 1 else each.text
            mix.append(SFTSource(name, split.train, each.weight))
            heldout += split.heldout
        with naming_files(*files):
            train(self.settings, self.source("model").model, mix, self.folder, heldout)

    @property
    def looks(self) -> bool:
        """Whether training looks at held-out data."""
        return self.settings.eval_every is not None
