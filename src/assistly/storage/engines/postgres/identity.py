"""Tells whether a caller's connection is to the database of the storage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakSet

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGconn

from ...errors import InvalidValue
from .executor import PostgresExecutor
from .wire import LibpqExecutor

_ASK = """
SELECT pg_catalog.current_database(),
    CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_postmaster_start_time() END
"""


class Identity(NamedTuple):
    """A database, in this run of its server.

    A copy of a database has all that is stored in it, and a copy of a server's files the same system
    identifier and the same object identifiers. But no two servers have started in the same microsecond.
    """

    name: str
    started_at: bytes | None
    """When the server started, as it sends it. None for a standby, which takes no writes."""

    def is_of(self, other: Identity) -> bool:
        """Whether both are the same database, or one may be a standby of the other."""
        return self.name == other.name and (
            self.started_at == other.started_at or None in (self.started_at, other.started_at)
        )


def ask(executor: PostgresExecutor) -> Identity | None:
    """Ask for the database of a connection. Unlike a cursor, this begins no transaction.

    None: the connection is in a failed transaction, or in the middle of a statement.
    """
    connection = executor.connection
    with connection.lock:
        status = connection.pgconn.transaction_status
        if status not in (TransactionStatus.IDLE, TransactionStatus.INTRANS):
            return None
        name, started_at = LibpqExecutor(connection, executor.limit).values(_ASK)
        return Identity((name or b"").decode(), started_at)


class Identities:
    """The identity of the storage's database, and the callers' connections that are to it."""

    def __init__(self) -> None:
        self._own: Identity | None = None
        self._known: WeakSet[PGconn] = WeakSet()

    def knows(self, connection: psycopg.Connection[Any]) -> bool:
        """Whether `check` has passed for the connection before."""
        return connection.pgconn in self._known

    def check(
        self, connection: psycopg.Connection[Any], theirs: Identity, ask_own: Callable[[], Identity | None]
    ) -> bool:
        """Raise InvalidValue if `theirs`, which the connection has answered, is not the storage's database.

        `ask_own` is called for the first connection, and if the server may have been restarted since then.
        Returns False if that has to be asked again before the next call.
        """
        if self._own is None or not theirs.is_of(self._own):
            self._own = ask_own()
        if self._own is None:
            return False
        if not theirs.is_of(self._own):
            raise _another(connection, theirs, self._own)
        if theirs.started_at is None:
            return False  # a standby: it is asked again, since it may be promoted
        self._known.add(connection.pgconn)
        return True


def _another(connection: psycopg.Connection[Any], theirs: Identity, own: Identity) -> InvalidValue:
    if theirs.name != own.name:
        text = f"to the database {theirs.name!r}, but this storage is in {own.name!r}"
    else:
        where = f"{connection.info.host}:{connection.info.port}"
        text = f"to the database {theirs.name!r} on another server ({where}) than this storage's"
    return InvalidValue(f"connection is {text}: bind a connection to the same database")
