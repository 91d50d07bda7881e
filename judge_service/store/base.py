"""What the judge has read, kept by content, so that no read is computed twice.

    key   = sha256(model identity ‖ engine numerics ‖ what was asked, to the token)
    value = the labels' log-probabilities (float64, in the order asked), or the text written

The identity counts without its name, which is only how somebody spelled the model: the same
weights, tokenizer, dtype and engine give the same numbers under any name. Of a prompt only the
digest is kept, the one that receipts carry; a text that the judge wrote is kept as it stands.

A put returns after its commit: what was acknowledged survives kill -9 and a power cut. Of two
answers to one read the first stands, whoever computed it. Every row knows when it was kept, so that
the old ones can be told and deleted (upkeep.py).

Two kinds of store: a file (stores/sqlite.py) for the servers of one machine, and a PostgreSQL
database (stores/postgres.py) for servers on several.

Left out: eviction while serving (a read takes about 70 bytes in a file), and other databases.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from constitution.errors import UserError
from judge_service.engine import LabelLogprobs, Written
from judge_service.judge.template import prompt_sha256
from judge_service.types import ModelIdentity

Place = str | Path
"""A file, or the URL of a database: postgresql+psycopg://user@host:5432/database."""

_AFTER_SCHEME = re.compile(
    r"(?:(?P<user>[^:/@?#]*)(?::[^@]*)?(?=@))?(?P<address>@?[^@?#]*)(?:[?#][^@]*)?"
)


class StoreError(UserError):
    """A store that cannot be used: which one, what is wrong, and the remedy."""


class StoreUnavailable(StoreError):  # noqa: N818  named after the status it becomes
    """The database does not answer now; asking again later may help."""


@dataclass(frozen=True, slots=True)
class StoreStats:
    reads: int
    writings: int
    bytes: int  # on the disk


class Store(Protocol):
    """Reads and writings by their keys. Safe to use from many coroutines at once.

    Every method raises StoreError, StoreUnavailable where trying again may help. What was
    acknowledged before stays readable, and the next put tries again.
    """

    async def find_read(self, key: bytes) -> LabelLogprobs | None: ...

    async def put_read(self, key: bytes, answer: LabelLogprobs) -> LabelLogprobs:
        """Keep an answer; returns once it is committed.

        When somebody kept one under this key first, that one stands and is returned: what is
        answered is always what can be found again.
        """
        ...

    async def find_writing(self, key: bytes) -> Written | None: ...

    async def put_writing(self, key: bytes, written: Written) -> Written:
        """As `put_read`."""
        ...

    async def stats(self) -> StoreStats: ...

    async def close(self) -> None:
        """Commit what was put, then let go of the store. Closing twice is harmless."""
        ...


def is_url(place: Place) -> bool:
    return "://" in str(place)


def shown(place: Place | None) -> str:
    """A place as people may read it: a URL without its password and its options."""
    if place is None:
        return "the temporary store"
    if not is_url(place):
        return str(place)
    scheme, _, rest = str(place).partition("://")
    parts = _AFTER_SCHEME.fullmatch(rest)
    return f"{scheme}://{(parts['user'] or '') + parts['address'] if parts else '…'}"


def read_key(identity: ModelIdentity, prompt_ids: Sequence[int], label_ids: Sequence[int]) -> bytes:
    """The 32 bytes that name a read. A receipt (model and prompt_sha256) names the same ones."""
    return _key("read", identity, prompt_sha256(prompt_ids, label_ids))


def write_key(
    identity: ModelIdentity,
    prompt_ids: Sequence[int],
    *,
    max_tokens: int,
    temperature: float,
    seed: int,
) -> bytes:
    """The 32 bytes that name a piece of writing. Greedy writing has no use for a seed."""
    drawn = [float(temperature), seed] if temperature > 0 else []
    return _key("write", identity, list(prompt_ids), max_tokens, *drawn)


def _key(kind: str, identity: ModelIdentity, *asked: Any) -> bytes:
    # Every field but the name, so that one added later keeps what it tells apart, apart.
    numerics = {field: value for field, value in asdict(identity).items() if field != "name"}
    content = json.dumps([kind, numerics, *asked], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).digest()
