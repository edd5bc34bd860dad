"""Connections that the caller owns and has bound."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus

from ...errors import InvalidValue, StorageClosed
from ...frameworks import CallersConnection
from ..sql.binding import cannot_be_bound
from ..sql.binding import commits_itself as refusal


class ThreadConnection(psycopg.Connection[Any]):
    """The connection of a `psycopg.AsyncConnection`, for a thread that uses it while the event loop does not.

    Both share libpq's connection, and so its transaction.
    """

    def __init__(self, owner: psycopg.AsyncConnection[Any]) -> None:
        link = owner.pgconn
        handlers = link.notice_handler, link.notify_handler
        super().__init__(link)
        # The constructor has replaced those of the owner.
        link.notice_handler, link.notify_handler = handlers
        self._owner = owner

    def __del__(self, *_: object) -> None:
        """Unlike the driver's, it does not warn of an open connection: the owner closes it."""

    def follow(self) -> None:
        """Begin a transaction as the owner would now. The owner cannot change these inside one."""
        if self.pgconn.transaction_status == TransactionStatus.IDLE:
            self.autocommit = self._owner.autocommit
            self.isolation_level = self._owner.isolation_level
            self.read_only = self._owner.read_only
            self.deferrable = self._owner.deferrable


def commits_itself(connection: psycopg.Connection[Any]) -> bool:
    """Whether a statement would be committed by itself: in autocommit, outside a transaction."""
    _follow(connection)
    return connection.autocommit and connection.pgconn.transaction_status == TransactionStatus.IDLE


def driver_connection(callers: CallersConnection) -> psycopg.Connection[Any]:
    """Return the driver's connection. Raises InvalidValue for one that cannot be used."""
    connection = callers.driver
    if callers.in_thread and isinstance(connection, psycopg.AsyncConnection):
        connection = ThreadConnection(connection)
    if not isinstance(connection, psycopg.Connection):
        raise cannot_be_bound(callers, psycopg.Connection)
    if connection.closed:
        raise InvalidValue("connection is closed: bind an open connection")
    check_pipeline(connection)
    if (encoding := connection.info.encoding) != "utf-8":
        raise InvalidValue(
            f"connection has the client encoding {encoding} instead of UTF8: "
            "open it with client_encoding=UTF8"
        )
    if callers.needs_transaction and commits_itself(connection):
        raise refusal(callers)
    return connection


def check_bound(callers: CallersConnection, connection: psycopg.Connection[Any]) -> None:
    """Raise StorageClosed if the transaction in which it was bound has ended, and see `check_pipeline`."""
    callers.check()
    check_pipeline(connection)
    _follow(connection)
    if callers.needs_transaction and commits_itself(connection):
        raise StorageClosed("the transaction of the connection has ended")


def check_pipeline(connection: psycopg.Connection[Any]) -> None:
    """Raise InvalidValue if the connection is in pipeline mode, where results come later."""
    if connection.pgconn.pipeline_status != PipelineStatus.OFF:
        raise InvalidValue("connection is in pipeline mode: leave pipeline mode before you call the storage")


def _follow(connection: psycopg.Connection[Any]) -> None:
    if isinstance(connection, ThreadConnection):
        connection.follow()
