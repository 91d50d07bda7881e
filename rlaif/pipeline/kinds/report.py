"""report: the HTML page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from rlaif.pipeline.context import RunContext, run_facts
from rlaif.pipeline.stage import EVERY_STAGE, ArtifactType, Files, Slot, Stage, names_of
from rlaif.settings import SettingsModel

if TYPE_CHECKING:
    from rich.console import Console

# Beside checkpoints and what a killed stage left: nothing that a report shows.
_NOT_SHOWN = {".log", ".unfinished", ".lock", ".safetensors"}


class ReportConfig(SettingsModel):
    """Settings of the page."""

    file: str = Field(
        default="report.html",
        pattern=r"^[A-Za-z0-9_-]+\.html$",
        description="its name in the run's folder",
    )


class ReportStage(Stage):
    """Writes one self-contained page about the stages that it takes."""

    kind = "report"
    takes = {
        "of": Slot(
            tuple(kind for kind in ArtifactType if kind is not ArtifactType.REPORT),
            "the stages to show, in order; by default all",
            many=True,
            default=EVERY_STAGE,
        )
    }
    gives = ArtifactType.REPORT
    settings_class = ReportConfig

    def does(self, context: RunContext) -> str:
        return f"writing the report on {names_of(self.sources['of'])}"

    def inputs(self, context: RunContext) -> dict[str, Any]:
        return {
            "facts": run_facts(context),
            "files": [Files(tuple(shown_files(stage.folder))) for stage in self._shown],
        }

    def run(self, context: RunContext) -> None:
        from rlaif.report.inputs import ReportInputs, StageFolder
        from rlaif.report.page import write_page

        stages = [StageFolder(s.name, s.kind, s.folder) for s in self._shown]
        write_page(ReportInputs(run_facts(context), tuple(stages)), self._page)

    @property
    def _shown(self) -> list[Stage]:
        """The stages that it takes, without those of rounds that were not needed."""
        return [stage for stage in self.predecessors if not stage.not_needed]

    @property
    def outputs(self) -> Files:
        return Files((self._page,))

    @property
    def outputs_elsewhere(self) -> tuple[Path, ...]:
        return (self._page,)

    @property
    def _page(self) -> Path:
        return self.folder.parent / str(self.settings.file)

    def show(self, context: RunContext, console: Console) -> None:
        console.print(f"report: {self._page}", highlight=False, soft_wrap=True)


def shown_files(folder: Path) -> list[Path]:
    """The files of a stage that a report may read."""
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and "checkpoints" not in file.parts and file.suffix not in _NOT_SHOWN
    ]
