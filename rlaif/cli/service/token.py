"""`rlaif token new` makes a token for a caller of the judge server."""

from __future__ import annotations

from typing import Annotated

import typer

from constitution.errors import UserError

app = typer.Typer(no_args_is_help=True, help="Tokens by which a judge server knows its callers.")


@app.command(epilog="Example: rlaif token new trainer --scopes judge,read >> tokens.yaml")
def new(
    name: Annotated[str, typer.Argument(help="Whose it is: the name in logs and metrics.")],
    scopes: Annotated[
        str, typer.Option(help="What it may do: judge, read, admin; commas between.")
    ] = "judge,read",
    requests_per_minute: Annotated[
        float | None, typer.Option(help="Requests a minute, items of streams included.")
    ] = None,
    max_concurrent: Annotated[
        int | None, typer.Option(help="Calls at a time, a stream counting as one.")
    ] = None,
) -> None:
    """Print a fresh token and the entry that makes a server know it.

    The token goes to standard error, once: it is kept nowhere. The entry, which holds only its
    digest, goes to standard output: add it to the file that `rlaif serve --tokens FILE` reads, and
    send the server SIGHUP.
    """
    from pydantic import ValidationError

    from judge_service.security.tokens import REMEDIES, Token, digest_of, new_token, to_entry

    token = new_token()
    try:
        entry = Token(
            name=name,
            sha256=digest_of(token),
            scopes=frozenset(scope.strip() for scope in scopes.split(",")),
            requests_per_minute=requests_per_minute,
            max_concurrent=max_concurrent,
        )
    except ValidationError as error:
        wrong = dict.fromkeys(str(problem["loc"][0]) for problem in error.errors())
        told = [f"{field} must be {REMEDIES[field]}" for field in wrong]
        raise UserError("\n".join(told)) from None
    typer.echo(f"the token, shown this once: {token}", err=True)
    typer.echo(to_entry(entry))
