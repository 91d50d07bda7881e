"""Who may call: a YAML file of tokens, of which it holds digests and never the tokens themselves.

    - name: trainer
      sha256: "5f2b…"              # of the token, 64 hexadecimal digits
      scopes: [judge, read]        # and admin
      requests_per_minute: 600     # optional
      max_concurrent: 8            # optional; a stream is one call

A plain SHA-256 is enough, because tokens are random and 256 bits long (`new_token`): unlike a
password, one cannot be guessed from its digest. For the same reason only tokens of that kind belong
in the file. Left out: expiry and issuers; put a proxy that speaks OAuth in front for those.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from constitution.errors import ConstitutionError
from constitution.schema import nearest
from constitution.strict_yaml import Tree, parse
from judge_service.errors import ServerStartError

Scope = Literal["judge", "read", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
MAX_TOKEN_CHARACTERS = 512
RESERVED_NAME = "anonymous"


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


class Token(BaseModel):
    """One entry of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: frozenset[Scope] = Field(min_length=1)
    requests_per_minute: Annotated[float, BeforeValidator(_no_boolean)] | None = Field(
        None, gt=0, allow_inf_nan=False
    )
    max_concurrent: Annotated[int, BeforeValidator(_no_boolean)] | None = Field(None, ge=1)


_ENTRIES = TypeAdapter(list[Token])


class Tokens:
    """The tokens of a file. Raises ServerStartError with every problem, its line and its entry."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tokens = _load(path)

    def __len__(self) -> int:
        return len(self._tokens)

    def reload(self) -> None:
        """Read the file again. Raises ServerStartError and keeps the tokens as they were."""
        self._tokens = _load(self.path)

    def find(self, presented: str) -> Token | None:
        """The entry of a token. Takes the same time whichever entry it is, and when it is none."""
        digest = digest_of(presented[: MAX_TOKEN_CHARACTERS + 1])
        found = None
        for token in self._tokens:
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found


def new_token() -> str:
    """A fresh one: 256 random bits, with a prefix by which scanners find leaked ones."""
    return f"rlaif_{secrets.token_urlsafe(32)}"


def digest_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def to_entry(token: Token) -> str:
    """The entry as YAML, to be added to a file of tokens."""
    lines = [
        f'- name: "{token.name}"',  # or 1.0 and yes would be a number and a boolean
        f'  sha256: "{token.sha256}"',
        f"  scopes: [{', '.join(scope for scope in SCOPES if scope in token.scopes)}]",
    ]
    if token.requests_per_minute is not None:
        decimal = f"{token.requests_per_minute:f}".rstrip("0").rstrip(".")  # YAML takes no 1e+06
        lines.append(f"  requests_per_minute: {decimal}")
    if token.max_concurrent is not None:
        lines.append(f"  max_concurrent: {token.max_concurrent}")
    return "\n".join(lines)


# ---------------------------------------------------------------- the file


def _load(path: Path) -> tuple[Token, ...]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ServerStartError(f"tokens {path} cannot be read: {why}") from None
    if not any(line.split("#")[0].strip() for line in text.splitlines()):
        raise ServerStartError(f"{path} holds no token; `rlaif token new NAME >> {path}` adds one")
    try:
        tree = parse(text, str(path))
    except ConstitutionError as error:
        raise ServerStartError(str(error)) from None
    problems = [str(problem) for problem in tree.problems]
    tokens: list[Token] = []
    try:
        tokens = _ENTRIES.validate_python(tree.data)
    except ValidationError as error:
        problems += [_explain(tree, problem) for problem in error.errors()]
    if not problems and not tokens:
        problems = [f"{path} holds no token; `rlaif token new NAME >> {path}` adds one"]
    problems += _conflicts(tree, tokens)
    if problems:
        raise ServerStartError("\n".join(problems))
    return tuple(tokens)


def _conflicts(tree: Tree, tokens: Sequence[Token]) -> Iterator[str]:
    names: set[str] = set()
    digests: set[str] = set()
    for index, token in enumerate(tokens):
        if token.name == RESERVED_NAME:
            yield _place(tree, (index, "name"), "this name is for callers without a token")
        if token.name in names:
            yield _place(tree, (index, "name"), "an entry before has this name; rename one")
        if token.sha256 in digests:
            yield _place(tree, (index, "sha256"), "an entry before has this token; delete one")
        names.add(token.name)
        digests.add(token.sha256)


REMEDIES = {  # what the value of a key must be
    "name": "letters, digits, '_', '.' and '-', up to 64 characters",
    "sha256": "64 hexadecimal digits in lower case, in quotes; `rlaif token new` prints them",
    "scopes": f"a list of {', '.join(SCOPES)}",
    "requests_per_minute": "a number above 0, or delete the key for no limit",
    "max_concurrent": "a whole number from 1, or delete the key for no limit",
}


def _explain(tree: Tree, problem: Any) -> str:
    location = tuple(problem["loc"])
    if not location:
        return _place(tree, (), "expected a list of tokens, each starting with '- name: …'")
    if len(location) == 1:
        return _place(tree, location, "expected the keys name, sha256 and scopes")
    key = str(location[1])
    if problem["type"] == "extra_forbidden":
        known = list(Token.model_fields)
        hint = nearest(key, known) or f"the keys are {', '.join(known)}"
        return _place(tree, location[:1], f"unknown key '{key[:40]}'; {hint}")
    if problem["type"] == "missing":
        return _place(tree, location[:1], f"lacks the key '{key}': {REMEDIES[key]}")
    return _place(tree, location[:2], f"{key} must be {REMEDIES[key]}")


def _place(tree: Tree, path: tuple[str | int, ...], message: str) -> str:
    """`file:line:column: entry 2 'trainer': message`. Never what is written there: it may be a
    token that somebody put in place of its digest."""
    place = tree.place(path)
    entry = ""
    if path and isinstance(path[0], int):
        found = tree.data[path[0]]
        name = found.get("name") if isinstance(found, dict) else None
        entry = f"entry {path[0] + 1}" + (f" '{name[:64]}'" if isinstance(name, str) else "") + ": "
    return f"{tree.source}:{place.line}:{place.column}: {entry}{message}"
