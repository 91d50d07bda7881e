"""Where reads are kept: a file of SQLite for one machine, PostgreSQL for several."""

from __future__ import annotations

from pathlib import Path

from constitution.errors import install_hint
from judge_service.store.base import Place, Store, StoreError, is_url, shown


def open_store(place: Place | None) -> Store:
    """The store at a place, made when there is none. None: a temporary one, gone with the process.

    Raises StoreError at once for a place that cannot be used: a damaged file, another program's, a
    newer version's, a database that does not answer or refuses the password.
    """
    if place is not None and is_url(place):
        require_postgres(place)
        from judge_service.store.postgres import PostgresStore

        return PostgresStore(str(place))
    from judge_service.store.sqlite import SQLiteStore

    return SQLiteStore(None if place is None else Path(place))


def require_postgres(place: Place) -> None:
    """Raises StoreError unless what a database needs is installed."""
    try:
        import psycopg  # noqa: F401
        import sqlalchemy  # noqa: F401
    except ImportError as error:
        raise StoreError(
            f"{shown(place)}: a store in a database needs the extra `postgres` ({error}); "
            f"{install_hint('postgres')}"
        ) from error
