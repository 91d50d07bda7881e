"""The YAML file of bearer tokens; it holds their digests, never the tokens themselves.

    - name: trainer
      sha256: "5f2b…"              # of the token, 64 hexadecimal digits
      scopes: [judge, read]        # and admin
      requests_per_minute: 600     # optional
      max_concurrent: 8            # optional; a stream is one call

A plain SHA-256 is enough, because tokens are random and 256 bits long (`new_token`): unlike a
password, one cannot be guessed from its digest. For the same reason only such tokens belong in the
file. Left out: expiry and issuers; put a proxy that speaks OAuth in front for those.

At the start the whole file must be valid. A running server reloads it:

    missing, empty, comments only    nobody is admitted
    an invalid entry                 is not admitted; the others are
    two entries with the same name   neither is admitted: which one was meant is unknown
    or digest
    unreadable, or not a list        the earlier tokens stay, and `stale` is an alarm
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from constitution.errors import ConstitutionError, nearest
from constitution.strict_yaml import Tree, parse
from constitution.validation import FieldProblem, field_problems
from judge_service.errors import ServerStartError
from judge_service.rpc import SCOPES, Scope
from judge_service.security.file_watch import FileWatch

MAX_TOKEN_CHARACTERS = 512
RESERVED_NAME = "anonymous"


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


class Token(BaseModel):
    """One entry of the file: a caller's name, the digest of its token, its scopes and limits.

    requests_per_minute: None for no limit. max_concurrent: None is half of the server's calls,
    which is also the most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: frozenset[Scope] = Field(min_length=1)
    requests_per_minute: Annotated[float, BeforeValidator(_no_boolean)] | None = Field(
        None, gt=0, allow_inf_nan=False
    )
    max_concurrent: Annotated[int, BeforeValidator(_no_boolean)] | None = Field(None, ge=1)


class Tokens:
    """The tokens of the file at `path`.

    rejected: invalid entries, which are not admitted. stale: the file is unusable as a whole, and
    the earlier tokens are in force. unread: stale because reading failed, which may be temporary.

    Raises ServerStartError with every problem, its line and its entry.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rejected = 0
        self.stale = self.unread = False
        self._watch = FileWatch([path])
        try:
            file = _parse(path, _read(path))
        except OSError as error:
            raise ServerStartError(f"tokens {path} cannot be read: {error.strerror}") from None
        if problems := file.problems or (() if file.tokens else (_none_in(path),)):
            raise ServerStartError("\n".join(problems))
        self._tokens = file.tokens

    def __len__(self) -> int:
        return len(self._tokens)

    @property
    def alarms(self) -> tuple[str, ...]:
        """The names of the problems that an operator should look at."""
        alarms = {
            "tokens-stale": self.stale,
            "tokens-rejected": self.rejected > 0,
            "tokens-none": not self._tokens,
        }
        return tuple(name for name, active in alarms.items() if active)

    def changed(self) -> bool:
        """Whether the file was changed since it was read; call it once a poll."""
        return self._watch.changed()

    def reload(self) -> tuple[str, ...]:
        """Read the file again. Returns its problems, as lines for the log."""
        self._watch.mark()
        self.unread = False
        try:
            if self.path.exists() and not self.path.is_file():
                raise ServerStartError(f"{self.path} is not a regular file")
            file = _parse(self.path, _read(self.path))
        except (FileNotFoundError, NotADirectoryError):
            self._replace(_TokenFile())
            return (f"the file of tokens is missing: {self.path}; nobody is admitted without it",)
        except (OSError, ServerStartError) as error:
            self.stale, self.unread = True, isinstance(error, OSError)
            why = f"{self.path}: {error.strerror}" if isinstance(error, OSError) else str(error)
            return (f"cannot use the file of tokens, those read before stay in force: {why}",)
        self._replace(file)
        return file.problems if file.tokens else (*file.problems, _nobody_admitted(self.path))

    def _replace(self, file: _TokenFile) -> None:
        self._tokens, self.rejected, self.stale = file.tokens, file.rejected, False

    def find(self, presented: str) -> Token | None:
        """The entry of a token, in constant time: whichever entry it is, or none."""
        digest = digest_of(presented[: MAX_TOKEN_CHARACTERS + 1])
        match = None
        for token in self._tokens:
            if hmac.compare_digest(token.sha256, digest):
                match = token
        return match


def new_token() -> str:
    """A new token: 256 random bits, with a prefix by which scanners detect leaks."""
    return f"rlaif_{secrets.token_urlsafe(32)}"


def digest_of(token: str) -> str:
    """The SHA-256 (hex) of a token, which the file holds in its place."""
    return hashlib.sha256(token.encode()).hexdigest()


def to_entry(token: Token) -> str:
    """The entry as YAML, to append to a file of tokens."""
    lines = [
        f'- name: "{token.name}"',  # quoted, or 1.0 and yes would be a number and a boolean
        f'  sha256: "{token.sha256}"',
        f"  scopes: [{', '.join(scope for scope in SCOPES if scope in token.scopes)}]",
    ]
    if token.requests_per_minute is not None:
        decimal = f"{token.requests_per_minute:f}".rstrip("0").rstrip(
            "."
        )  # YAML reads 1e+06 as text
        lines.append(f"  requests_per_minute: {decimal}")
    if token.max_concurrent is not None:
        lines.append(f"  max_concurrent: {token.max_concurrent}")
    return "\n".join(lines)


# ---------------------------------------------------------------- the file


@dataclass(frozen=True, slots=True)
class _TokenFile:
    """A parsed file: the valid tokens, and a line for each problem."""

    tokens: tuple[Token, ...] = ()
    problems: tuple[str, ...] = ()
    rejected: int = 0  # invalid entries


def _read(path: Path) -> str:
    """Raises OSError, and ServerStartError for a file that is not text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ServerStartError(f"tokens {path} cannot be read: not UTF-8 text") from None


def _parse(path: Path, text: str) -> _TokenFile:
    """Raises ServerStartError, with every problem, if the file as a whole is unusable."""
    if _is_blank(text):
        return _TokenFile()
    try:
        tree = parse(text, str(path))
    except ConstitutionError as error:
        raise ServerStartError(str(error)) from None
    if not isinstance(tree.data, list):
        expected = _place(tree, (), "expected a list of tokens, each starting with '- name: …'")
        raise ServerStartError("\n".join([*map(str, tree.problems), expected]))
    # What is wrong with one entry rejects that entry alone.
    valid: dict[int, Token] = {}
    problems = [(_entry_at(tree, each.line, each.column), str(each)) for each in tree.problems]
    for index, entry in enumerate(tree.data):
        try:
            valid[index] = Token.model_validate(entry)
        except ValidationError as error:
            problems += [
                (index, _explain(tree, index, each)) for each in field_problems(error, Token)
            ]
    problems += _conflicts(tree)
    lines = tuple(line for _, line in problems)
    bad = {index for index, _ in problems}
    if None in bad:
        raise ServerStartError("\n".join(lines))
    good = tuple(token for index, token in valid.items() if index not in bad)
    return _TokenFile(good, lines, len(bad))


def _is_blank(text: str) -> bool:
    """Whether a file holds only comments and YAML's markers of emptiness."""
    lines = text.removeprefix("\ufeff").splitlines()
    return all(
        line.split("#")[0].strip() in ("", "---", "...", "[]", "~", "null") for line in lines
    )


def _entry_at(tree: Tree, line: int, column: int) -> int | None:
    """The index of the entry at a place in the file; None before the first."""
    starts = [tree.place((index,)) for index in range(len(tree.data))]
    before = [place for place in starts if (place.line, place.column) <= (line, column)]
    return len(before) - 1 if before else None


def _conflicts(tree: Tree) -> Iterator[tuple[int, str]]:
    """Each entry whose name or digest is not unique, also if it has other problems."""
    for key, shown, remedy in (("name", "name", "rename"), ("sha256", "token", "delete")):
        holders: dict[str, list[int]] = defaultdict(list)
        for index, entry in enumerate(tree.data):
            value = entry.get(key) if isinstance(entry, dict) else None
            if key == "name" and value == RESERVED_NAME:
                yield index, _place(tree, (index, key), "this name is for callers without a token")
            elif isinstance(value, str):
                holders[value].append(index)
        for first, *others in holders.values():
            for index, other in [(first, o) for o in others[:1]] + [(o, first) for o in others]:
                problem = f"entry {other + 1} has this {shown} too; {remedy} one"
                yield index, _place(tree, (index, key), problem)


def _none_in(path: Path) -> str:
    return f"{path} holds no token; `rlaif token new NAME >> {path}` adds one"


def _nobody_admitted(path: Path) -> str:
    return (
        f"nobody is admitted: no valid token in {path}; `rlaif token new NAME >> {path}` adds one"
    )


REMEDIES = {  # valid values, by key
    "name": "letters, digits, '_', '.' and '-', up to 64 characters",
    "sha256": "64 hexadecimal digits in lower case, in quotes; `rlaif token new` prints them",
    "scopes": f"a list of {', '.join(SCOPES)}",
    "requests_per_minute": "a number above 0, or delete the key for no limit",
    "max_concurrent": "a whole number from 1, or delete the key for half of the server's calls",
}


def _explain(tree: Tree, index: int, problem: FieldProblem) -> str:
    """Says what a key must be instead of quoting its value, which may be a token."""
    if not problem.path:
        return _place(tree, (index,), "expected the keys name, sha256 and scopes")
    key = str(problem.path[0])
    if problem.kind == "extra_forbidden":
        known = list(Token.model_fields)
        hint = nearest(key, known) or f"the keys are {', '.join(known)}"
        return _place(tree, (index,), f"unknown key '{key[:40]}'; {hint}")
    if problem.kind == "missing":
        return _place(tree, (index,), f"lacks the key '{key}': {REMEDIES[key]}")
    return _place(tree, (index, key), f"{key} must be {REMEDIES[key]}")


def _place(tree: Tree, path: tuple[str | int, ...], message: str) -> str:
    """`file:line:column: entry 2 'trainer': message`.

    Never quotes the file: the text may be a token that was put in place of its digest.
    """
    place = tree.place(path)
    entry = ""
    if path and isinstance(path[0], int):
        item = tree.data[path[0]]
        name = item.get("name") if isinstance(item, dict) else None
        entry = f"entry {path[0] + 1}" + (f" '{name[:64]}'" if isinstance(name, str) else "") + ": "
    return f"{tree.source}:{place.line}:{place.column}: {entry}{message}"
