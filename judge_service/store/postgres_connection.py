"""A PostgreSQL database that holds a store: its connections, its errors, its schema.

    transact(work): a connection of the pool ─► BEGIN, work, COMMIT ─► the result of work

A connection that was lost since it was last used, as when the database restarted, costs one more
try: `work` may run twice, so it is written such that doing it again changes nothing. What fails
after that is told as StoreUnavailable, or as StoreError where trying again cannot help.

The schema is a number in `rlaif_schema`. Nought, nothing at all, is a schema too: creating the
tables is the first migration. All run in one transaction under an advisory lock, so of two
servers that start at once one creates and the other finds.

SQLAlchemy carries connections and statements; psycopg speaks to the server. Both come with the
extra `postgres`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
import sqlalchemy as sa

from judge_service.store.base import StoreError, StoreUnavailable, shown

SCHEMA_VERSION = 1
# Keys are digests and spread evenly. `created` is in seconds since 1970; its index finds the old
# and counts rows without the table. Text is UTF-8 in bytea, for PostgreSQL's text holds no NUL.
_MIGRATIONS = {
    0: (
        "CREATE TABLE rlaif_schema (version integer NOT NULL)",
        "INSERT INTO rlaif_schema VALUES (0)",
        "CREATE TABLE rlaif_reads (key bytea PRIMARY KEY, logprobs bytea NOT NULL,"
        " prompt_tokens integer NOT NULL, created bigint NOT NULL)",
        "CREATE INDEX rlaif_reads_created ON rlaif_reads (created)",
        "CREATE TABLE rlaif_writings (key bytea PRIMARY KEY, text bytea NOT NULL,"
        " token_ids bytea NOT NULL, complete boolean NOT NULL, prompt_tokens integer NOT NULL,"
        " created bigint NOT NULL)",
        "CREATE INDEX rlaif_writings_created ON rlaif_writings (created)",
    ),
}
_LOCK = 0x524C4146  # "RLAF", the advisory lock of migrations
_DRIVER = "postgresql+psycopg"
_POOL_SIZE = 3  # lookups, commits, statistics
_IDLE_SECONDS = 5  # within a transaction; it takes milliseconds, unless its server is gone
_CONNECTION = {
    "application_name": "rlaif",
    "connect_timeout": "5",
    # A server that vanished without a word is noticed after about 20 s, not after hours.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "2",
    "tcp_user_timeout": "20000",
}

T = TypeVar("T")


class Database:
    """One database, reached through a few connections. Safe to use from several threads.

    url: postgresql+psycopg://user:password@host:port/database; what libpq knows may follow as
    ?name=value, and the password may stand in PGPASSWORD or ~/.pgpass instead.
    statement_seconds: a statement that takes longer is given up, and so is a transaction that its
    server left open, for its rows lock out the same ones of others; None: no bound.

    Raises StoreError for a URL that cannot be read. Nothing is connected yet.
    """

    def __init__(self, url: str, *, statement_seconds: int | None = None) -> None:
        self.name = shown(url)
        self._url = _parse(url)
        self._statement_seconds = statement_seconds
        self._engine = sa.create_engine(
            self._url,
            isolation_level="READ COMMITTED",
            hide_parameters=True,
            pool_size=_POOL_SIZE,
            max_overflow=0,
        )
        sa.event.listen(self._engine, "connect", self._set_up)

    def transact(self, work: Callable[[sa.Connection], T]) -> T:
        """The result of `work`, committed. Raises StoreError."""
        try:
            try:
                return self._once(work)
            except sa.exc.DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                return self._once(work)
        except sa.exc.SQLAlchemyError as error:
            raise self.explain(error) from None  # its text may quote a password or a parameter

    def prepare(self) -> None:
        """Create the tables, or bring older ones to this schema. Raises StoreError."""

        def migrate(connection: sa.Connection) -> None:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:id)"), {"id": _LOCK})
            schema = schema_of(connection)
            if not 0 <= schema <= SCHEMA_VERSION:
                raise StoreError(
                    f"{self.name}: made by another version of this program (schema {schema}, this "
                    f"one knows {SCHEMA_VERSION}); name another database, or use that version"
                )
            for version in range(schema, SCHEMA_VERSION):
                for statement in _MIGRATIONS[version]:
                    connection.execute(sa.text(statement))
            if schema < SCHEMA_VERSION:
                connection.execute(
                    sa.text("UPDATE rlaif_schema SET version = :now"), {"now": SCHEMA_VERSION}
                )

        self.transact(migrate)

    def connect(self) -> sa.Connection:
        """A connection of one's own, for what is no single transaction. Raises SQLAlchemyError,
        which `explain` turns into what the user should read."""
        return self._engine.connect()

    def close(self) -> None:
        self._engine.dispose()

    def explain(self, error: sa.exc.SQLAlchemyError) -> StoreError:
        """SQLAlchemy's error as the user should read it."""
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        reason = " ".join(str(cause).split())
        if self._url.password:
            reason = reason.replace(str(self._url.password), "***")
        told = f"{self.name} cannot be used ({reason})"
        if isinstance(cause, psycopg.errors.InsufficientPrivilege):
            return StoreError(f"{told}; grant this user what docs/operations.md names")
        if isinstance(cause, (psycopg.ProgrammingError, psycopg.DataError)):
            return StoreError(f"{told}; its tables are not those of a store: name another database")
        return StoreUnavailable(
            f"{told}; see that it runs and can be reached, that user, password (in the URL, "
            "PGPASSWORD or ~/.pgpass) and database are right, and that its disk has room"
        )

    def _once(self, work: Callable[[sa.Connection], T]) -> T:
        with self._engine.begin() as connection:
            return work(connection)

    def _set_up(self, connection: Any, _: Any) -> None:
        with connection.cursor() as cursor:
            if self._statement_seconds is not None:
                cursor.execute(f"SET statement_timeout = '{self._statement_seconds}s'")
                cursor.execute(f"SET idle_in_transaction_session_timeout = '{_IDLE_SECONDS}s'")
            # A commit that does not wait for the disk would be acknowledged and could be lost.
            cursor.execute(
                "SELECT set_config('synchronous_commit', 'on', false)"
                " WHERE current_setting('synchronous_commit') = 'off'"
            )
        connection.commit()


def schema_of(connection: sa.Connection) -> int:
    """0 where there is no store."""
    if connection.scalar(sa.text("SELECT to_regclass('rlaif_schema')")) is None:
        return 0
    return int(connection.scalar(sa.text("SELECT version FROM rlaif_schema")) or 0)


def _parse(url: str) -> sa.URL:
    """Raises StoreError, which quotes no part of a password, however wrongly it is written."""
    wanted = f"write {_DRIVER}://user@host:5432/database"
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise StoreError(f"{shown(url)}: this URL of a store cannot be read; {wanted}") from None
    if parsed.drivername != _DRIVER:
        raise StoreError(f"{shown(url)}: a store's URL begins with {_DRIVER}://; {wanted}")
    if "@" in f"{parsed.host}{parsed.database}":
        raise StoreError(f"{shown(url)}: write an @ in user or password as %40")
    if "password" in parsed.query:
        raise StoreError(
            f"{shown(url)}: the password is no option; write it as user:password@, or keep it in "
            "PGPASSWORD or ~/.pgpass"
        )
    try:
        psycopg.conninfo.make_conninfo(**dict.fromkeys(parsed.query, "1"))
    except psycopg.ProgrammingError as error:
        raise StoreError(f"{shown(url)}: {error}; {wanted}") from None
    return parsed.set(query={**_CONNECTION, **parsed.query})
