"""Options and judge connections shared by the commands that use a judge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from constitution.errors import UserError
from rlaif.cli import complete
from rlaif.cli.options import DEFAULT_WAIT_S

if TYPE_CHECKING:
    from judge_service.client.calls import ConstitutionRef
    from judge_service.client.sync import JudgeClient
    from judge_service.types import Provenance, Usage

PROBE_S = 2.0  # time limit of a request for the server's state

Text = Annotated[str, typer.Argument(help="The text, or @FILE to read it from a file.")]
Protocol = Annotated[str, typer.Option(help="How labels are read; default: the recommended way.")]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Compute every read, even those in the server's store.")
]
KnownConstitution = Annotated[
    str,
    typer.Option(
        "--constitution",
        "-c",
        help="Name of a constitution, or a YAML file.",
        autocompletion=complete.constitutions,
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be judged and written, and stop.")
]
GOLD_PAIRS = typer.Option(
    help="JSONL of pairs with a known better response: prompt, chosen, rejected."
)


def read_text(argument: str) -> str:
    """The argument, or the content of the file named by @FILE. Raises UserError."""
    if not argument.startswith("@"):
        return argument
    path = Path(argument[1:])
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read: {error}; give a UTF-8 file, or the text itself without @"
        ) from error


def longest_wait(wait: bool, timeout: float | None) -> float | None:
    """Seconds to wait for a server, from --wait and --wait-timeout; None: do not wait."""
    if timeout is not None:
        return timeout
    return DEFAULT_WAIT_S if wait else None


@contextmanager
def open_judge(
    judge: str, constitution: str, server: str, wait: float | None = None
) -> Iterator[tuple[JudgeClient, ConstitutionRef]]:
    """Yield a client and the constitution for its requests: a name, a digest or the content.

    With a `judge` (a model), a server is started for the block. wait: seconds that a running server
    may take to be ready; None: use it at once, and suggest --wait in an error where it would help.
    """
    if not judge:
        from rlaif.feedback.connection import judge_at, wait_until_ready

        with judge_at(server) as client:
            if wait is not None:
                wait_until_ready(client, wait)
                yield client, _resolve(client, constitution)
                return
            with _suggest_wait(client):
                yield client, _resolve(client, constitution)
        return
    from rlaif.feedback.client import judge_client
    from rlaif.models.catalog import cache_folder

    with judge_client(judge, constitution, cache_folder() / "judge.log") as client:
        yield client, _resolve(client, constitution)


@contextmanager
def bulk_judge(
    judge: str, constitution: str, log: Path, server: str, wait: float | None
) -> Iterator[JudgeClient]:
    """`rlaif.feedback.client.judge_client` for a command with --wait."""
    from rlaif.feedback.client import judge_client
    from rlaif.feedback.connection import judge_at

    if judge or wait is not None:
        longest = DEFAULT_WAIT_S if wait is None else wait
        with judge_client(judge, constitution, log, server, wait=longest) as client:
            yield client
        return
    with ExitStack() as stack:
        probe = stack.enter_context(judge_at(server))
        with _suggest_wait(probe):
            client = stack.enter_context(judge_client(judge, constitution, log, server))
        yield client


@contextmanager
def suggest_wait(judge: str, server: str, wait: float | None) -> Iterator[None]:
    """Suggest --wait in the errors of a block that connects to a running server without it."""
    if judge or wait is not None:
        yield
        return
    from rlaif.feedback.connection import judge_at

    with judge_at(server) as probe, _suggest_wait(probe):
        yield


@contextmanager
def _suggest_wait(client: JudgeClient) -> Iterator[None]:
    """Suggest --wait in the error of a server that is loading or does not answer yet."""
    from judge_service.client.sync import JudgeUnavailable
    from judge_service.server_info import ServerState

    try:
        yield
    except JudgeUnavailable as error:
        try:
            state = client.server_info(timeout=PROBE_S).state
        except UserError:
            raise JudgeUnavailable(
                f"{error}; if it is just starting, use --wait to wait for it"
            ) from error
        if state is not ServerState.LOADING:
            raise
        raise JudgeUnavailable(
            f"the judge at {client.address} is still loading its model; use --wait to wait until "
            "it is ready"
        ) from error


def _resolve(client: JudgeClient, constitution: str) -> ConstitutionRef:
    """A name as it is; a file as its digest if the server has it, else as its content."""
    if "/" not in constitution and not constitution.endswith((".yaml", ".yml")):
        return constitution
    from constitution.schema import Constitution

    loaded = Constitution.load(constitution)
    known = {summary.sha256 for summary in client.constitutions()}
    return loaded.digest if loaded.digest in known else loaded


def say_if_planted(origin: Provenance) -> None:
    """A line that no model judged, where a simulated judge did."""
    from judge_service.planted.file import PREFIX
    from rlaif.cli.options import output

    name = origin.model.name
    if name.startswith(PREFIX):
        output().print(f"judged by {name}: planted, simulated by rules, no model", highlight=False)


def describe(usage: Usage, seconds: float) -> str:
    """The cost of an answer in one line."""
    stored = f" and {usage.stored_reads} stored" if usage.stored_reads else ""
    written = f", {usage.output_tokens} written" if usage.output_tokens > usage.reads else ""
    return (
        f"{usage.reads} reads{stored}, {usage.prompt_tokens} prompt tokens "
        f"({usage.cached_tokens} cached){written}, {seconds:.1f} s"
    )
