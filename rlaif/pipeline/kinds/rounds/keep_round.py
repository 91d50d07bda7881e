"""keep_round: the model of the round that is kept, which other stages take as the policy."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from rlaif.evaluation.rounds.result import ROUND_FILE, ROUNDS_FILE, RoundResult, RoundsSummary
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.kinds.rounds.evaluate_round import EvaluateRoundStage
from rlaif.pipeline.stage import ArtifactType, Files, Slot, Stage, model_files, one

if TYPE_CHECKING:
    from rich.console import Console


class KeepRoundStage(Stage):
    """Copies the model of the last round that gained something over the one before (of the first
    round, where none did), and puts the rounds' results side by side."""

    kind = "keep_round"
    takes = {
        "policy": Slot((ArtifactType.MODEL,), "the rounds' policies, in order", many=True),
        "evaluations": one(ArtifactType.EVALUATION, "the rounds' evaluations", many=True),
    }
    gives = ArtifactType.MODEL
    is_result = True

    def does(self, context: RunContext) -> str:
        return f"keeping the best of at most {len(self.sources['policy'])} rounds"

    def inputs(self, context: RunContext) -> dict[str, Any]:
        """Which rounds were needed, and their gold."""
        return {"rounds": [stage.name for stage in self._evaluations], "gold": self._gold_files()}

    def run(self, context: RunContext) -> None:
        summary = self._summary()
        source = self.sources["policy"][summary.kept - 1].stage
        assert source is not None
        for file in model_files(source.folder).paths:
            shutil.copyfile(file, self.folder / file.name)
        summary.save(self.folder / ROUNDS_FILE)

    def _summary(self) -> RoundsSummary:
        from rlaif.evaluation.gold import GoldEvaluation

        rounds = tuple(RoundResult.load(s.folder / ROUND_FILE) for s in self._evaluations)
        planted = self._gold_files().paths
        if not planted:
            return RoundsSummary(rounds, rounds[-1].kept)
        gold = GoldEvaluation.load(planted[0])
        return RoundsSummary(rounds, rounds[-1].kept, gold.policies[0].gold, gold.judge)

    @property
    def _evaluations(self) -> list[EvaluateRoundStage]:
        """Those of the rounds that were needed, in order."""
        found = [source.stage for source in self.sources["evaluations"]]
        return [s for s in found if isinstance(s, EvaluateRoundStage) and not s.not_needed]

    def _gold_files(self) -> Files:
        """The gold of the start, where a judge is planted."""
        from rlaif.evaluation.gold import GOLD_FILE

        first = self._evaluations[0].folder / GOLD_FILE
        return Files((first,) if first.is_file() else ())

    def show(self, context: RunContext, console: Console) -> None:
        from rlaif.report.rounds import rounds_sentences

        summary = RoundsSummary.load(self.folder / ROUNDS_FILE)
        for sentence in rounds_sentences(summary):
            console.print(sentence, highlight=False, soft_wrap=True)
