"""Looks at a file without changing it, and at what the migrations make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..sql.migrations import Migration
from .connections import Connection
from .driver import sqlite3
from .errors import DRIVER_ERRORS, translate
from .jobs import MAKE_GAP_INDEX
from .migrations import SqliteMigrations

_BUSY_SECONDS = 10.0


def open_for_reading(path: Path, *, keeps_log: bool) -> Connection:
    """Open the file for reading. Raises StorageUnavailable, also if there is no file, and StorageCorrupt.

    If it is the last connection, its end brings the log into the file and deletes it, as that of any other
    connection does. With `keeps_log` it does not, and leaves the -wal and -shm files.
    """
    name = str(path)
    mode = "ro" if keeps_log else "rw"
    connection = _connected(
        name, lambda: sqlite3.connect(f"file:{quote(name)}?mode={mode}", uri=True, timeout=_BUSY_SECONDS)
    )
    connection.execute("PRAGMA query_only = ON")
    return connection


@contextmanager
def reference(migrations: Iterable[Migration]) -> Iterator[Connection]:
    """Open a database in memory in which the migrations are applied, and close it at the end."""
    with closing(_connected(":memory:", lambda: sqlite3.connect(":memory:"))) as connection:
        target = SqliteMigrations(connection)
        for migration in migrations:
            target.apply(migration)
        yield connection


def make_gap_index(connection: Connection) -> None:
    """Make the index that the first job with a `min_gap` makes."""
    connection.execute(MAKE_GAP_INDEX)


def _connected(name: str, connect: Callable[[], Any]) -> Connection:
    try:
        raw = connect()
        raw.isolation_level = None
        return Connection(raw, name)
    except DRIVER_ERRORS as error:
        raise translate(error, name) from error
