"""redteam: attacks on a model; what succeeds is to be revised, and benign twins beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaif.pipeline.context import RunContext
from rlaif.pipeline.options import ConstitutionOptions
from rlaif.pipeline.stage import ArtifactType, Files, Slot, Stage, judge_slot, one
from rlaif.redteam.config import RedTeamConfig

if TYPE_CHECKING:
    from rich.console import Console

    from rlaif.redteam.attack import AttackPlan

_SLOTS = {
    "budget": "budget", "unknown topic": "topics", "unknown family": "families",
    "families": "families",
}  # fmt: skip
"""What an error of the plan begins with → the setting that it is about."""


class RedTeamStage(Stage):
    """Attacks a model by every topic and strategy, and gives the responses that should not be."""

    kind = "redteam"
    takes = {
        "model": one(ArtifactType.MODEL, "what is attacked"),
        "attacker": one(ArtifactType.MODEL, "what words the requests anew", optional=True),
        "judge": judge_slot("what rates the responses"),
    }
    gives = ArtifactType.SAMPLES
    settings_class = RedTeamConfig
    options_class = ConstitutionOptions
    keeps_its_own = True  # the journals have every response and rating by its content

    @classmethod
    def slots(cls, settings: Any) -> Mapping[str, Slot]:
        by_rule = {name: slot for name, slot in cls.takes.items() if name != "judge"}
        return by_rule if settings.verdict == "rule" else cls.takes

    def refused(self) -> Iterator[tuple[str, str]]:
        from rlaif.redteam.strategies import RedTeamError

        try:
            self._plan()
        except RedTeamError as error:
            for line in str(error).split("\n"):
                slots = (slot for begins, slot in _SLOTS.items() if line.startswith(begins))
                yield next(slots, "strategies"), line

    def does(self, context: RunContext) -> str:
        plan = self._plan()
        rated = "by rule" if not self._judged else f"rated by {self.source('judge').title}"
        attacker = self.sources.get("attacker", ())
        words = f", worded anew by {attacker[0].title}" if attacker else ""
        return (
            f"{self.source('model').title} is attacked in {len(plan.cells)} cells by at most "
            f"{plan.budget} prompts{words}, and answers as many benign twins; {rated}"
        )

    def inputs(self, context: RunContext) -> dict[str, Any]:
        facts: dict[str, Any] = {"system": context.recipe.system}
        if self._judged:
            facts["constitution"] = context.constitution(self.options.constitution).digest
        if not self.settings.strategies:  # of a file of the user, its content is declared
            from rlaif.redteam.strategies import load_strategies

            facts["shipped"] = load_strategies().model_dump(mode="json")
        if attacker := self.sources.get("attacker", ()):
            facts["attacker_kwargs"] = attacker[0].template_kwargs
        return facts

    def run(self, context: RunContext) -> None:
        from rlaif.redteam.attack import ATTACKER_JOURNAL, TARGET_JOURNAL, red_team
        from rlaif.redteam.responder import LocalModel
        from rlaif.redteam.verdict import RatingJudge

        model, attacker = self.source("model"), None
        target = LocalModel(
            model.title, model.model, self.settings, self.folder / TARGET_JOURNAL
        )  # fmt: skip
        if writers := self.sources.get("attacker", ()):
            kwargs = {"chat_template_kwargs": writers[0].template_kwargs}
            config = self.settings.model_copy(update=kwargs)
            journal = self.folder / ATTACKER_JOURNAL
            attacker = LocalModel(writers[0].title, writers[0].model, config, journal)
        name = self.options.constitution
        opened = (
            context.judge_client(self.source("judge").spec, name, self.folder / "judge.log")
            if self._judged
            else nullcontext()
        )
        with opened as client:
            judge = None
            if client is not None:
                judge = RatingJudge.of(client, self.folder, context.constitution(name).name)
            plan = self._plan(context.recipe.system)
            red_team(plan, target, self.folder, judge=judge, attacker=attacker)

    def _plan(self, system: str = "") -> AttackPlan:
        from rlaif.redteam.attack import plan_attack
        from rlaif.redteam.strategies import load_strategies

        return plan_attack(load_strategies(self.settings.strategies), self.settings, system)

    @property
    def _judged(self) -> bool:
        return "judge" in self.sources

    @property
    def outputs(self) -> Files:
        return Files((self.file_of(), self.file_of("twins")))

    @property
    def parts(self) -> Mapping[str, ArtifactType]:
        return {"twins": ArtifactType.SAMPLES}

    def file_of(self, part: str = "") -> Path:
        return self.folder / ("twins.jsonl" if part else "failures.jsonl")

    def show(self, context: RunContext, console: Console) -> None:
        from rlaif.redteam.summary import SUMMARY, RedTeamSummary

        for sentence in RedTeamSummary.load(self.folder / SUMMARY).sentences():
            console.print(f"{self.name}: {sentence}", highlight=False, soft_wrap=True)
