"""`rlaif token new` creates a token for a caller of a judge server."""

from __future__ import annotations

from typing import Annotated

import typer

from constitution.errors import UserError, expected_one_of

app = typer.Typer(no_args_is_help=True, help="Tokens that authenticate callers of a judge server.")


@app.command(epilog="Example: rlaif token new trainer --scopes judge,read >> tokens.yaml")
def new(
    name: Annotated[str, typer.Argument(help="The caller's name, as in logs and metrics.")],
    scopes: Annotated[
        str, typer.Option(help="What it may do: judge, read, admin; separated by commas.")
    ] = "judge,read",
    requests_per_minute: Annotated[
        float | None, typer.Option(help="Requests per minute, items of streams included.")
    ] = None,
    max_concurrent: Annotated[
        int | None,
        typer.Option(
            help="Concurrent calls, a stream counting as one; by default, and at most, half of the "
            "server's."
        ),
    ] = None,
) -> None:
    """Print a new token and its entry for a server's file of tokens.

    The token goes to standard error, once: it is stored nowhere. The entry, which holds only its
    digest, goes to standard output: append it to the file of `rlaif serve --tokens FILE`. A running
    server reads the file again when it changes.
    """
    from pydantic import ValidationError

    from constitution.validation import field_problems
    from judge_service.rpc import SCOPES
    from judge_service.security.tokens import REMEDIES, Token, digest_of, new_token, to_entry

    wanted = [scope.strip() for scope in scopes.split(",")]
    for scope in wanted:
        if scope not in SCOPES:
            raise UserError(f"unknown scope: {scope!r}; {expected_one_of(scope, SCOPES)}")
    # The same model checks the entry that a server checks when it reads the file.
    token = new_token()
    try:
        entry = Token(
            name=name,
            sha256=digest_of(token),
            scopes=frozenset(wanted),
            requests_per_minute=requests_per_minute,
            max_concurrent=max_concurrent,
        )
    except ValidationError as error:
        invalid = dict.fromkeys(str(problem.path[0]) for problem in field_problems(error))
        problems = [f"{field} must be {REMEDIES[field]}" for field in invalid]
        raise UserError("\n".join(problems)) from None
    typer.echo(f"the token, shown this once: {token}", err=True)
    typer.echo(to_entry(entry))
