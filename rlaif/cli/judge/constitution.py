"""`rlaif constitution new | show | lint`: create, display and check constitutions."""

from __future__ import annotations

import json
import os
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from constitution.errors import UserError
from rlaif.cli.judge import constitution_tools
from rlaif.cli.options import AsJson, output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from constitution import Constitution
    from constitution.lint import Finding, LintedText

app = typer.Typer(help="Create, show, check, test and edit constitutions.", no_args_is_help=True)

# ── new ──────────────────────────────────────────────────────────────────────────────────────


@app.command(epilog="Example: rlaif constitution new my_rules --from customer_support")
def new(
    name: Annotated[str, typer.Argument(help="The name of the new constitution.")],
    origin: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="NAME",
            help="The shipped constitution, or the YAML file, to copy; default: a short annotated "
            "starter.",
        ),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="The file to write. [NAME.yaml]"),
    ] = None,
) -> None:
    """Write a commented constitution to start from; an existing file is not overwritten."""
    from constitution import Constitution
    from constitution.template import new_constitution
    from rlaif.data.records import atomic_open

    text = new_constitution(name, origin)
    path = out or Path(f"{name}.yaml")
    if os.path.lexists(path):
        raise UserError(f"file exists: {path}; delete it, or give another --out")
    with atomic_open(path) as file:
        file.write(text)
    # What was written, and the commands that usually come next.
    written = Constitution.from_yaml(text, str(path))
    of = f"copied from {origin}" if origin else "the annotated starter"
    # A path without a folder or .yaml would be read as a shipped name.
    looks_like_path = "/" in str(path) or path.suffix in (".yaml", ".yml")
    argument = shlex.quote(str(path) if looks_like_path else f"./{path}")
    print(
        f"wrote {path}: {of}, {len(written.principles)} principles\n"
        "edit it, then:\n"
        f"  rlaif constitution lint {argument}\n"
        f"  rlaif constitution test {argument} --judge qwen2.5-coder-1.5b --watch\n"
        f"  rlaif constitution try {argument} --judge qwen2.5-coder-1.5b"
    )


# ── show ─────────────────────────────────────────────────────────────────────────────────────


@app.command(epilog="Example: rlaif constitution show customer_support")
def show(
    name: Annotated[
        str,
        typer.Argument(
            help="Name of a shipped constitution, or a YAML file; default: list the shipped ones."
        ),
    ] = "",
    as_json: AsJson = False,
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="The file as it is, comments included.")
    ] = False,
) -> None:
    """Print a constitution as the judge reads it, or list the shipped ones."""
    from constitution import Constitution

    if as_yaml:
        _show_file(name, as_json)
        return
    out = output()
    if not name:
        for shipped in map(Constitution.load, Constitution.library_names()):
            out.print(f"[bold]{shipped.name}[/bold] {shipped.version}  {shipped.description}")
        return
    constitution = Constitution.load(name)
    if as_json:
        fields = {"digest": constitution.digest, **constitution.model_dump(mode="json")}
        print(json.dumps(fields, ensure_ascii=False))
        return
    _show_table(constitution)


def _show_file(name: str, as_json: bool) -> None:
    from constitution.loader import read_source

    if not name or as_json:
        problem = "--json excludes --yaml" if as_json else "missing NAME: --yaml prints one file"
        raise typer.BadParameter(problem)
    text, _ = read_source(name)
    typer.echo(text.encode(), nl=False)  # bytes: line breaks and encoding as in the file


def _show_table(constitution: Constitution) -> None:
    from rlaif.terminal_tables import print_table

    out, digest = output(), constitution.digest[:16]
    out.print(f"[bold]{constitution.name}[/bold] {constitution.version}  sha256 {digest}")
    if constitution.description:
        out.print(constitution.description, markup=False)
    rows = [
        [
            principle.id,
            principle.trait,
            f"{principle.weight * constitution.trait_weights[principle.trait]:g}",
            principle.compare,
            str(len(principle.examples)),
        ]
        for principle in constitution.principles
    ]
    headings = ("principle", "trait", "weight", "text for the judge", "examples")
    print_table(out, headings, rows, folded={"principle", "trait", "text for the judge"})


# ── lint ─────────────────────────────────────────────────────────────────────────────────────


class LintFormat(StrEnum):
    """The output format of `lint`."""

    TEXT = "text"
    SHORT = "short"
    JSON = "json"
    GITHUB = "github"


@app.command("lint", epilog="Example: rlaif constitution lint my_rules.yaml --fix")
def lint_all(
    names: Annotated[
        list[str], typer.Argument(help="Names of shipped constitutions, or YAML files.")
    ],
    form: Annotated[
        LintFormat,
        typer.Option(
            "--format", help="short: a line for each finding; github: annotations for a workflow."
        ),
    ] = LintFormat.TEXT,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 on warnings too.")] = False,
    fix: Annotated[
        bool,
        typer.Option("--fix", help="Repair in the file what is certain, and show the changes."),
    ] = False,
) -> None:
    """Report errors, warnings and advice, each with its remedy.

    Exits with 1 on errors only; docs/constitution.md lists all rules.
    """
    from constitution.lint import Severity, lint_source

    form = LintFormat.JSON if as_json else form
    if fix:
        _require_own_files(names)
    # Each file is repaired before it is reported, so that only what remains is shown.
    linted = {}
    for name in names:
        linted[name] = lint_source(name)
        if fix:
            linted[name] = _fix(name, linted[name], quiet=form is not LintFormat.TEXT)
    _print_findings(linted, form)
    failing = {Severity.ERROR, Severity.WARNING} if strict else {Severity.ERROR}
    findings = [finding for each in linted.values() for finding in each.findings]
    if any(finding.severity in failing for finding in findings):
        raise typer.Exit(1)


def _require_own_files(names: Sequence[str]) -> None:
    from constitution.loader import library_names

    for name in names:
        if name in library_names():
            raise UserError(
                f"cannot repair a shipped constitution: {name}; copy it first: "
                f"rlaif constitution new my_rules --from {name}"
            )


def _fix(file: str, linted: LintedText, *, quiet: bool) -> LintedText:
    """The file after its certain repairs, which are written and, unless quiet, shown."""
    from constitution.lint import LintedText, report
    from constitution.lint.fix import diff, fix, texts_differ
    from rlaif.data.records import atomic_open

    fixed = fix(linted.text, linted.source)
    if fixed.text != linted.text:
        path = Path(file).resolve()  # the file itself, where `file` is a link to it
        mode = path.stat().st_mode
        with atomic_open(path) as out:
            out.write(fixed.text)
        path.chmod(mode)
    if fixed.repaired and not quiet:
        color, _ = _terminal()
        paint = report.in_color if color else report.without_color
        print(report.as_diff(diff(linted.text, fixed.text, file), paint))
        print(
            f"{file}: repaired {len(fixed.repaired)} of {_count(fixed.repaired, fixed.remaining)}"
        )
        if texts_differ(linted.text, fixed.text):
            print("texts that the judge reads have changed: rlaif label --update updates labels")
    return LintedText(linted.source, fixed.text, list(fixed.remaining))


def _count(*groups: Sequence[Finding]) -> str:
    number = sum(map(len, groups))
    return f"{number} finding{'s' * (number != 1)}"


def _print_findings(linted: dict[str, LintedText], form: LintFormat) -> None:
    from constitution.lint import report

    findings = [finding for each in linted.values() for finding in each.findings]
    match form:
        case LintFormat.JSON:
            print(report.as_json(findings))
        case LintFormat.GITHUB:
            if findings:
                print(report.as_github(findings))
        case LintFormat.SHORT:
            for name, each in linted.items():
                print(report.as_short_text(name, each.findings))
        case LintFormat.TEXT:
            color, width = _terminal()
            paint = report.in_color if color else report.without_color
            for name, each in linted.items():
                print(report.as_text(name, each, paint, width))


def _terminal() -> tuple[bool, int | None]:
    """(whether to color, the width in columns); no width where standard output is a pipe or file.

    Rich decides on the colors: NO_COLOR, FORCE_COLOR and TERM=dumb are heeded.
    """
    console = output()
    color = console.color_system is not None and not console.no_color
    return color, console.width if sys.stdout.isatty() or "COLUMNS" in os.environ else None


app.command("test", epilog="Example: rlaif constitution test my_rules.yaml --watch")(
    constitution_tools.run_examples
)
app.command(
    epilog="Example: rlaif constitution diff old.yaml new.yaml --labels labels/preferences.parquet"
)(constitution_tools.diff)
app.command(
    epilog="Example: rlaif constitution ablate my_rules.yaml --labels labels/preferences.parquet "
    "--gold pairs.jsonl --out ablation"
)(constitution_tools.ablate)
app.command("try", epilog="Example: rlaif constitution try my_rules.yaml")(constitution_tools.try_)
