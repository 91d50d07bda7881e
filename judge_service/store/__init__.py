"""Stores of reads: an SQLite file for one machine, PostgreSQL for several.

base.py                   the Store protocol, its errors and its keys
sqlite.py                 the store as an SQLite file
postgres.py               the store as a PostgreSQL database
postgres_connection.py    the database's connections, errors and schema
encoding.py               numbers as bytes, exact to the bit
batcher.py                a thread that handles waiting items in batches
maintenance.py            summarize, sweep and export, for either kind
sqlite_maintenance.py     the same for a file
postgres_maintenance.py   the same for a database
stats.py                  the summary types they share
"""

from __future__ import annotations

from pathlib import Path

from constitution.errors import install_hint
from judge_service.store.base import Location, Store, StoreError, display_name, is_url


def open_store(location: Location | None) -> Store:
    """Open the store at a location, creating it if needed. None: a temporary one of this process.

    Raises StoreError at once when it cannot be used: a file that is damaged or belongs to another
    program or a newer version, a database that does not answer or rejects the password.
    """
    if location is not None and is_url(location):
        require_postgres(location)
        from judge_service.store.postgres import PostgresStore

        return PostgresStore(str(location))
    from judge_service.store.sqlite import SQLiteStore

    return SQLiteStore(None if location is None else Path(location))


def require_postgres(location: Location) -> None:
    """Raise StoreError unless the packages for PostgreSQL are installed."""
    try:
        import psycopg  # noqa: F401
        import sqlalchemy  # noqa: F401
    except ImportError as error:
        raise StoreError(
            f"{display_name(location)}: PostgreSQL needs the extra `postgres` ({error}); "
            f"{install_hint('postgres')}"
        ) from error
