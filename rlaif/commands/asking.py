"""What the commands that ask a judge share: the texts, the server, the constitution."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from constitution.errors import UserError

if TYPE_CHECKING:
    from judge_service.calls import Law
    from judge_service.client import JudgeClient
    from judge_service.judgment import Usage

Text = Annotated[str, typer.Argument(help="The text, or @FILE to read it from a file.")]
Protocol = Annotated[str, typer.Option(help="The way of reading; default: the recommended one.")]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Compute every read, also those the server has stored.")
]


def read_text(argument: str) -> str:
    """The argument, or the file that it names with an @. Raises UserError."""
    if not argument.startswith("@"):
        return argument
    path = Path(argument[1:])
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error


@contextmanager
def asked_judge(judge: str, constitution: str, server: str) -> Iterator[tuple[JudgeClient, Law]]:
    """A client, and the constitution as its server takes it: by name, or a file's content.

    With a `judge` (a model), a server is started for as long as this lasts.
    """
    if not judge:
        from rlaif.connecting import judge_at

        with judge_at(server) as client:
            yield client, _law(client, constitution)
        return
    from rlaif.judging import judge_client
    from rlaif.models import cache_folder

    with judge_client(judge, constitution, cache_folder() / "judge.log") as client:
        yield client, _law(client, constitution)


def _law(client: JudgeClient, constitution: str) -> Law:
    """A file travels by its digest where the server has it, and else as it is."""
    if "/" not in constitution and not constitution.endswith((".yaml", ".yml")):
        return constitution
    from constitution.schema import Constitution

    law = Constitution.load(constitution)
    known = {summary.sha256 for summary in client.constitutions()}
    return law.digest if law.digest in known else law


def describe(usage: Usage, seconds: float) -> str:
    """What an answer cost, in a line."""
    stored = f" and {usage.stored_reads} stored" if usage.stored_reads else ""
    written = f", {usage.output_tokens} written" if usage.output_tokens > usage.reads else ""
    return (
        f"{usage.reads} reads{stored}, {usage.prompt_tokens} prompt tokens "
        f"({usage.cached_tokens} cached){written}, {seconds:.1f} s"
    )
