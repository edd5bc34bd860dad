"""Transactions and savepoints on one connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ...errors import StorageError
from .connections import Connection


@contextmanager
def atomic(connection: Connection) -> Iterator[None]:
    """A transaction around the block, or a savepoint where the connection is in one."""
    with _savepoint(connection) if connection.in_transaction else _transaction(connection):
        yield


@contextmanager
def _transaction(connection: Connection) -> Iterator[None]:
    # A deferred one that reads first and writes later fails at once when another connection wrote
    # meanwhile, however long the busy timeout is.
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(StorageError):
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _savepoint(connection: Connection) -> Iterator[None]:
    connection.execute("SAVEPOINT assistly_savepoint")
    try:
        yield
        connection.execute("RELEASE assistly_savepoint")
    except BaseException:
        # Without a transaction SQLite has undone all of it by itself: the disk is full, for one.
        if connection.in_transaction:
            connection.execute("ROLLBACK TO assistly_savepoint")
            connection.execute("RELEASE assistly_savepoint")
        raise
