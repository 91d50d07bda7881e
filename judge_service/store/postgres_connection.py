"""The PostgreSQL database of a store: connections, errors and schema.

    transact(work): a connection of the pool ─► BEGIN, work, COMMIT ─► the result of work

A connection lost since its last use, as after a restart of the database, is retried once: `work`
may run twice and must be idempotent. Later failures raise StoreUnavailable, or StoreError when a
retry cannot help.

The schema version is a number in `rlaif_schema`; 0 means that there are no tables yet, so creating
them is the first migration. All migrations run in one transaction under an advisory lock: of two
servers that start at once, one creates the tables and the other finds them.

SQLAlchemy provides connections and statements, psycopg the protocol. Both come with the extra
`postgres`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
import sqlalchemy as sa

from judge_service.store.base import StoreError, StoreUnavailable, display_name

SCHEMA_VERSION = 2
# Keys are digests and evenly distributed. `created` is in seconds since 1970; its index finds old
# rows and counts without the table. Text is UTF-8 in bytea, as PostgreSQL's text holds no NUL.
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
    1: (),  # values have checksums, which earlier versions cannot read
}
_LOCK = 0x524C4146  # "RLAF", the advisory lock of migrations
_DRIVER = "postgresql+psycopg"
_POOL_SIZE = 3  # lookups, commits, statistics
_IDLE_SECONDS = 5  # within a transaction: one takes milliseconds, unless its server is gone
_CONNECTION = {
    "application_name": "rlaif",
    "connect_timeout": "5",
    # A peer that vanishes without closing is noticed after about 20 s, not after hours.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "2",
    "tcp_user_timeout": "20000",
}

T = TypeVar("T")


class Database:
    """One database, through a small connection pool. Thread-safe.

    url: postgresql+psycopg://user:password@host:port/database; libpq parameters may follow as
    ?name=value, and the password may come from PGPASSWORD or ~/.pgpass instead.
    statement_seconds: time limit of a statement; it also limits idle transactions, whose locks
    would block other servers. None: no limit.

    Raises StoreError for an invalid URL. Does not connect yet.
    """

    def __init__(self, url: str, *, statement_seconds: int | None = None) -> None:
        self.name = display_name(url)
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
        """Run `work` in a transaction and return its result, committed. Raises StoreError.

        `work` must be idempotent: it runs twice when the first connection turns out to be lost.
        """
        try:
            try:
                return self._once(work)
            except sa.exc.DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                return self._once(work)
        except sa.exc.SQLAlchemyError as error:
            raise self.explain(error) from None  # the cause may quote a password or a parameter

    def prepare(self) -> None:
        """Create the tables, or migrate older ones to this schema. Raises StoreError."""

        def migrate(connection: sa.Connection) -> None:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:id)"), {"id": _LOCK})
            schema = schema_of(connection)
            if not 0 <= schema <= SCHEMA_VERSION:
                raise StoreError(
                    f"{self.name}: schema {schema} of another version of this program (this one "
                    f"supports up to {SCHEMA_VERSION}); use another database, or that version"
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
        """A connection for work of several transactions; the caller closes it.

        Raises SQLAlchemyError, which `explain` turns into a StoreError.
        """
        return self._engine.connect()

    def close(self) -> None:
        """Close the connections of the pool; a later `transact` opens new ones."""
        self._engine.dispose()

    def explain(self, error: sa.exc.SQLAlchemyError) -> StoreError:
        """The StoreError for an error of SQLAlchemy: the cause without the password, the remedy."""
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        reason = " ".join(str(cause).split())
        if self._url.password:
            reason = reason.replace(str(self._url.password), "***")
        problem = f"{self.name} cannot be used ({reason})"
        if isinstance(cause, psycopg.errors.InsufficientPrivilege):
            return StoreError(f"{problem}; grant this user the privileges in docs/operations.md")
        if isinstance(cause, (psycopg.ProgrammingError, psycopg.DataError)):
            return StoreError(
                f"{problem}; its tables are not those of a store: use another database"
            )
        return StoreUnavailable(
            f"{problem}; check that it runs and can be reached, that user, password (in the URL, "
            "PGPASSWORD or ~/.pgpass) and database are right, and that its disk has space"
        )

    def _once(self, work: Callable[[sa.Connection], T]) -> T:
        with self._engine.begin() as connection:
            return work(connection)

    def _set_up(self, connection: Any, _: Any) -> None:
        with connection.cursor() as cursor:
            if self._statement_seconds is not None:
                cursor.execute(f"SET statement_timeout = '{self._statement_seconds}s'")
                cursor.execute(f"SET idle_in_transaction_session_timeout = '{_IDLE_SECONDS}s'")
            # Without synchronous commits an acknowledged row could be lost.
            cursor.execute(
                "SELECT set_config('synchronous_commit', 'on', false)"
                " WHERE current_setting('synchronous_commit') = 'off'"
            )
        connection.commit()


def schema_of(connection: sa.Connection) -> int:
    """The schema version; 0 if the database holds no store."""
    if connection.scalar(sa.text("SELECT to_regclass('rlaif_schema')")) is None:
        return 0
    return int(connection.scalar(sa.text("SELECT version FROM rlaif_schema")) or 0)


def _parse(url: str) -> sa.URL:
    """The URL, with our connection defaults. Raises StoreError, which never quotes a password."""
    # Every message goes through display_name: SQLAlchemy's and libpq's own may quote a password.
    expected = f"expected {_DRIVER}://user@host:5432/database"
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise StoreError(f"invalid store URL: {display_name(url)}; {expected}") from None
    if parsed.drivername != _DRIVER:
        raise StoreError(
            f"unknown scheme of a store URL: {display_name(url)}; a store's URL starts with "
            f"{_DRIVER}://, as in {_DRIVER}://user@host:5432/database"
        )
    if "@" in f"{parsed.host}{parsed.database}":
        raise StoreError(
            f"unescaped @ in a store URL: {display_name(url)}; write an @ in user or password as "
            "%40"
        )
    if "password" in parsed.query:
        raise StoreError(
            f"password among the options of a store URL: {display_name(url)}; write it as "
            "user:password@, or keep it in PGPASSWORD or ~/.pgpass"
        )
    # libpq checks the option names now, rather than at the first connection.
    try:
        psycopg.conninfo.make_conninfo(**dict.fromkeys(parsed.query, "1"))
    except psycopg.ProgrammingError as error:
        raise StoreError(
            f"invalid option in a store URL: {display_name(url)} ({str(error).strip()}); {expected}"
        ) from None
    return parsed.set(query={**_CONNECTION, **parsed.query})
