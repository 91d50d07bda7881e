"""The report of a run: one self-contained HTML page about labels, training and evaluation.

The first screen says who judged, how much was labeled, and which policy is better; then one section
per stage, in the order of the run (sections/ has one builder per kind). The page shows what the run
folder holds. A missing part is reported as missing, never filled in. All text from models and files
is escaped. The page loads nothing: style, script and plots are in it, and its content security
policy forbids everything else.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from rlaif.data.records import atomic_open
from rlaif.report.formats import NO_VALUE, format_number, format_percent
from rlaif.report.inputs import ReportInputs, StageFolder
from rlaif.report.judged_by import LABELED_TOO
from rlaif.report.sections import SECTIONS
from rlaif.report.sections.base import (
    EvaluationOutcome,
    JudgeModel,
    LabelOutcome,
    SectionContent,
)
from rlaif.report.sections.gold import planted_warning

OWN_KIND = "report"  # the stage that writes this page; it has no section


@dataclass(frozen=True, slots=True)
class PageSection:
    """A stage's section with its place on the page. anchor: unique, also of its headings."""

    name: str
    kind: str
    anchor: str
    has_folder: bool
    content: SectionContent


def write_report(run: Path, out: Path) -> Path:
    """Write the page of a run folder to the file `out`, atomically. Returns `out`.

    Raises ReportError if the folder is not a run of this version, or a file cannot be read.
    """
    return write_page(ReportInputs.of_run(run), out)


def write_page(inputs: ReportInputs, out: Path) -> Path:
    """Write the page of these stages to `out`, atomically. Returns `out`. Raises ReportError."""
    page = render_page(inputs)
    with atomic_open(out) as file:
        file.write(page)
    return out


def render_page(inputs: ReportInputs) -> str:
    """The page as HTML. Raises ReportError if a file cannot be read."""
    sections = page_sections(inputs)
    outcomes = [section.content.outcome for section in sections]
    labeled = [outcome for outcome in outcomes if isinstance(outcome, LabelOutcome)]
    evaluated = [outcome for outcome in outcomes if isinstance(outcome, EvaluationOutcome)]
    style, script = packaged("page.css"), packaged("page.js")
    template = environment().get_template("page.html.j2")
    return template.render(
        facts=inputs.facts,
        sections=sections,
        kinds={section.kind for section in sections},
        labeled=labeled,
        evaluated=evaluated,
        who_judged=who_judged(labeled, evaluated),
        style=Markup(style),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def page_sections(inputs: ReportInputs) -> list[PageSection]:
    """One section per stage, in order; the report's own stage has none."""
    sections: list[PageSection] = []
    for stage in inputs.stages:
        if stage.kind != OWN_KIND:
            anchor = anchor_of(stage.name, {section.anchor for section in sections})
            build = SECTIONS.get(stage.kind, list_files)
            content = build(stage, inputs)
            there = stage.folder.is_dir()
            sections.append(PageSection(stage.name, stage.kind, anchor, there, content))
    return sections


def anchor_of(name: str, taken: Collection[str]) -> str:
    """A link target made of a stage's name: letters, digits and single dashes; not yet taken.

    A heading inside a section adds "--" and a word, so it never equals another section's anchor.
    """
    base = "stage-" + (re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unnamed")
    number, anchor = 1, base
    while anchor in taken:
        number += 1
        anchor = f"{base}-{number}"
    return anchor


def list_files(stage: StageFolder, _: ReportInputs) -> SectionContent:
    """The section of a kind that the report does not know: the names of the stage's files."""
    files = sorted(path.name for path in stage.folder.glob("*") if path.is_file())
    return SectionContent("files.html.j2", {"files": files})


def who_judged(
    labeled: Sequence[LabelOutcome], evaluated: Sequence[EvaluationOutcome]
) -> list[str]:
    """Sentences on who labeled and who evaluated, and whether that was the same model."""
    labelers = _distinct(outcome.judge for outcome in labeled if outcome.judge)
    evaluators = _distinct(judge for outcome in evaluated for judge in outcome.judges)
    sentences = []
    if labelers and set(labelers) == set(evaluators):
        sentences.append(
            f"{_named(labelers)} labeled the training pairs and judged the evaluation."
        )
    else:
        if labelers:
            sentences.append(f"{_named(labelers)} labeled the training pairs.")
        if evaluators:
            sentences.append(f"{_named(evaluators)} judged the evaluation.")
    planted = [planted_warning(judge.name) for judge in _distinct([*labelers, *evaluators])]
    sentences += dict.fromkeys(text for text in planted if text)
    # what is not recorded is said, not guessed
    silent = [outcome.stage for outcome in labeled if outcome.judge is None]
    silent += [outcome.stage for outcome in evaluated if not outcome.judges]
    if silent:
        sentences.append(f"Who judged is not recorded in {', '.join(silent)}.")
    shared = [judge for judge in evaluators if judge.weights_sha256 in _weights(labelers)]
    if shared:
        names = " and ".join(dict.fromkeys(judge.name for judge in shared))
        said = f"Of the judges that evaluate, {names} also labeled the training data."
        if len(shared) == len(evaluators):
            said = f"{LABELED_TOO.removesuffix('.')} ({names})."
        sentences.append(f"{said} Its errors count twice, and its column cannot show them.")
    elif labelers and evaluators:
        sentences.append("The model that evaluated is not the one that labeled.")
    return sentences


def _distinct(judges: Iterable[JudgeModel]) -> list[JudgeModel]:
    return list(dict.fromkeys(judges))


def _weights(judges: Sequence[JudgeModel]) -> set[str]:
    return {judge.weights_sha256 for judge in judges}


def _named(judges: Sequence[JudgeModel]) -> str:
    return " and ".join(f"{judge.name} (constitution {judge.constitution})" for judge in judges)


def _foldable(name: str) -> Markup:
    """The name, escaped, with a place to fold after each underscore."""
    return Markup(str(escape(name)).replace("_", "_<wbr>"))


def packaged(name: str) -> str:
    """A file of templates/ as text: the style sheet, the script."""
    return (resources.files("rlaif.report") / "templates" / name).read_text(encoding="utf-8")


def environment() -> Environment:
    """Renders the templates: it escapes what is not marked as safe, and refuses missing values."""
    made = Environment(
        loader=PackageLoader("rlaif.report", package_path="templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {
        "percent": lambda x: NO_VALUE if x is None else f"{100 * x:.0f}\u00a0%",
        "share": format_percent,
        "estimate": format_number,
        "number": lambda x: NO_VALUE if x is None else f"{x:.2f}",
        "count": lambda x: f"{x:,}",
        "name": _foldable,
        "twice": lambda x: (x, x),
        "slug": lambda text: re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-"),
    }
    made.filters.update(filters)
    return made
