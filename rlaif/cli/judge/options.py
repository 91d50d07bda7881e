"""What the commands that ask a judge share: the texts, the server, the constitution."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from constitution.errors import UserError
from rlaif.cli.options import DEFAULT_WAIT_S

if TYPE_CHECKING:
    from judge_service.client.calls import ConstitutionRef
    from judge_service.client.sync import JudgeClient
    from judge_service.types import Usage

PROBE_S = 2.0  # to ask a server what it does

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


def longest_wait(wait: bool, timeout: float | None) -> float | None:
    """Seconds to wait for a server by --wait and --wait-timeout; None: do not wait."""
    if timeout is not None:
        return timeout
    return DEFAULT_WAIT_S if wait else None


@contextmanager
def asked_judge(
    judge: str, constitution: str, server: str, wait: float | None = None
) -> Iterator[tuple[JudgeClient, ConstitutionRef]]:
    """A client, and the constitution as its server takes it: by name, or a file's content.

    With a `judge` (a model), a server is started for as long as this lasts. wait: how long a
    running server may take to be ready, seconds; None: it is asked at once, and an error names
    --wait where that would have helped.
    """
    if not judge:
        from rlaif.feedback.connection import judge_at, wait_until_ready

        with judge_at(server) as client:
            if wait is not None:
                wait_until_ready(client, wait)
                yield client, _law(client, constitution)
                return
            with _naming_wait(client):
                yield client, _law(client, constitution)
        return
    from rlaif.feedback.client import judge_client
    from rlaif.models.catalog import cache_folder

    with judge_client(judge, constitution, cache_folder() / "judge.log") as client:
        yield client, _law(client, constitution)


@contextmanager
def bulk_judge(
    judge: str, constitution: str, log: Path, server: str, wait: float | None
) -> Iterator[JudgeClient]:
    """`judging.judge_client` for a command that has --wait."""
    from rlaif.feedback.client import judge_client
    from rlaif.feedback.connection import judge_at

    if judge or wait is not None:
        longest = DEFAULT_WAIT_S if wait is None else wait
        with judge_client(judge, constitution, log, server, wait=longest) as client:
            yield client
        return
    with ExitStack() as stack:
        probe = stack.enter_context(judge_at(server))
        with _naming_wait(probe):
            client = stack.enter_context(judge_client(judge, constitution, log, server))
        yield client


@contextmanager
def _naming_wait(client: JudgeClient) -> Iterator[None]:
    """Name --wait in the error of a server that loads, or that is not there yet."""
    from judge_service.client.sync import JudgeUnavailable
    from judge_service.server_info import ServerState

    try:
        yield
    except JudgeUnavailable as error:
        try:
            state = client.server_info(timeout=PROBE_S).state
        except UserError:
            raise JudgeUnavailable(
                f"{error}; if it is just starting, --wait waits for it"
            ) from error
        if state is not ServerState.LOADING:
            raise
        raise JudgeUnavailable(
            f"the judge at {client.address} is still loading its model; --wait waits until it is "
            "ready"
        ) from error


def _law(client: JudgeClient, constitution: str) -> ConstitutionRef:
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
