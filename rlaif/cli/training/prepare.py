"""`rlaif train prepare …`: labels tokenized once, into a corpus that trainings read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rlaif.cli import complete
from rlaif.cli.options import OutFolder, Settings, output
from rlaif.cli.settings_help import command_with_settings

app = typer.Typer(
    help="Tokenize labels once, into a corpus that rlaif train dpo and reward read in their place. "
    "A killed preparation goes on; start it several times to use several cores.",
    no_args_is_help=True,
)

Labels = Annotated[
    Path,
    typer.Argument(help="preferences.parquet, its folder, JSONL, or a folder of shards."),
]
Model = Annotated[
    str,
    typer.Option(
        help="Whose tokenizer and chat template: a short name, folder or hub id.",
        autocompletion=complete.models,
    ),
]


@app.command(
    cls=command_with_settings("rlaif.algorithms.dpo.config:DPOConfig"),
    epilog="Example: rlaif train prepare dpo labels --model smollm2-135m --out corpus "
    "max_tokens=512. The tokens depend on max_tokens, chat_template_kwargs and unusable only.",
)
def dpo(
    labels: Labels, model: Model, settings: Settings = None, out: OutFolder = Path("corpus")
) -> None:
    """A corpus for DPO, with its settings; a reward model can be trained on it, too."""
    _prepare(labels, algorithm="dpo", model=model, config=settings or [], out=out)


@app.command(
    cls=command_with_settings("rlaif.algorithms.reward.config:RewardConfig"),
    epilog="Example: rlaif train prepare reward labels --model smollm2-135m --out corpus "
    "max_tokens=512. The tokens depend on max_tokens, chat_template_kwargs and unusable only.",
)
def reward(
    labels: Labels, model: Model, settings: Settings = None, out: OutFolder = Path("corpus")
) -> None:
    """A corpus for a reward model, with its settings; DPO can be trained on it, too."""
    _prepare(labels, algorithm="reward", model=model, config=settings or [], out=out)


def _prepare(labels: Path, **asked: Any) -> None:
    from rlaif.api.corpus.prepare import prepare_corpus
    from rlaif.batching.corpus.manifest import read_manifest

    out = prepare_corpus(labels, **asked)
    found = read_manifest(out)
    left_out = f", {found.left_out} left out" if found.left_out else ""
    output().print(
        f"corpus: {out}, {found.rows} pairs, {found.tokens} tokens{left_out}", highlight=False
    )
