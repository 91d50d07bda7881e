"""Content-addressed store of the judge's reads, so that no read is computed twice.

    key   = sha256(model identity ‖ engine numerics ‖ prompt and label ids, to the token)
    value = the labels' log-probabilities (float64, in the order of the ids), or the text written,
            with a checksum

The model's name is left out of the key: the same weights, tokenizer, dtype and engine give the same
numbers under any name. Of a prompt only the digest is kept, the one that receipts carry; a text
that the judge wrote is kept in full.

A put returns after its commit: acknowledged rows survive kill -9 and a power failure. Of two
answers to one read the first is kept, whichever server computed it. Every row has its creation
time, so that old ones can be found and deleted (maintenance.py).

Two kinds of store: a file (sqlite.py) for the servers of one machine, and a PostgreSQL database
(postgres.py) for servers on several.

Left out: eviction while serving (a read takes about 70 bytes in a file), and other databases.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from constitution.errors import UserError
from judge_service.engine import LabelLogprobs, Written
from judge_service.judge.template import prompt_sha256
from judge_service.types import ModelIdentity

Location = str | Path
"""A file, or the URL of a database: postgresql+psycopg://user@host:5432/database."""

_AFTER_SCHEME = re.compile(
    r"(?:(?P<user>[^:/@?#]*)(?::[^@]*)?(?=@))?(?P<address>@?[^@?#]*)(?:[?#][^@]*)?"
)


class StoreError(UserError):
    """A store that cannot be used; the message names the store, the problem and the remedy."""


class StoreUnavailable(StoreError):  # noqa: N818  named after the status it becomes
    """The database does not answer now; a later retry may succeed."""


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Row counts and size of a store."""

    reads: int
    writings: int
    bytes: int  # on disk


class Store(Protocol):
    """Reads and writings by their keys. Safe to use from many coroutines at once.

    Every method raises StoreError, or StoreUnavailable when a retry may succeed. Acknowledged rows
    stay readable after an error, and the next put tries again. A damaged row counts as missing.
    """

    @property
    def damaged(self) -> int:
        """Look-ups and commits so far that met a damaged row or file."""
        ...

    async def find_read(self, key: bytes) -> LabelLogprobs | None:
        """The read under this key, or None."""
        ...

    async def put_read(self, key: bytes, answer: LabelLogprobs) -> LabelLogprobs:
        """Store an answer; returns once it is committed.

        If the key is already stored, the stored answer wins and is returned, so a caller always
        gets what later lookups will find.
        """
        ...

    async def find_writing(self, key: bytes) -> Written | None:
        """The text under this key, or None."""
        ...

    async def put_writing(self, key: bytes, written: Written) -> Written:
        """As `put_read`."""
        ...

    async def stats(self) -> StoreStats:
        """Row counts and size."""
        ...

    async def close(self) -> None:
        """Commit pending puts and release the store. Closing twice is harmless."""
        ...


def is_url(location: Location) -> bool:
    """Whether a location is the URL of a database, rather than a file."""
    return "://" in str(location)


def display_name(location: Location | None) -> str:
    """A location that is safe to show: a URL without its password and options.

    >>> display_name("postgresql+psycopg://judge:secret@db/reads?sslmode=require")
    'postgresql+psycopg://judge@db/reads'
    """
    if location is None:
        return "the temporary store"
    if not is_url(location):
        return str(location)
    scheme, _, rest = str(location).partition("://")
    parts = _AFTER_SCHEME.fullmatch(rest)
    return f"{scheme}://{(parts['user'] or '') + parts['address'] if parts else '…'}"


def read_key(identity: ModelIdentity, prompt_ids: Sequence[int], label_ids: Sequence[int]) -> bytes:
    """The 32-byte key of a read. It can be computed from a receipt (model and prompt_sha256)."""
    return _key("read", identity, prompt_sha256(prompt_ids, label_ids))


def write_key(
    identity: ModelIdentity,
    prompt_ids: Sequence[int],
    *,
    max_tokens: int,
    temperature: float,
    seed: int,
) -> bytes:
    """The 32-byte key of a generated text. The seed counts only above temperature 0."""
    sampling = [float(temperature), seed] if temperature > 0 else []
    return _key("write", identity, list(prompt_ids), max_tokens, *sampling)


def _key(kind: str, identity: ModelIdentity, *request: Any) -> bytes:
    """The digest of the list [kind, numerics, *request] as JSON."""
    rest = json.dumps(request, separators=(",", ":"))[1:]
    return hashlib.sha256(f"{_key_beginning(kind, identity)},{rest}".encode()).digest()


@lru_cache(maxsize=64)
def _key_beginning(kind: str, identity: ModelIdentity) -> str:
    # Every field except the name, so that a field added later enters the key by itself.
    numerics = {field: value for field, value in asdict(identity).items() if field != "name"}
    return json.dumps([kind, numerics], sort_keys=True, separators=(",", ":"))[:-1]
