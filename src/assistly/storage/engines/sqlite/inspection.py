"""Looks at a file without changing it, and at what the migrations make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from ...records import record
from ..sql.migrations import Migration
from .access import connect_to_look, connect_without_log
from .connections import Connection
from .driver import sqlite3
from .errors import DRIVER_ERRORS, translate
from .jobs import MAKE_GAP_INDEX
from .migrations import SqliteMigrations

_BUSY_SECONDS = 10.0


@record
class TableShape:
    """A table, as SQLite describes it.

    `columns` are name, type, NOT NULL and default; `key` is the primary key in its order, `uniques` are the
    columns of UNIQUE constraints, and `foreign_keys` pairs of a column and a table.
    """

    columns: list[tuple[str, str, bool, str | None]]
    key: tuple[str, ...]
    uniques: frozenset[tuple[str, ...]]
    foreign_keys: list[tuple[str, str]]


def shape_of(connection: Connection, name: str) -> TableShape:
    """Describe a table, which exists. Raises the errors of a connection."""
    from sqlite_utils import Database  # imported only by those who look: it takes a tenth of a second

    database = Database(connection.raw, execute_plugins=False, recursive_triggers=False)
    try:
        table = database.table(name)
        return TableShape(
            [
                (column.name, column.type, bool(column.notnull), column.default_value)
                for column in table.columns
            ],
            () if table.use_rowid else tuple(table.pks),
            frozenset(tuple(index.columns) for index in table.indexes if index.origin == "u"),
            [(column, key.other_table) for key in table.foreign_keys for column in key.columns],
        )
    except DRIVER_ERRORS as error:
        raise translate(error, connection.name) from error


def open_to_look(path: Path) -> Connection:
    """Open the file for reading: neither the file nor its log is changed.

    Raises StorageUnavailable, also if there is no file, and StorageCorrupt.
    """
    return _connected(str(path), lambda: connect_to_look(path, timeout=_BUSY_SECONDS))


def open_without_log(path: Path) -> Connection:
    """Open the file for reading, as if there was no log beside it. Raises as `open_to_look` does."""
    return _connected(str(path), lambda: connect_without_log(path))


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
