"""The connection that the floors on SQLite use: WAL, and no sync at a commit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..model import Surroundings

if TYPE_CHECKING:
    import sqlite3
else:
    # The same library as the engine: `pysqlite3` where that is installed.
    from sqlite_utils.utils import sqlite3


def opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(str(path), isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


@contextmanager
def sqlite_file(at: Surroundings, tables: str) -> Iterator[sqlite3.Connection]:
    with closing(opened(at.new_path())) as connection:
        connection.executescript(tables)
        yield connection
